"""What is known of toy photos beyond names, as rows; of other folders there are none."""

import json

import pytest

from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.intervals import Interval
from repic_core.toyworld import known_truth
from repic_core.toyworld.dataset import write_heldout
from repic_core.toyworld.known_truth import question_rows, task_rows, truth_rows
from repic_core.toyworld.scoring import score_split


@pytest.fixture(scope="module")
def heldout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heldout")
    write_heldout(folder, "test", 2)
    return folder


@pytest.fixture
def files(heldout, tmp_path):
    queries = json.loads((heldout / "queries.json").read_text())["4"]
    rows = [[query["query"], query["shown"], f"{query['shown'][0]}.", "?"] for query in queries]
    (tmp_path / "4.json").write_text(json.dumps(rows))
    return {"4": tmp_path / "4.json"}


def test_what_captions_tell_is_what_score_split_finds(heldout, files):
    (row,) = truth_rows(files, heldout, "mine")
    (whole,) = score_split(files, heldout, "mine")
    assert row.items() <= whole.items() and (row["arm"], row["k"]) == ("mine", "4")
    assert set(whole) - set(row) == {"precision", "recall", "f1", "n"}


def test_questions_have_all_outcomes(heldout, files):
    (row,) = question_rows(files, heldout, ConceptDatabase.load(heldout / "database.json"), "mine")
    shares = [row[name] for name in ("wrong", "not said", "unparsable")]
    assert row["right"].value + sum(shares) == pytest.approx(1) and row["not said"] > 0.5


def test_tasks_are_written_once(heldout, monkeypatch):
    asked, half = [], Interval(0.5, 0.4, 0.6)

    def score_tasks(model, processor, rows, root, **_):
        asked.append(rows)
        return {"oct": half, "vlt_iou": half, "vlt_hit": half, "n": {"yes_no": 3, "iou": 2}}

    monkeypatch.setattr(known_truth, "score_tasks", score_tasks)
    rows = task_rows(None, None, heldout, "mine", 2)
    assert [(row["arm"], row["score"], row["rows"]) for row in rows] == [("mine", half, n) for n in (3, 2, 2)]
    task_rows(None, None, heldout, "mine", 99)
    assert asked[0] == asked[1] and len(asked[0]) == 4


def test_real_photos_have_none(tmp_path):
    assert truth_rows({"4": tmp_path / "4.json"}, tmp_path, "mine") == []
    assert question_rows({"4": tmp_path / "4.json"}, tmp_path, [], "mine") == []
    assert task_rows(None, None, tmp_path, "mine") == []
