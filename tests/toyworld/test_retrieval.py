"""Retrieval on the toy world: who is in a database and who is a stranger, and what a threshold does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.models import toys
from repic_core.models.loading import load_model
from repic_core.retrieval.find import ConceptIndex, find_concepts
from repic_core.retrieval.regions import regions_for, tiles, windows
from repic_core.retrieval.verify import Verifier
from repic_core.toyworld import retrieval
from repic_core.toyworld.drawings import identities
from repic_core.toyworld.photos import REFERENCE_SIDE, SCENE_SIDE
from repic_core.toyworld.retrieval import (
    FALSE_ACCEPTS,
    SIZES,
    STRANGERS,
    K,
    caption_found,
    fitted_sureness,
    fitted_threshold,
    measure_retrieval,
    retrieval_table,
    toy_embedder,
    write_retrieval,
    wrong_hits,
)


@pytest.fixture(scope="module")
def toy():
    return load_model("assets/toy-base")


@pytest.fixture(scope="module")
def embedder(untrained):
    return toy_embedder(*untrained)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    write_retrieval(folder, "val", size=30, n=12)
    return folder


def test_a_database_and_its_scenes(folder, tmp_path):
    known = ConceptDatabase.load(folder / "database.json")
    queries = json.loads((folder / "queries.json").read_text())
    assert len(known) == 30 and [len(queries[group]) for group in ("known", "strangers")] == [12, 12]
    for query in queries["known"]:
        assert 1 <= len(query["shown"]) <= K and len(query["boxes"]) == len(query["shown"])
        assert len(known.select(*query["shown"])) == len(set(query["shown"]))
    assert all(tag is None for query in queries["strangers"] for tag in query["shown"])
    again = write_retrieval(tmp_path, "val", size=30, n=12)
    assert [concept.tag for concept in again] == [concept.tag for concept in known]
    assert json.loads((tmp_path / "queries.json").read_text()) == queries
    with pytest.raises(ValueError, match="'train' is not held out"):
        write_retrieval(tmp_path / "no", "train", size=3)


@pytest.mark.parametrize("split", ["val", "test"])
def test_who_is_in_which_photo(tmp_path, monkeypatch, split):
    """Strangers are in no database, distractors in no scene, and the drawings of the known scenes in both."""
    references, scenes = [], []
    plain, draw_scene = np.zeros((48, 48, 3), np.uint8), retrieval.draw_scene
    monkeypatch.setattr(retrieval, "draw_reference", lambda one, rng: references.append(one) or plain)
    monkeypatch.setattr(
        retrieval, "draw_scene", lambda some, rng: scenes.append(some) or draw_scene(some, rng)
    )
    for size in SIZES:
        references.clear(), scenes.clear()
        write_retrieval(tmp_path / str(size), split, size=size, n=30)
        known, strangers = ({x for things in part for x in things} for part in (scenes[:30], scenes[30:]))
        own, train = (set(identities(name)) for name in (split, "train"))
        assert len(set(references)) == len(references) == size
        assert known <= set(references) & own and strangers <= own - set(references)
        distractors = max(0, size - (len(own) - STRANGERS))
        assert len(set(references) & train) == distractors == len(set(references) - own)
        assert distractors > 0 or size <= 100 or split == "test"


def test_windows_cover_a_scene(untrained, monkeypatch):
    from PIL import Image

    scene = Image.new("RGB", (SCENE_SIDE, SCENE_SIDE))
    assert len(windows(scene)) == 25 and windows(scene)[:2] == [(0, 0, 48, 48), (24, 0, 72, 48)]
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in windows(scene)} == {(REFERENCE_SIDE, REFERENCE_SIDE)}
    assert regions_for(untrained[0]) is windows
    monkeypatch.setattr(toys, "TOY_WORDS", 100)  # as if it had learned from more than toys
    assert regions_for(untrained[0]) is tiles


def test_toys_are_found(toy, folder):
    embedder = toy_embedder(*toy)
    found = measure_retrieval(embedder, folder, -1.0)
    assert found["recall@4"] >= 0.85 and found["first"] >= 0.75 and found["concepts"] == 30
    # Without what is around them, drawings are found about as well; there are too few here to tell which is better.
    assert measure_retrieval(embedder, folder, -1.0, known_boxes=True)["recall@4"] >= 0.75


def test_what_a_threshold_lets_through(folder, embedder):
    open_door = measure_retrieval(embedder, folder, -1.0)
    assert open_door["accepted"] == open_door["recall@4"] <= open_door["recall@8"]
    assert (open_door["false_accepts"], open_door["abstained"]) == (1, 0)
    shut = measure_retrieval(embedder, folder, 1.1)
    assert (shut["accepted"], shut["false_accepts"], shut["abstained"]) == (0, 0, 1)
    assert shut["recall@4"] == open_door["recall@4"]


def index_of(folder, embedder):
    return ConceptIndex.build(ConceptDatabase.load(folder / "database.json"), embedder)


def test_wrong_hits_are_what_is_found_and_not_shown(folder, embedder):
    index, database = index_of(folder, embedder), ConceptDatabase.load(folder / "database.json")
    queries = json.loads((folder / "queries.json").read_text())
    hits = []
    for query in queries["known"] + queries["strangers"]:
        found = find_concepts(folder / query["query"], index, embedder, windows, 4, -1.0)
        hits += [hit for hit in found if hit.tag not in query["shown"]]
    wrong = wrong_hits(index, embedder, folder)
    assert [hit for hit, _ in wrong] == hits and len(hits) > 60
    crops = embedder.images([crop for _, crop in wrong])
    concepts = embedder.images([database[hit.tag].images[0] for hit in hits])
    assert (crops * concepts).sum(1) == pytest.approx([hit.similarity for hit in hits], abs=1e-4)


def test_the_fitted_threshold_accepts_that_share_of_wrong_hits(folder, embedder):
    index = index_of(folder, embedder)
    threshold = fitted_threshold(index, embedder, folder)
    similarities = [hit.similarity for hit, _ in wrong_hits(index, embedder, folder)]
    assert sum(one >= threshold for one in similarities) == int(FALSE_ACCEPTS * len(similarities)) > 0


def test_the_fitted_sureness_confirms_that_share_of_wrong_hits(untrained, embedder, tmp_path):
    database = write_retrieval(tmp_path, "val", size=30, n=3)
    wrong = wrong_hits(index_of(tmp_path, embedder), embedder, tmp_path)
    captioner = Captioner(*untrained, system=None, batch_size=16)
    for share in (0.2, 0.5):
        least = fitted_sureness(captioner, embedder, tmp_path, share)
        assert len(Verifier(*untrained, database, least)(wrong)) == int(share * len(wrong)) > 0


def test_the_table_has_a_row_a_size_and_kind_of_region(embedder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = retrieval_table(embedder, "relative", sizes=(5, 20), n=4)
    assert [(row["concepts"], row["regions"]) for row in table] == [
        (5, "windows"),
        (5, "true boxes"),
        (20, "windows"),
        (20, "true boxes"),
    ]
    assert table[0]["threshold"] == table[1]["threshold"]
    assert all(0 <= row[name] <= 1 for row in table for name in ("recall@4", "false_accepts", "abstained"))


def captions(folder, *ways):
    return [json.loads((folder / f"{way}.json").read_text()) for way in ways]


def test_captions_with_given_and_with_retrieved_references(untrained, embedder, folder, tmp_path):
    captioner = Captioner(*untrained, system=None, batch_size=12, max_new_tokens=4)
    found = caption_found(captioner, embedder, folder, tmp_path, threshold=2.0, limit=4)
    assert list(found) == ["given", "retrieved", "accepted", "strangers named"]
    # Without references there are no names.
    assert found["accepted"].value == 0 and found["strangers named"].value == 0
    given, retrieved, accepted = captions(tmp_path, "given", "retrieved", "accepted")
    assert [row[:2] for row in given] == [row[:2] for row in retrieved]
    shown = [query["shown"] for query in json.loads((folder / "queries.json").read_text())["known"]]
    assert [row[1] for row in given] == shown[:4]
    for sureness, same in ((-99.0, retrieved), (99.0, accepted)):  # everything is confirmed, and nothing
        out = tmp_path / str(sureness)
        again = caption_found(captioner, embedder, folder, out, threshold=2.0, limit=4, sureness=sureness)
        assert list(again) == [*found, "verified", "strangers named, verified"]
        assert captions(out, "verified") == [same]


def test_the_base_names_a_single_concept(toy, folder, tmp_path):
    captioner = Captioner(*toy, system=None, batch_size=12, max_new_tokens=64)
    caption_found(captioner, toy_embedder(*toy), folder, tmp_path, threshold=2.0)
    single = [row for row in captions(tmp_path, "given")[0] if len(row[1]) == 1]
    assert single and np.mean([row[1][0] in row[2] for row in single]) >= 0.5


def test_what_is_finished_with_the_same_weights_is_not_measured_again(untrained, tmp_path, monkeypatch):
    measured = []

    def size_rows(model, processor, folder, size, seed):
        measured.append((size, seed))
        folder.mkdir(parents=True, exist_ok=True)
        return [{"regions": regions, "first": seed / 2} for regions in ("windows", "true boxes")]

    monkeypatch.setattr(retrieval, "_size_rows", size_rows)
    monkeypatch.setattr(retrieval, "load_model", lambda *_: untrained)
    retrieval.run("m", tmp_path, seeds=[0], sizes=[5, 20])
    table = retrieval.run("m", tmp_path, seeds=[0, 1], sizes=[5, 20])
    assert measured == [(5, 0), (20, 0), (5, 1), (20, 1)]
    assert [(row["concepts"], row["regions"], row["first"]) for row in table] == [
        (size, regions, 0.25) for size in (5, 20) for regions in ("windows", "true boxes")
    ]
    monkeypatch.setattr(retrieval, "hash_weights", lambda _: "other")
    retrieval.run("m", tmp_path, seeds=[0], sizes=[5])
    assert measured[4:] == [(5, 0)]
