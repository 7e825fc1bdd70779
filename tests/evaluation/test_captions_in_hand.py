"""What people have in hand is scored alike, whatever its form; what holds nothing is an error, never 0.0."""

import json

import pytest

from repic_core.captioner.caption_files import CaptionFileError, CaptionRecord, records_of
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.caption_metrics import copied_share, hallucinated_names, measure
from repic_core.evaluation.intervals import compare, mean_interval, score_intervals
from repic_core.evaluation.paper_settings import Setting
from repic_core.evaluation.paper_tables import table_cells
from repic_core.evaluation.preference import prefer
from repic_core.evaluation.questions import answer_questions
from repic_core.evaluation.robustness import probe
from repic_core.evaluation.scores import PROTOCOLS, disagreements, score, score_caption, score_captions
from repic_core.publish.export import evaluation_rows

DATABASE = ConceptDatabase([Concept("<bo>", "Bo", "bo.jpg", "a dog"), Concept("<mia>", "Mia", "mia.jpg")])
ROWS = [
    ["a.jpg", ["<bo>", "<mia>"], "<bo> naps.", "Who?"],
    ["b.jpg", ["<mia>"], "<mia> beside <bo>.", "Who?"],
    ["c.jpg", "<bo>", "A dog."],  # the authors' files have single tags, and rows without a question
]
RECORDS = [
    CaptionRecord("a.jpg", ("<bo>", "<mia>"), "<bo> naps.", "Who?"),
    CaptionRecord("b.jpg", ("<mia>",), "<mia> beside <bo>.", "Who?"),
    CaptionRecord("c.jpg", ("<bo>",), "A dog.", ""),
]
OBJECTS = [dict(zip(("query", "tags", "caption", "question"), row, strict=False)) for row in ROWS]


@pytest.fixture(
    params=["file", "file of objects", "rows", "tuples", "objects", "records", "mixed", "generator"]
)
def in_hand(request, tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(OBJECTS if "objects" in request.param else ROWS))
    return {
        "file": lambda: str(path),
        "file of objects": lambda: path,
        "rows": lambda: ROWS,
        "tuples": lambda: tuple(map(tuple, ROWS)),
        "objects": lambda: OBJECTS,
        "records": lambda: RECORDS,
        "mixed": lambda: [RECORDS[0], OBJECTS[1], ROWS[2]],
        "generator": lambda: (row for row in ROWS),
    }[request.param]


def test_all_forms_are_one(in_hand):
    assert records_of(in_hand()) == RECORDS
    found = score(in_hand(), "span", DATABASE)
    assert (found.correct, found.predicted, found.total) == (2, 3, 4)
    assert score_captions(in_hand()).records == tuple(RECORDS)
    assert score_intervals(in_hand()) == score_intervals(RECORDS)
    assert compare(in_hand(), RECORDS).difference.value == 0
    assert disagreements(in_hand()) == disagreements(RECORDS)
    assert measure(in_hand(), DATABASE) == measure(RECORDS, DATABASE)
    assert hallucinated_names(in_hand()) == [0, 1, 0]
    setting = Setting("mine", [None] * 3, DATABASE, "repic-4", 4)
    cells = table_cells(in_hand(), setting)
    assert cells == table_cells(RECORDS, setting) and cells[0] == "3"


NOTHING = {
    "score": score,
    "score of repic-single": lambda captions: score(captions, "repic-single"),
    "score_captions": score_captions,
    "score_intervals": score_intervals,
    "compare": lambda captions: compare(captions, RECORDS),
    "compare with some": lambda captions: compare(RECORDS, captions),
    "measure": lambda captions: measure(captions, DATABASE),
    "hallucinated_names": hallucinated_names,
    "disagreements": disagreements,
    "table_cells": lambda captions: table_cells(captions, Setting("mine", [], DATABASE, "repic-4", 4)),
}


@pytest.mark.parametrize("ask", NOTHING.values(), ids=NOTHING)
def test_what_holds_nothing_has_no_score(ask, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    for captions in ([], (), iter([])):
        with pytest.raises(
            CaptionFileError, match="the list given: holds no captions, so there is nothing to"
        ):
            ask(captions)
    for path in (tmp_path / "none.json", str(tmp_path / "none.json")):
        with pytest.raises(CaptionFileError, match=r"none\.json: holds no captions"):
            ask(path)
    with pytest.raises(CaptionFileError, match="no caption has tags, so there are no names to look for"):
        ask([CaptionRecord("a.jpg", (), "<bo> naps."), CaptionRecord("b.jpg", (), "")])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_protocol_gives_zero_for_nothing(protocol):
    with pytest.raises(CaptionFileError, match="holds no captions"):
        score([], protocol)


def test_two_empty_files_are_not_equal_ones():
    with pytest.raises(CaptionFileError, match="holds no captions"):
        compare([], [])


def test_other_empty_inputs(tmp_path):
    for ask in (lambda: prefer(None, [], [], tmp_path), lambda: answer_questions(None, [], [])):
        with pytest.raises(ValueError, match="there are no captions to"):
            ask()
    with pytest.raises(ValueError, match="there are no photos to ask about"):
        probe(None, [], DATABASE, tmp_path)
    for values, units in (([], []), ([1.0], []), ([1.0], ["a", "b"])):
        with pytest.raises(ValueError, match=f"a mean of {len(values)} values for {len(units)} captions"):
            mean_interval(values, units)


def test_rows_of_a_card_name_the_empty_file(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(ROWS))
    (tmp_path / "none.json").write_text("[]")
    (row,) = evaluation_rows({"mine": tmp_path / "mine.json"})
    assert row["n"] == "3 of 3 photos" and row["recall"].startswith("50.0 [")
    with pytest.raises(CaptionFileError, match=r"none\.json: holds no captions"):
        evaluation_rows({"mine": tmp_path / "mine.json", "none": tmp_path / "none.json"})


def test_a_photo_of_strangers_among_others():
    """It has no name to find, but every name in its caption is wrong."""
    records = [RECORDS[0], CaptionRecord("s.jpg", (), "<bo> naps.")]
    found = score(records, "span", DATABASE)
    assert (found.correct, found.predicted, found.total) == (1, 2, 2)
    assert score(records, "repic-4").total == 2
    for ask in (
        lambda: score(records, "repic-single"),
        lambda: score_caption(records[1], [], "repic-single"),
    ):
        with pytest.raises(ValueError, match=r"s\.jpg: has no tag, and repic-single looks for the first"):
            ask()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["b.jpg", ["<bo>"]], r"captions, row 2: must be \[query, tags, caption, question\]"),
        ("b.jpg", "row 2: must be"),
        (None, "row 2: must be"),
        (["b.jpg", [], "x"], "row 2, tags: must be a list of tags like <bo>"),
        (["b.jpg", ["<bo>", 3], "x"], "row 2, tags: must be"),
        (["b.jpg", ["<bo>"], None], "row 2, caption: must be text"),
        ([4, ["<bo>"], "x"], "row 2, query: must be text"),
        ({"query": "b.jpg", "caption": "x"}, "row 2, tags: is missing"),
        ({"query": "b.jpg", "tags": ["<bo>"]}, "row 2, caption: is missing"),
        (CaptionRecord("b.jpg", ("<>",), "x"), "row 2, tags: must be"),
        (CaptionRecord("b.jpg", None, "x"), "row 2, tags: must be"),
    ],
)
def test_a_row_that_is_none_is_named(row, message):
    for ask in (score, score_intervals, records_of):
        with pytest.raises(CaptionFileError, match=message):
            ask([ROWS[0], row])


@pytest.mark.parametrize("captions", [None, 3, {"query": "a"}, RECORDS[0]])
def test_what_is_no_list_of_captions(captions):
    with pytest.raises(
        CaptionFileError, match="captions: must be the path of a caption file, or a list of its"
    ):
        score(captions)
    with pytest.raises(CaptionFileError, match="captions, row 1: must be"):
        score(ROWS[0])  # one row instead of a list


def test_one_tag_as_a_text_is_no_list_of_letters():
    record = CaptionRecord("a.jpg", "<bo>", "<bo> naps.")
    assert score([record]).recall == 1.0 and records_of([record])[0].tags == ("<bo>",)


def test_files_that_can_not_be_compared():
    with pytest.raises(ValueError, match=r"the same rows: c\.jpg, <bo> is not in both .* 3 and 2 rows"):
        compare(ROWS, ROWS[:2])
    with pytest.raises(
        ValueError, match=r"the same rows: b\.jpg, <mia> is not in both \(or not equally often"
    ):
        compare([ROWS[0], ROWS[1], ROWS[1]], ROWS[:2])
    with pytest.raises(ValueError, match="score 'F1': use one of precision, recall, f1"):
        compare(ROWS, ROWS, name="F1")


@pytest.mark.parametrize(
    "tags", ['["<bo>", "<mia>"]', "<bo>, <mia>", "<bo><mia>", ["<bo>", " <mia> "], ("<bo>", "<mia>")]
)
def test_tags_as_tables_have_them(tags):
    found = score([["a.jpg", tags, "<bo> naps with Mia.", ""]])
    assert (found.correct, found.total) == (2, 2)


@pytest.mark.parametrize(
    "tags", ["bo,mia", ["<bo>, <mia>"], ["<bo"], ["</bo>"], ["bo>"], "<>", ["<bo><mia>"]]
)
def test_what_is_no_list_of_tags_is_refused(tags):
    with pytest.raises(CaptionFileError, match="row 1, tags: must be a list of tags like <bo>"):
        score([["a.jpg", tags, "<bo> naps.", ""]])


def test_a_row_may_give_a_concepts_name():
    known = [Concept("<ironman>", "Iron Man", "i.png")]
    for tags, caption in ((["<Iron Man>"], "<ironman> flies"), (["<ironman>"], "<Iron Man> flies")):
        found = score([["a.jpg", tags, caption]], database=known, unknown_tags=True)
        assert (found.correct, found.predicted, found.total) == (1, 1, 1)


def test_one_tag_is_not_its_letters():
    assert score_caption(CaptionRecord("a", "<bo>", "<bo> naps"), ["<bo>"]).correct == ("<bo>",)
    assert copied_share("Here is a small brown dog", "a small brown dog") == 4 / 6
