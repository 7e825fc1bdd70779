"""`repic notebooks --lab` opens copies: refreshed while nobody has edited them, kept where somebody has."""

import nbformat
import pytest

from repic_core.cli import main
from repic_core.notebooks.lab import copy_notebooks
from repic_core.notebooks.outputs import source_hash


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells]), path)


def edit(path, source):
    book = nbformat.read(path, as_version=4)
    book.cells[0].source = source
    nbformat.write(book, path)


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


@pytest.fixture
def places(tmp_path):
    write(tmp_path / "notebooks" / "01_a.ipynb", "x = 1")
    return tmp_path / "notebooks" / "01_a.ipynb", tmp_path / "lab" / "01_a.ipynb", []


def copy(places):
    path, mine, said = places
    assert copy_notebooks(path.parent, mine.parent, said.append) == [mine]
    return said


def test_a_copy_that_nobody_edited_follows_its_notebook(places):
    path, mine, _ = places
    assert copy(places) == [] and sources(mine) == ["x = 1"]
    write(path, "x = 2")
    assert copy(places) == [] and sources(mine) == ["x = 2"]


def test_edits_are_kept_and_said_once_the_notebook_has_changed(places):
    path, mine, _ = places
    copy(places)
    edit(mine, "x = 1000")
    assert copy(places) == [] and sources(mine) == ["x = 1000"]
    write(path, "x = 2")
    (line,) = copy(places)
    assert f"{mine}: kept with your edits" in line and str(path) in line
    assert sources(mine) == ["x = 1000"]


def test_outputs_are_kept_and_are_no_edit(places):
    path, mine, _ = places
    copy(places)
    book = nbformat.read(mine, as_version=4)
    book.cells[0].outputs = [nbformat.v4.new_output("stream", text="one")]
    nbformat.write(book, mine)
    copy(places)
    assert nbformat.read(mine, as_version=4).cells[0].outputs
    write(path, "x = 2")
    assert copy(places) == [] and sources(mine) == ["x = 2"]


def test_a_copy_of_unknown_origin_is_kept(places):
    """Such as a notebook that somebody wrote there under the same name."""
    _, mine, _ = places
    write(mine, "mine = True")
    (line,) = copy(places)
    assert "kept" in line and sources(mine) == ["mine = True"]


@pytest.mark.parametrize(("user", "more"), [(1000, []), (0, ["--allow-root"])])
def test_lab_opens_the_copies_in_the_checkout(places, tmp_path, monkeypatch, capsys, user, more):
    path, _, _ = places
    opened = []
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr("subprocess.call", lambda command: opened.append(command) or 0)
    monkeypatch.setattr("repic_core.notebooks.lab.kit_root", lambda: tmp_path)
    monkeypatch.setattr("repic_core.notebooks.run_folder.kit_root", lambda: tmp_path)
    before = path.read_bytes()
    assert main(["notebooks", "--lab", "--notebooks", str(path.parent)]) == 0
    assert opened[0][1:] == [
        *("-m", "jupyterlab", f"--ServerApp.root_dir={tmp_path}"),
        "--LabApp.default_url=/lab/tree/runs/lab",
        *more,
    ]
    assert sources(tmp_path / "runs" / "lab" / "01_a.ipynb") == ["x = 1"] and path.read_bytes() == before
    assert str(tmp_path / "runs" / "lab") in capsys.readouterr().out
    monkeypatch.setattr("repic_core.notebooks.lab.find_spec", lambda name: None)
    assert main(["notebooks", "--lab", "--notebooks", str(path.parent)]) == 2
    assert "repic notebooks: JupyterLab is not installed: pip install" in capsys.readouterr().err


def test_the_hash_is_of_sources_alone():
    one = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x = 1")])
    before = source_hash(one)
    assert source_hash(other) != before
    one.cells[0].outputs = [nbformat.v4.new_output("stream", text="1")]
    one.cells[0].metadata["tags"] = ["parameters"]
    assert source_hash(one) == before
