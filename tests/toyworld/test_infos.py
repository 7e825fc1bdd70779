"""The experiment on lines of information, small, on the toy base."""

import json

import pytest

from repic_core.models.loading import load_model
from repic_core.toyworld import infos
from repic_core.toyworld.world import GENERIC_INFO, identities


def test_lines_written_by_the_toy_base_are_worth_more_than_none(tmp_path):
    rows = infos.measure_infos(*load_model("assets/toy-base"), tmp_path, "val", scenes=6)
    generic, written, true = rows
    kinds = json.loads((tmp_path / "infos.json").read_text())
    truth = [toy.description for toy in identities("val")]
    assert kinds["true"] == truth and set(kinds["generic"]) == {GENERIC_INFO}
    right = sum(said == is_so for said, is_so in zip(kinds["written"], truth, strict=True)) / len(truth)
    assert written["right"] == pytest.approx(right) and right > 0.5
    assert generic["unique"] == generic["found by text"] == 0 and true["right"] == true["unique"] == 1
    assert generic["located"] < 0.3 < 0.6 < written["located"]
    assert (
        infos.markdown(
            [
                {"line": row["line"]}
                | {k: v for n in infos.SCORES for k, v in ((n, row[n]), (f"{n}_sd", None))}
                for row in rows
            ]
        ).count("\n")
        == 4
    )
