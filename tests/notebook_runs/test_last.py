"""Notebooks 06 and 07: the ablations that were asked for, and the authors' captions."""

import nbformat
import pytest

from helpers.notebooks import FOLDER, results, run
from repic_core.notebooks.runner import find_notebooks

PUBLISHED = "07_published_captions"


@pytest.mark.parametrize("path", find_notebooks(FOLDER), ids=lambda path: path.stem)
def test_nothing_is_printed_between_the_results(run_dir, path):
    """Neither lines of text, nor warnings of libraries."""
    book = nbformat.read(run_dir / "notebooks" / path.name, as_version=4)
    streams = [
        f"{out.name}: {out.text[:300]}"
        for cell in book.cells
        for out in cell.get("outputs", ())
        if out.output_type == "stream"
    ]
    assert streams == []


def test_ablations_are_those_that_were_asked_for(run_dir):
    found = results(run_dir, "06_ablations")
    assert (found["arms"], found["seeds"]) == (["base", "full", "no ICT"], [0])
    assert (found["scenes"], found["photos"]) == (48, 8)
    assert [row["arm"] for row in found["tables"]["short"]] == found["arms"]
    assert {row["seeds"] for row in found["tables"]["short"]} == {1}
    book = nbformat.read(run_dir / "notebooks" / "06_ablations.ipynb", as_version=4)
    said = [
        output.data["text/html"]
        for cell in book.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    assert any("short: 1 seed, " in html for html in said)


def test_without_the_authors_folder_it_says_what_to_give(tmp_path):
    found = run(PUBLISHED, tmp_path)
    assert found["captions"] == "official_root is not given"
    book = nbformat.read(tmp_path / "notebooks" / f"{PUBLISHED}.ipynb", as_version=4)
    texts = [
        output.data.get("text/markdown", "") for cell in book.cells for output in cell.get("outputs", ())
    ]
    assert any("give `official_root`" in text for text in texts)


def test_published_captions_come_with_their_intervals(run_dir, official_root):
    found = results(run_dir, PUBLISHED)
    assert found["captions"]["4 concepts"] == 105 and found["disagreements"] == 10
    scores = {(row["method"], row["protocol"]): row for row in found["scores"]["4"]}
    ours = scores["RePIC 7B", "repic-4"]
    assert [round(100 * ours[name], 1) for name in ("precision", "recall", "f1")] == [88.0, 59.5, 71.0]
    assert round(100 * scores["RePIC 7B", "span"]["f1"], 1) == 85.0
    assert len(scores) == 10
    certain = {row["method"]: row for row in found["certainty"]["4"]}
    assert certain["RePIC 7B"]["p by photo"] == 0.125 and certain["RePIC 7B"]["p by caption"] < 0.001
    assert certain["Qwen2.5-VL 7B zero-shot"]["p by photo"] is None
    beyond = {row["method"]: row for row in found["beyond_recall"]["4"]}
    assert beyond["RePIC 7B"]["hallucinated"] == pytest.approx(79 / 105, abs=1e-3)
    assert [list(row) for row in found["rows"]["4"]] == [
        ["RePIC 7B", "Qwen2.5-VL 7B zero-shot", "RAP-Qwen 7B 260K"]
    ] * 3
    assert found["preference"] == []


def test_a_model_captions_the_figures_photos_too(official_root, tmp_path):
    found = run(
        PUBLISHED, tmp_path, official_root=str(official_root), model_name="assets/toy-base", max_new_tokens=8
    )
    assert [list(row)[-1] for row in found["rows"]["4"]] == ["this run"] * 3
    assert found["examples"] and all(row["this run"] for row in found["examples"])
