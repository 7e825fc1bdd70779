"""Committed outputs say what a run says now, in the notebooks that cost little."""

import re

import nbformat
import pytest

from helpers.places import ROOT
from repic_core.notebooks.outputs import recorded_source, seen_texts, with_outputs
from repic_core.notebooks.runner import run_notebook

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def said(book):
    """What each code cell says, in text, with its numbers apart: (text, numbers)."""
    cells = []
    for cell in book.cells:
        texts = [text for output in cell.get("outputs", ()) for text in seen_texts(output)]
        text = " ".join(" ".join(texts).split())
        cells.append((NUMBER.sub("0", text), [float(one) for one in NUMBER.findall(text)]))
    return cells


@pytest.mark.parametrize(("name", "own"), [("00_your_photos", False), ("01_data_preparation", True)])
def test_a_fresh_run_says_the_same(name, own, run_dir, tmp_path):
    """The run of all notebooks has other values for `own` of their parameters; these are run once more."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    committed = nbformat.read(path, as_version=4)
    if not recorded_source(committed):
        return  # no outputs are committed yet; test_outputs fails where some notebooks have them and others not
    executed = run_notebook(path, tmp_path, {}) if own else run_dir / "notebooks" / path.name
    fresh = said(with_outputs(path, executed))
    for number, ((text, numbers), (wanted, values)) in enumerate(zip(said(committed), fresh, strict=True)):
        assert text == wanted, f"cell {number}"
        assert numbers == pytest.approx(values, rel=0.02, abs=0.011), f"cell {number}"
    assert sum(len(values) for _, values in fresh) > 20, "nothing was compared"
