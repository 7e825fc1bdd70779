"""Outputs are cleaned before they are committed, and those that are committed belong to their notebooks."""

import base64
import io

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from helpers.places import ROOT
from repic_core.cli import main
from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.outputs import (
    MAX_BYTES,
    MAX_WIDTH,
    WIDGET,
    clean_outputs,
    output_faults,
    recorded_source,
    small_png,
    source_hash,
    with_outputs,
)
from repic_core.notebooks.runner import find_notebooks

NOTEBOOKS = find_notebooks(ROOT / "notebooks")
RENDERED = any(recorded_source(nbformat.read(path, as_version=4)) for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_belong_to_the_source(path):
    book = nbformat.read(path, as_version=4)
    if not RENDERED:
        assert all(cell.outputs == [] for cell in book.cells if cell.cell_type == "code")
        return
    assert recorded_source(book) == source_hash(book), (
        f"{path.name}: its outputs are of another source; run `repic notebooks --render`"
    )
    assert output_faults(book) == []
    assert "widgets" not in book.metadata
    cleaned = nbformat.from_dict(book)
    clean_outputs(cleaned)
    assert cleaned == book


def test_all_outputs_together_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= MAX_BYTES


def png(width=40, height=30, noise=False):
    image = Image.effect_noise((width, height), 90) if noise else Image.new("RGB", (width, height), "red")
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def shown(**data):
    return new_output("display_data", {kind.replace("_", "/", 1): one for kind, one in data.items()})


def book_of(*outputs, source="1"):
    cell = new_code_cell(source, outputs=list(outputs), execution_count=7)
    return new_notebook(cells=[new_code_cell("0"), cell])


def cleaned(*outputs):
    book = book_of(*outputs)
    clean_outputs(book)
    return book


def test_what_changes_from_run_to_run_is_taken_out():
    result = new_output("execute_result", {"text/plain": "2"}, execution_count=9)
    bar = new_output(
        "stream", name="stderr", text="\r 10%|#  | 1/10 [00:01, 2.0it/s]\r100%|###| 10/10 [00:05, 2it/s]"
    )
    widget = new_output("display_data", {WIDGET: {"model_id": "x"}, "text/plain": "  0%|"})
    book = cleaned(
        bar,
        widget,
        new_output("stream", text=f"saved to {ROOT}/runs/tiny/x in 2.5 s (80 steps)"),
        shown(
            text_html='<style>#T_a1b2c_row0 {x: 0.2s}</style><td id="T_a1b2c_row0">0.4 s</td><i id="T_0ff1c"></i>'
        ),
        result,
    )
    first, second = book.cells
    assert (first.execution_count, second.execution_count) == (1, 2)
    text, html, last = second.outputs
    assert text.text == "saved to runs/tiny/x in … s (80 steps)"
    assert html.data["text/html"] == (
        '<style>#T_0_row0 {x: 0.2s}</style><td id="T_0_row0">… s</td><i id="T_1"></i>'
    )
    assert last.execution_count == 2 and last.data["text/plain"] == "2"
    assert output_faults(book) == []


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "stopped with ValueError: no"),
        (new_output("stream", name="stderr", text="Loaded"), "wrote on stderr: Loaded"),
        (new_output("stream", text="x.py:3: UserWarning: old"), "UserWarning"),
        (new_output("stream", text="trained\n{'loss': '2.9e-08'}"), "a raw dictionary"),
        (new_output("stream", text="see /home/me/photos"), "an absolute path: /home/me"),
        (shown(text_html="<td>/tmp/x</td>"), "an absolute path: /tmp/x"),
        (shown(text_html='<img alt="" src="/tmp/x">'), "an absolute path: /tmp/x"),
        (shown(text_plain="<Thing at 0x7f21a0b3c4d0>"), "an object's address"),
        (shown(text_html="<iframe src='x'></iframe>http://127.0.0.1:7860"), "a local server"),
    ],
)
def test_what_must_not_be_committed_is_named(output, what):
    (fault,) = output_faults(cleaned(output))
    assert fault.startswith("code cell 2 ") and what in fault


def test_text_that_is_no_fault():
    text = "https://arxiv.org/home/x runs/tmp/x 3/var/4 Warning signs at 0x"
    assert output_faults(cleaned(new_output("stream", text=text))) == []


def test_pictures_are_small_and_stay_pictures():
    big = png(2 * MAX_WIDTH, 60, noise=True)
    small = Image.open(io.BytesIO(small_png(big)))
    assert small.size == (MAX_WIDTH, 30) and small.mode == "P"
    assert small_png(small_png(big)) == small_png(big)
    uri = f'<img src="data:image/png;base64,{base64.b64encode(big).decode()}">'
    book = cleaned(shown(text_html=uri), shown(image_png=base64.b64encode(big).decode()))
    in_html, alone = book.cells[1].outputs
    assert len(in_html.data["text/html"]) < len(uri) / 2
    assert base64.b64decode(alone.data["image/png"]) == small_png(big)


def test_outputs_of_a_run_belong_to_the_notebook(tmp_path):
    """Papermill adds a cell with the parameters, which is not in the notebook; the run's folder is not named."""
    path, executed = tmp_path / "01_x.ipynb", tmp_path / "run" / "notebooks" / "01_x.ipynb"
    executed.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=[new_code_cell("a = 1"), new_code_cell("a")]), path)
    ran = nbformat.read(path, as_version=4)
    ran.metadata["papermill"] = {"duration": 3}
    text = f"{tmp_path}/run/data"
    ran.cells[1].outputs = [new_output("execute_result", {"text/plain": text}, execution_count=3)]
    ran.cells.insert(1, new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}))
    nbformat.write(ran, executed)
    book = with_outputs(path, executed)
    assert [cell.source for cell in book.cells] == ["a = 1", "a"]
    (output,) = book.cells[1].outputs
    assert output.execution_count == 2 and output.data["text/plain"] == "runs/tiny/data"
    assert set(book.metadata) == {"kernelspec", "language_info"}
    ran.cells[2].source = "b"
    nbformat.write(ran, executed)
    with pytest.raises(NotebookError, match=r"is not a run of .* as it is now"):
        with_outputs(path, executed)


@pytest.fixture
def notebooks(tmp_path):
    for number, source in ((1, "1 + 1"), (4, WRITE_RESULTS)):
        cells = [new_code_cell('run_dir = ""', metadata={"tags": ["parameters"]}), new_code_cell(source)]
        path = tmp_path / "notebooks" / f"{number:02d}_x.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)
    return tmp_path / "notebooks"


WRITE_RESULTS = "import pathlib; pathlib.Path(run_dir, 'made').mkdir(); 'done'"


def test_render_writes_what_a_fresh_run_shows(notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("repic_core.notebooks.run_folder.kit_root", lambda: tmp_path)
    command = ["notebooks", "--render", "--notebooks", str(notebooks)]
    for _ in range(2):  # the folder of the run is emptied: mkdir works again
        assert main(command) == 0
    books = [nbformat.read(path, as_version=4) for path in sorted(notebooks.glob("*.ipynb"))]
    assert [book.cells[1].outputs[0].data["text/plain"] for book in books] == ["2", "'done'"]
    assert all(recorded_source(book) == source_hash(book) and output_faults(book) == [] for book in books)
    before = {path: path.read_bytes() for path in notebooks.glob("*.ipynb")}
    books[1].cells[1].source += "\n1 / 1; import sys; print('/home/me/x', file=sys.stderr)"
    nbformat.write(books[1], notebooks / "04_x.ipynb")
    before[notebooks / "04_x.ipynb"] = (notebooks / "04_x.ipynb").read_bytes()
    assert main(command) == 2
    assert "04_x.ipynb: code cell 2 wrote on stderr: /home/me/x" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in notebooks.glob("*.ipynb")}
    assert main([*command, "-p", "run_dir", "x"]) == 2
    assert "--render takes the notebooks' own parameters" in capsys.readouterr().err
