"""`open_run`: folders, what is missing in one sentence, notes instead of red text."""

import json
import logging
from pathlib import Path

import pytest

from repic_core.notebooks import Missing, open_run, run_folder


def test_a_run_has_its_folders_and_saves_its_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run("03_inference", "mine")
    assert (run.root, run.folder) == (tmp_path / "mine", tmp_path / "mine" / "03_inference")
    assert run.figures == run.folder / "figures" and run.figures.is_dir()
    assert (run.data, run.models) == (tmp_path / "mine" / "data", tmp_path / "mine" / "models")
    run.results["caption"] = "<bo>"
    run.save()
    assert json.loads((run.folder / "results.json").read_text()) == {"caption": "<bo>"}


@pytest.mark.parametrize("root", ["checkout", None])
def test_without_a_folder_it_is_in_the_checkout_or_here(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "kit_root", lambda: root and tmp_path / root)
    assert open_run("03_inference").root == tmp_path / (root or "") / "runs" / "tiny"


def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run("03_inference", "mine")
    said = f"{tmp_path}/mine/data/test is missing: run notebook 01_data first, or give a path of your own"
    with pytest.raises(Missing) as error:
        run.need("data/test", by="01_data")
    assert str(error.value) == said and error.value._render_traceback_() == [said]
    with pytest.raises(Missing, match=r"run `repic concepts init` first"):
        run.need("x.json", by="`repic concepts init`")
    with pytest.raises(Missing, match=r"^own: no such file or folder \(from "):
        run.need("data/test", by="01_data", given="own")
    (tmp_path / "own").mkdir()
    (run.data / "test").mkdir(parents=True)
    assert run.need("data/test", by="01_data", given="own") == Path("own")
    assert run.need("data/test", by="01_data") == run.data / "test"


def test_a_finished_run_is_kept(tmp_path):
    run = open_run("02_grpo_post_training", tmp_path)
    tuned = run.models / "grpo"
    assert run.free(tuned) == tuned
    tuned.mkdir(parents=True)
    (tuned / "adapter_config.json").write_text("{}")
    with pytest.raises(run_folder.Held, match=r"grpo: holds the result of a run: .*overwrite=True") as error:
        run.free(tuned)
    assert error.value._render_traceback_() == [str(error.value)]
    assert run.free(tuned, overwrite=True) == tuned


KERNEL = """
import logging
from repic_core.notebooks import open_run
run = open_run("03_inference", {folder!r})
open_run("03_inference", {folder!r})
logging.getLogger("repic_core.models.toys").warning("toys only")
import warnings
warnings.warn("`gradient_checkpointing` is deprecated and so on", FutureWarning)
"""


def test_in_a_kernel_there_are_notes_and_no_stack_trace(tmp_path):
    """A note once, nothing on stderr, and IPython shows the one sentence."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    sources = [KERNEL.format(folder=str(tmp_path)), 'run.need("data/test", by="01_data")']
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    with pytest.raises(CellExecutionError):
        NotebookClient(book, kernel_name="python3").execute()
    (note,) = book.cells[0].outputs
    assert note.data["text/markdown"] == "> **Note.** toys only"
    (error,) = book.cells[1].outputs
    assert error.traceback == [error.evalue] and "run notebook 01_data first" in error.evalue


def test_outside_of_a_kernel_nothing_is_changed(tmp_path):
    handlers = list(logging.getLogger("repic_core").handlers)
    open_run("03_inference", tmp_path)
    assert logging.getLogger("repic_core").handlers == handlers
