"""Finding a visitor's concepts: the given ones and their own, as one index of all would."""

import logging

import numpy as np
import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.finder import Finder
from repic_core.demo.shelf import Shelf
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.find import ConceptIndex, find_concepts
from repic_core.retrieval.regions import tiles

SIDE = 20


class Pixels:
    """An embedder by the mean colour (64 waves of it), which counts what it embeds."""

    name = "mean colour"
    waves = np.random.default_rng(0).normal(0, 1 / 40, (3, 64))

    def __init__(self):
        self.embedded = 0

    def images(self, photos):
        self.embedded += len(photos)
        colors = [np.asarray(photo.convert("RGB"), dtype="float32").mean((0, 1)) for photo in photos]
        return unit(np.cos(np.array(colors, "float32").reshape(-1, 3) @ self.waves).astype("float32"))


def color(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.new("RGB", (SIDE, SIDE), tuple(int(c) for c in rng.integers(0, 255, 3)))


@pytest.fixture
def database(tmp_path):
    concepts = []
    for number in range(12):
        color(number).save(tmp_path / f"{number}.png")
        concepts.append(Concept(f"<toy{number}>", image=str(tmp_path / f"{number}.png")))
    return ConceptDatabase(concepts)


def scene(*numbers: int) -> Image.Image:
    picture = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    for place, number in enumerate(numbers):
        seen = Image.blend(color(number), Image.new("RGB", (SIDE, SIDE), "gray"), 0.03 * (place + 1))
        picture.paste(seen, (place % 2 * SIDE, place // 2 * SIDE))  # no two are equally like their concept
    return picture


def test_finds_what_one_index_of_all_concepts_finds(database, tmp_path):
    given = ConceptDatabase(list(database)[:7])
    shelf = Shelf(tmp_path / "shelf", given)
    for concept in list(database)[7:]:
        shelf.put(concept.image, concept.name, "")
    everything = ConceptIndex.build(shelf.concepts(), Pixels())
    for k in (1, 3, 4, 20):
        find = Finder(given, Pixels(), tiles, k)
        for numbers in ((0, 8, 3, 11), (7, 8, 9, 10), (0, 1, 2, 3)):
            hits = find_concepts(scene(*numbers), everything, Pixels(), tiles, k)
            assert find(scene(*numbers), shelf) == [hit.tag for hit in hits]


def test_own_concepts_hide_given_ones_and_only_changes_are_embedded(database, tmp_path):
    embedder = Pixels()
    find = Finder(database, embedder, tiles, 4)
    shelf = Shelf(tmp_path / "shelf", database)
    assert set(find(scene(0, 1, 2, 3), shelf)) == {"<toy0>", "<toy1>", "<toy2>", "<toy3>"}
    shelf.put(color(50), "toy1", "", edited="<toy1>")  # looks otherwise now
    before = embedder.embedded
    assert "<toy1>" not in find(scene(0, 1, 2, 3), shelf)
    assert find(scene(50, 50, 50, 50), shelf)[0] == "<toy1>"
    assert embedder.embedded - before == 1 + 4 + 4  # the new photo once, the regions of two scenes
    shelf.delete("<toy1>")
    assert "<toy1>" in find(scene(0, 1, 2, 3), shelf)


def test_a_photo_that_vanished_is_left_out(database, tmp_path, caplog):
    shelf = Shelf(tmp_path / "shelf", database)
    shelf.put(color(60), "lost", "")
    next((tmp_path / "shelf" / "photos").iterdir()).unlink()
    with caplog.at_level(logging.WARNING):
        assert "<lost>" not in Finder(database, Pixels(), tiles, 4)(scene(60, 60, 60, 60), shelf)
    assert "<lost>" in caplog.text


def test_without_any_concept_nothing_is_found(tmp_path):
    assert Finder(ConceptDatabase(), Pixels(), tiles)(scene(1, 2), Shelf(tmp_path, ConceptDatabase())) == []
