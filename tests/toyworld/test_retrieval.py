"""Retrieval on the toy world: who is in a database and who is a stranger, and what a threshold does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.images import open_image
from repic_core.retrieval.find import ConceptIndex
from repic_core.retrieval.regions import tiles
from repic_core.retrieval.verify import Verifier
from repic_core.toyworld.draw import PLACES
from repic_core.toyworld.retrieval import (
    STRANGERS,
    caption_found,
    fitted_sureness,
    fitted_threshold,
    measure_retrieval,
    retrieval_table,
    toy_embedder,
    write_retrieval,
)
from repic_core.toyworld.world import identities


@pytest.fixture(scope="module")
def toy():
    from repic_core.models.loading import load_model

    return load_model("assets/toy-base")


@pytest.fixture(scope="module")
def embedder(toy):
    return toy_embedder(*toy)


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
        assert 1 <= len(query["shown"]) <= 4 and len(query["boxes"]) == len(query["shown"])
        assert len(known.select(*query["shown"].values())) == len(set(query["shown"].values()))
    assert all(tag is None for query in queries["strangers"] for tag in query["shown"].values())
    again = write_retrieval(tmp_path, "val", size=30, n=12)
    assert [concept.tag for concept in again] == [concept.tag for concept in known]
    assert json.loads((tmp_path / "queries.json").read_text()) == queries
    total = sum(len(identities(split)) for split in ("train", "val", "test"))
    assert len(write_retrieval(tmp_path / "all", "test", size=1000, n=1)) == total - STRANGERS == 580
    with pytest.raises(ValueError, match="'train' is not held out"):
        write_retrieval(tmp_path / "no", "train", size=3)


def test_strangers_are_in_no_database(folder, tmp_path, embedder, monkeypatch):
    """What is drawn as a stranger is never drawn as a reference, and the toys of the known scenes all are."""
    from repic_core.toyworld import retrieval

    references, scenes = [], []
    one, many = retrieval.draw_reference, retrieval.draw_scene
    monkeypatch.setattr(retrieval, "draw_reference", lambda toy, rng: references.append(toy) or one(toy, rng))
    monkeypatch.setattr(retrieval, "draw_scene", lambda toys, rng: scenes.append(toys) or many(toys, rng))
    write_retrieval(tmp_path, "test", size=580, n=30)
    known, strangers = ({toy for toys in part for toy in toys} for part in (scenes[:30], scenes[30:]))
    assert known <= set(references) and not strangers & set(references) and len(set(references)) == 580
    assert known | strangers <= set(identities("test"))


def test_what_a_threshold_lets_through(folder, embedder):
    open_door = measure_retrieval(embedder, folder, -1.0)
    assert open_door["recall@4"] >= 0.85 and open_door["first"] >= 0.75 and open_door["concepts"] == 30
    assert open_door["accepted"] == open_door["recall@4"] <= open_door["recall@8"]
    assert (open_door["false_accepts"], open_door["abstained"]) == (1, 0)
    shut = measure_retrieval(embedder, folder, 1.1)
    assert (shut["accepted"], shut["false_accepts"], shut["abstained"]) == (0, 0, 1)
    assert shut["recall@4"] == open_door["recall@4"]
    boxes = measure_retrieval(embedder, folder, -1.0, known_boxes=True)
    assert boxes["recall@4"] >= open_door["recall@4"]

    index = ConceptIndex.build(ConceptDatabase.load(folder / "database.json"), embedder)
    threshold = fitted_threshold(index, embedder, folder)
    # On the same scenes, so that the share is met by construction.
    fitted = measure_retrieval(embedder, folder, threshold)
    queries = json.loads((folder / "queries.json").read_text())
    quarters = 4 * (len(queries["known"]) + len(queries["strangers"]))
    assert 0 < threshold < 1 and fitted["false_accepts"] * 4 * 12 <= 0.05 * quarters


def test_the_fitted_sureness_confirms_that_share_of_wrong_hits(toy, embedder, tmp_path):
    """Counted again over the same quarters."""
    write_retrieval(tmp_path, "val", size=30, n=4)
    captioner = Captioner(*toy, system=None, batch_size=16)
    database = ConceptDatabase.load(tmp_path / "database.json")
    index, wrong = ConceptIndex.build(database, embedder), []
    queries = json.loads((tmp_path / "queries.json").read_text())
    for query in queries["known"] + queries["strangers"]:
        scene = open_image(tmp_path / query["query"])
        for place, box in zip(PLACES, tiles(scene), strict=True):
            ((hit,),) = index.search(embedder.images([scene.crop(box)]), 1, -1.0)
            if query["shown"].get(place) != hit.tag:
                wrong.append((hit, scene.crop(box)))
    assert len(wrong) >= 10
    for share in (0.2, 0.5):
        least = fitted_sureness(captioner, embedder, tmp_path, share)
        kept = Verifier(*toy, database, least)(wrong)
        assert len(kept) == int(share * len(wrong))


def test_the_table_has_a_row_a_size_and_kind_of_region(embedder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = retrieval_table(embedder, "relative", sizes=(5, 20), n=6)
    assert [(row["concepts"], row["regions"]) for row in table] == [
        (5, "quarters"),
        (5, "true boxes"),
        (20, "quarters"),
        (20, "true boxes"),
    ]
    assert table[0]["threshold"] == table[1]["threshold"]
    assert all(0 <= row[name] <= 1 for row in table for name in ("recall@4", "false_accepts", "abstained"))


def test_captions_with_given_and_with_retrieved_references(toy, embedder, folder, tmp_path):
    captioner = Captioner(*toy, system=None, batch_size=12, max_new_tokens=64)
    found = caption_found(captioner, embedder, folder, tmp_path, threshold=2.0, limit=6)
    assert list(found) == ["given", "retrieved", "accepted", "strangers named"]
    # Without references there are no names.
    assert found["accepted"].value == 0 and found["strangers named"].value == 0
    ways = {}
    for sureness in (-99.0, 99.0):
        again = caption_found(
            captioner, embedder, folder, tmp_path / str(sureness), threshold=2.0, limit=6, sureness=sureness
        )
        assert list(again) == [*found, "verified", "strangers named, verified"]
        ways[sureness] = again
    assert ways[-99.0]["verified"].value == found["retrieved"].value  # everything is confirmed
    assert ways[99.0]["verified"].value == ways[99.0]["strangers named, verified"].value == 0
    rows = {way: json.loads((tmp_path / f"{way}.json").read_text()) for way in ("given", "retrieved")}
    assert [row[:2] for row in rows["given"]] == [row[:2] for row in rows["retrieved"]]
    shown = [list(q["shown"].values()) for q in json.loads((folder / "queries.json").read_text())["known"]]
    assert [row[1] for row in rows["given"]] == shown[:6]
    single = [row for row in rows["given"] if len(row[1]) == 1]
    assert single and np.mean([row[1][0] in row[2] for row in single]) >= 0.5  # the base names a single one
