"""Notebooks 03 and 05: captions, concepts of one's own, the pages; what is missing is said."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from helpers.notebooks import results, run
from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.results import EVALUATION
from repic_core.toyworld.scoring import TAG


@pytest.fixture
def test_split(run_dir, tmp_path) -> Path:
    """A run's folder with nothing but the held-out photos."""
    shutil.copytree(run_dir / "data" / "test", tmp_path / "data" / "test")
    return tmp_path


def test_inference_names_a_single_concept(run_dir):
    found = results(run_dir, "03_inference")
    assert found["caption"] and found["streamed"] == found["caption"]
    assert list(found["rows"][0]) == ["before", "after"]
    assert all(len(set(TAG.findall(caption))) == 1 for caption in found["rows"][0].values())
    assert (run_dir / "03_inference" / "figures" / "captions.pdf").stat().st_size > 5000


def test_a_growing_caption_is_one_output(run_dir):
    book = nbformat.read(run_dir / "notebooks" / "03_inference.ipynb", as_version=4)
    (cell,) = [cell for cell in book.cells if "show_growing(" in cell.source]
    (output,) = cell.outputs
    assert results(run_dir, "03_inference")["caption"] in output.data["text/plain"]


def test_concepts_are_retrieved_from_the_own_database(run_dir, tmp_path):
    """Notebook 03 on a photo of one's own, with every parameter: it needs no other notebook's files."""
    from repic_core.concepts.database import ConceptDatabase

    whole = ConceptDatabase.load(run_dir / "data" / "test" / "database.json")
    assert results(run_dir, "03_inference")["retrieved"]["concepts"] == len(whole)
    own = ConceptDatabase(list(whole)[:9], root=whole.root)
    own.save(tmp_path / "own.json", whole.root)
    query = json.loads((whole.path.parent / "queries.json").read_text())["2 all"][0]["query"]
    found = run(
        "03_inference",
        tmp_path / "run",
        photo=str(whole.path.parent / query),
        database=str(tmp_path / "own.json"),
        root=str(whole.root),
        question="Who is this?",
        query_set="mine",
        max_new_tokens=3,
        top_k=2,
        windows_across=1,
        adapter="",
        base_name="",
    )
    assert (found["question"], found["adapter"], found["model"]) == ("Who is this?", "", "assets/toy-base")
    assert found["retrieved"]["concepts"] == 9 and len(found["retrieved"]["tags"]) == 2
    assert len(found["caption"]) < len(results(run_dir, "03_inference")["caption"])
    assert [list(row) for row in found["rows"]] == [["after"]]
    mine = ConceptDatabase.load(tmp_path / "run" / "03_inference" / "concepts" / "database.json")
    assert [concept.tag for concept in mine] == [concept.tag for concept in own][:7]


def test_a_photo_without_a_database_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="give both, a photo and the database of its concepts"):
        run("03_inference", tmp_path, photo="beach.jpg")


@pytest.mark.parametrize("name", ["03_inference", EVALUATION, "05_four_concept_gradio"])
def test_out_of_order_each_says_what_is_missing(tmp_path, name):
    with pytest.raises(NotebookError, match=r"data/test is missing: run notebook 01_data_preparation first"):
        run(name, tmp_path)


def test_the_viewer_says_what_makes_its_captions(test_split):
    with pytest.raises(NotebookError, match=r"4_all\.json is missing: run notebook 04_evaluation first"):
        run("05_four_concept_gradio", test_split)


def test_both_pages_answer(run_dir):
    found = results(run_dir, "05_four_concept_gradio")
    assert found["viewer_row"] == "row 2" and found["live_steps"] > 2
    assert found["own"] == [True, True] and found["reused"] == [False, True]
    assert found["found"]


def test_the_pages_take_what_is_given(run_dir, tmp_path):
    for part in ("data/test", "captions"):
        shutil.copytree(run_dir / part, tmp_path / part)
    given = {"adapter": "", "base_name": "", "query_set": "2 all", "max_new_tokens": 2, "keep_open": False}
    found = run("05_four_concept_gradio", tmp_path, **given)
    assert found["live_steps"] < results(run_dir, "05_four_concept_gradio")["live_steps"]
    assert "published_methods" not in found
