"""Changed prompts: what changes, what stays, and how the toy models react."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.places import ROOT
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.robustness import probe, shuffled, with_wrong_references, without_photos
from repic_core.models.loading import load_model
from repic_core.prompts import caption_messages
from repic_core.toyworld.dataset import write_heldout

CONCEPTS = [Concept(f"<c{i}>", image=f"{i}.png", info=f"toy {i}") for i in range(8)]


def item(references, tags=None):
    return CaptionItem("q.png", [CONCEPTS[i] for i in references], tags=tags)


@given(st.sets(st.integers(0, 7), min_size=1, max_size=4), st.integers(0, 4), st.integers(0, 3))
def test_wrong_references_are_added_and_what_is_shown_stays(references, count, seed):
    one = item(sorted(references))
    (changed,) = with_wrong_references([one], CONCEPTS, count, seed)
    tags = [concept.tag for concept in changed.references]
    assert len(tags) == len(set(tags)) == len(references) + count
    assert set(changed.tags) == {concept.tag for concept in one.references} <= set(tags)
    assert with_wrong_references([one], CONCEPTS, count, seed) == [changed]


def test_a_shown_concept_is_never_a_wrong_reference():
    for seed in range(20):
        (changed,) = with_wrong_references([item([0], tags=["<c0>", "<C1>"])], CONCEPTS[:3], 1, seed)
        assert {concept.tag for concept in changed.references} == {"<c0>", "<c2>"}
    with pytest.raises(ValueError, match="1 other concepts are too few for 2"):
        with_wrong_references([item([0, 1])], CONCEPTS[:3], 2)


def test_wrong_references_come_at_all_places():
    found = with_wrong_references([item([0])] * 60, CONCEPTS, 2)
    places = Counter([c.tag for c in one.references].index("<c0>") for one in found)
    assert set(places) == {0, 1, 2} and min(places.values()) > 8


@given(st.integers(1, 5), st.integers(0, 9))
def test_shuffled_is_another_order_of_the_same(count, seed):
    one = item(range(count))
    (changed,) = shuffled([one], seed)
    assert sorted(c.tag for c in changed.references) == [c.tag for c in one.references]
    assert (changed.references == one.references) == (count == 1)
    assert changed.tags == [c.tag for c in one.references]


def test_without_photos_only_the_query_is_seen():
    (changed,) = without_photos([item([0, 1])])
    asked = [caption_messages("q.png", changed.references, reference_photos=flag) for flag in (True, False)]
    kinds = [Counter(block["type"] for block in messages[-1]["content"]) for messages in asked]
    assert kinds == [{"image": 3, "text": 3}, {"image": 1, "text": 3}]
    texts = [[block["text"] for block in m[-1]["content"] if block["type"] == "text"] for m in asked]
    assert texts[0] == texts[1] and not changed.reference_photos


def test_probe_of_the_toy_base(tmp_path):
    """It names a single concept by its photo, so not when there is a name without a photo."""
    write_heldout(tmp_path, "val", 12)
    database = ConceptDatabase.load(tmp_path / "database.json")
    queries = json.loads((tmp_path / "queries.json").read_text())["1"]
    items = [
        CaptionItem(
            tmp_path / q["query"], database.select(*q["references"]), tags=q["shown"], label=q["query"]
        )
        for q in queries
    ]
    toy = ROOT / "assets" / "toy-base"
    captioner = Captioner(*load_model(toy), system=None, max_new_tokens=64, batch_size=12)
    found = probe(captioner, items, database, tmp_path / "probes", wrong=1)
    assert list(found) == ["as asked", "shuffled", "1 wrong", "no photos"]
    assert found["as asked"].value == found["shuffled"].value > 0.9
    assert found["no photos"].value < 0.5
    rows = json.loads((tmp_path / "probes" / "1_wrong.json").read_text())
    assert [row[1] for row in rows] == [q["shown"] for q in queries]
    assert probe(captioner, items, database, tmp_path / "probes", wrong=1) == found  # from the files
    with pytest.raises(ValueError, match="row 1: made with a different photo, reference, info or question"):
        captioner.caption_many(items, out=tmp_path / "probes" / "no_photos.json")
