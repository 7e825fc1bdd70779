"""Retrieval as published: upstream's arithmetic, stated again here, on random vectors; YOLO-World on a stub."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers.yolo import install
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.extras import MissingExtra
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.find import ConceptIndex, find_concepts
from repic_core.retrieval.yolo_world import YoloWorld


def upstream_order(queries, photos, top_k):
    """Row numbers of `photos` as upstream's ``retrieve`` orders them: squared distances of the `top_k` nearest of
    each query, flattened, sorted; a photo that was taken is passed over."""
    distances = ((queries[:, None] - photos[None]) ** 2).sum(-1)
    nearest = np.argsort(distances, 1)[:, :top_k]
    flat = [(distances[q, n], n) for q, row in enumerate(nearest) for n in row]
    taken = []
    for _, number in sorted(flat):
        if len(taken) == top_k:
            break
        if number not in taken:
            taken.append(number)
    return taken


class Given:
    """An embedder that knows the vector of each region by its left edge (the first pixel's red)."""

    name = "given"

    def __init__(self, vectors):
        self.vectors = vectors

    def images(self, photos):
        return unit([self.vectors[np.asarray(photo)[0, 0, 0]] for photo in photos])


@pytest.mark.parametrize("top_k", [1, 2, 4, 7])
def test_the_order_is_upstreams(top_k):
    differs = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, top_k])
        photos, queries = unit(rng.normal(size=(12, 5))), unit(rng.normal(size=(1 + seed % 6, 5)))
        index = ConceptIndex("given")
        index.add_many([f"<c{n}>" for n in range(12)], photos)
        pixels = np.repeat(np.arange(len(queries), dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
        photo = Image.fromarray(pixels)
        boxes = [(n, 0, n + 1, 4) for n in range(len(queries))]
        arguments = (photo, index, Given(queries), lambda _, b=boxes: b, top_k)
        found = [hit.tag for hit in find_concepts(*arguments, published=True)]
        assert found == [f"<c{n}>" for n in upstream_order(queries, photos, top_k)]
        differs += found != [hit.tag for hit in find_concepts(*arguments)]
    assert (differs > 0) == (top_k > 1)


def test_nothing_detected_is_nobody_found():
    index = ConceptIndex("given")
    index.add("<bo>", [[1.0, 0.0]])
    photo, embedder = Image.new("RGB", (8, 8)), Given([[1.0, 0.0]])
    for boxes in ([], [(3, 3, 3, 8)]):
        assert find_concepts(photo, index, embedder, lambda _, b=boxes: b, published=True) == []
        assert find_concepts(photo, index, embedder, lambda _, b=boxes: b)[0].tag == "<bo>"


@pytest.fixture
def ultralytics(monkeypatch):
    return install(monkeypatch)


def test_yolo_world_is_asked_for_the_categories(ultralytics, tmp_path):
    weights, photo = tmp_path / "yolov8x-worldv2.pt", Image.new("RGB", (100, 60))
    weights.write_bytes(b"weights")
    detector = YoloWorld(weights, ["dog", "cat", "", "dog"], device="cpu")
    assert (ultralytics.weights, ultralytics.classes) == (str(weights), ["cat", "dog"])
    assert detector(photo) == []
    ultralytics.boxes = [[10.4, 5.6, 50.5, 40.2], [-3.0, 0.0, 104.0, 60.0]]
    assert detector(photo) == [(10, 6, 50, 40), (0, 0, 100, 60)]
    options = {"source": photo, "conf": 0.1, "save": False, "verbose": False, "device": "cpu"}
    assert ultralytics.options == options
    # PIL, which upstream gives its fractions to, cuts the same pixels.
    assert photo.crop([10.4, 5.6, 50.5, 40.2]).size == photo.crop(detector(photo)[0]).size


def test_what_yolo_world_needs_is_named(ultralytics, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"gone\.pt: no such file: take yolov8x-worldv2\.pt from github"):
        YoloWorld(tmp_path / "gone.pt", ["dog"])
    (tmp_path / "here.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="give the concepts a category"):
        YoloWorld(tmp_path / "here.pt", ["", ""])
    assert ultralytics.weights is None
    for missing, message in (
        ("ultralytics", "--with yolo-world"),
        ("clip", r"git\+https://github\.com/ultr"),
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, gone=missing: name != gone or None)
        with pytest.raises(MissingExtra, match=message):
            YoloWorld(tmp_path / "here.pt", ["dog"])


def test_a_concept_of_several_photos_is_found_once():
    """Upstream passes over paths, so that two photos of one concept may both enter; a concept is one here."""
    index = ConceptIndex("given")
    index.add_many(["<bo>", "<bo>", "<mia>"], [[1.0, 0.0], [0.99, 0.1], [0.5, 0.5]])
    photo = Image.new("RGB", (8, 8))
    found = find_concepts(photo, index, Given([[1.0, 0.0]]), k=2, published=True)
    assert [hit.tag for hit in found] == ["<bo>", "<mia>"]


def test_the_database_of_the_authors_has_a_photo_a_concept(official_root):
    """So that passing over paths and passing over concepts are the same there."""
    for name in ("database_dreambooth", "database_4_concepts"):
        path = official_root / "data/database_tot" / name / "database_mod.json"
        known = ConceptDatabase.load(path, root=official_root)
        assert all(isinstance(concept, Concept) and len(concept.images) == 1 for concept in known)
