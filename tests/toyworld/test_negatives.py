"""How hard negatives are: the pairs of the three ways, and a table of a few toys."""

from __future__ import annotations

import pytest

from helpers.places import BASE
from repic_core.toyworld import negatives
from repic_core.toyworld.drawings import identities, siblings
from repic_core.toyworld.negatives import SCORES, WAYS, measure_negatives, run


@pytest.fixture
def few(monkeypatch):
    """Eighteen drawings of the split, of the largest subgroups; the last is alone in its own."""
    groups = sorted(siblings("val").values(), key=len, reverse=True)
    drawings = [*[one for group in groups for one in group][:17], groups[-1][0]]
    monkeypatch.setattr(negatives, "identities", lambda split: drawings)
    return drawings


def test_each_way_chooses_its_negatives(few, untrained, tmp_path, monkeypatch):
    asked = []

    def scores(model, processor, rows, *rest):
        asked.append(rows)
        return {"oct": type("Interval", (), {"value": len(rows)})}

    monkeypatch.setattr(negatives, "score_tasks", scores)
    found = measure_negatives(*untrained, tmp_path, "val", 1)
    assert found == {way: dict(zip(SCORES, (36, 18, 18), strict=True)) for way in WAYS}
    yes, no = asked[1::3], asked[2::3]
    assert yes[0] == yes[1] == yes[2] and {row.solution for row in yes[0]} == {"yes"}
    pairs = [[[few[int(image[4:7])] for image in row.images] for row in rows] for rows in no]

    def alike(pairs):
        """How often the two drawings of a pair are of one subgroup."""
        return sum(one.subgroup == two.subgroup for one, two in pairs)

    together = sum(sum(one.subgroup == other.subgroup for other in few) > 1 for one in few)
    assert alike(pairs[0]) < alike(pairs[1]) == together < len(few)
    near = pairs[2]
    assert all(one != two for one, two in near) and len({two for _, two in near}) > 4
    assert near != pairs[0] and near != pairs[1]
    assert set(few) <= set(identities("val"))


def test_the_table(few, tmp_path):
    lines = run(BASE, tmp_path, "val", seeds=(0,)).splitlines()
    assert lines[0] == "| negatives | all pairs | yes pairs | no pairs |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {way}" for way in WAYS]
    accuracy = [float(line.split(" | ")[1]) for line in lines[2:]]
    assert min(accuracy[:2]) >= 75 and accuracy[2] <= max(accuracy[:2])
