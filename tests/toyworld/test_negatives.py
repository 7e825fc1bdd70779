"""How hard negatives are: the pairs of the three ways, and a table of a few toys."""

from __future__ import annotations

import pytest

from helpers.places import BASE
from repic_core.models.loading import load_model
from repic_core.toyworld import negatives
from repic_core.toyworld.negatives import SCORES, WAYS, measure_negatives, run
from repic_core.toyworld.world import identities


@pytest.fixture
def few(monkeypatch):
    """Eighteen toys of the split, of which several share a shape."""
    toys = sorted(identities("val"), key=lambda toy: toy.shape)[:18]
    monkeypatch.setattr(negatives, "identities", lambda split: toys)
    return toys


def test_each_way_chooses_its_negatives(few, tmp_path, monkeypatch):
    asked = []

    def scores(model, processor, rows, *rest):
        asked.append(rows)
        return {"oct": type("Interval", (), {"value": len(rows)})}

    monkeypatch.setattr(negatives, "score_tasks", scores)
    found = measure_negatives(*load_model(BASE), tmp_path, "val", 1)
    assert found == {way: dict(zip(SCORES, (36, 18, 18), strict=True)) for way in WAYS}
    yes, no = asked[1::3], asked[2::3]
    assert yes[0] == yes[1] == yes[2] and {row.solution for row in yes[0]} == {"yes"}

    def alike(rows):
        """How many attributes the two toys of a pair share, on average."""
        pairs = [[few[int(image[4:7])] for image in row.images] for row in rows]
        return sum(
            (a.shape == b.shape) + (a.color == b.color) + (a.pattern == b.pattern) for a, b in pairs
        ) / len(rows)

    shapes = [[few[int(image[4:7])].shape for image in row.images] for row in no[1]]
    assert sum(one == two for one, two in shapes) >= 16  # where the shape has another toy
    assert alike(no[0]) < alike(no[1]) and alike(no[0]) < alike(no[2])


def test_the_table(few, tmp_path):
    lines = run(BASE, tmp_path, "val", seeds=(0,)).splitlines()
    assert lines[0] == "| negatives | all pairs | yes pairs | no pairs |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {way}" for way in WAYS]
    accuracy = [float(line.split(" | ")[1]) for line in lines[2:]]
    assert min(accuracy[:2]) >= 90 and accuracy[2] <= max(accuracy[:2])
