"""The authors' captions as notebook 07 shows them, against single calls and by hand."""

import json

import pytest

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.caption_metrics import measure
from repic_core.evaluation.disagreement_cards import disagreement_cards
from repic_core.evaluation.intervals import compare, score_intervals
from repic_core.evaluation.published import OURS, ZERO_SHOT
from repic_core.evaluation.published_captions import published_captions, with_model
from repic_core.evaluation.scores import score_caption


@pytest.fixture(scope="module")
def published(official_root):
    return published_captions(official_root)[4]


def test_without_a_folder_there_are_none(tmp_path):
    assert published_captions("") == {}
    with pytest.raises(FileNotFoundError, match=r"quad_concept: no caption files"):
        published_captions(tmp_path)


def test_scores_are_those_of_single_calls(published):
    rows = {(row["method"], row["protocol"]): row for row in published.scores("caption")}
    assert len(rows) == 2 * len(published.captions) == 10
    for protocol in ("repic-4", "span"):
        row = dict(rows[OURS, protocol])
        del row["method"], row["protocol"]
        assert row == score_intervals(published.captions[OURS], protocol, published.database, "caption")


def test_certainty_is_that_of_single_calls(published):
    (untuned,) = [row for row in published.certainty() if row["method"] == ZERO_SHOT]
    assert untuned["p by photo"] is untuned["p by caption"] is None
    (ours,) = [row for row in published.certainty() if row["method"] == OURS]
    pair = published.captions[ZERO_SHOT], published.captions[OURS]
    assert ours["p by photo"] == compare(*pair, "span", published.database).p == 0.125
    assert str(ours["F1 by caption"]).startswith("85.0 [81.")


def test_beyond_recall_is_that_of_single_calls(published):
    row = published.beyond_recall()[0]
    assert row.pop("method") == OURS
    assert row == measure(published.captions[OURS], published.database, "caption")
    assert str(row["words"]).startswith("54.6 [") and str(row["copied"]).startswith("4.2 [")


def test_rows_are_of_the_methods_asked_for(published):
    rows = published.rows((40, 9999), (OURS,))
    assert [list(row.captions) for row in rows] == [[OURS]]
    assert rows[0].captions[OURS] == published.captions[OURS][40].caption
    assert with_model(rows, None) == rows

    class Said:
        def caption(self, query, references, question):
            return f"{len(references)} {question}"

    ((ours, mine),) = [row.captions.values() for row in with_model(rows, Said())]
    assert ours == rows[0].captions[OURS] and mine == f"4 {published.captions[OURS][40].question}"


def test_two_concepts_are_read_where_they_are(official_root, tmp_path):
    import shutil

    for part in ("data/database_tot/database_4_concepts", "captioning/quad_concept"):
        shutil.copytree(official_root / part, tmp_path / part)
    shutil.copytree(
        tmp_path / "data/database_tot/database_4_concepts", tmp_path / "data/database_tot/database_2_concepts"
    )
    (tmp_path / "captioning/double_concept").mkdir()
    rows = [
        ["a.jpg", ["<thor>", "<ironman>"], "<thor> with Ironman.", "?"],  # another case, which is not found
        ["b.jpg", ["<hulk>", "<hawkeye>"], "<hulk> and <thor>.", "?"],  # a miss
    ]
    file = tmp_path / "captioning/double_concept/captioning-skip-retrieval-ours.json"
    file.write_text(json.dumps(rows))
    two = published_captions(tmp_path)[2]
    shown = {
        row["protocol"]: [round(100 * row[n].value, 1) for n in ("precision", "recall", "f1")]
        for row in two.scores()
    }
    assert shown == {"repic-2": [66.7, 50.0, 57.1], "span": [75.0, 75.0, 75.0]}
    assert [row["p by photo"] for row in two.certainty()] == [None]  # there are none of the untuned model
    assert "210K" in two.note


def test_disagreements_are_cards_with_what_each_protocol_finds(tmp_path):
    mia = Concept(name="Mia Rose", tag="<rosie>", image="m.png")
    database = ConceptDatabase([mia, Concept(name="bo", image="b.png")])
    record = CaptionRecord("gone.jpg", ("<rosie>",), "Mia Rose's <script> and bo.")
    found = (record, score_caption(record, ["<rosie>", "<bo>"], "repic-4"), score_caption(record, database))
    cards = disagreement_cards([found], database, tmp_path, ("repic-4", "span"))
    assert "<script>" not in cards.html and "gone.jpg is missing" in cards.html
    assert '">Mia Rose</span>' in cards.html and '<del title="not in the photo">bo</del>' in cards.html
    assert (
        "  repic-4: right –; missed <rosie>; wrong <bo>\n  span: right <rosie>; missed –; wrong <bo>, <script>"
        in cards.text
    )
    assert "object at 0x" not in cards.html and "CaptionScore" not in cards.html
