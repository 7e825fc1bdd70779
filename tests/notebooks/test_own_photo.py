"""A photo of one's own becomes a set of one query that suits the model."""

import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.models.loading import PAPER_MAX_PIXELS
from repic_core.notebooks import Missing
from repic_core.notebooks.own_photo import MOST_REFERENCES, own_photo
from repic_core.toyworld.dataset import SETTINGS


@pytest.fixture
def database(tmp_path):
    names = [f"n{number}" for number in range(9)]
    for name in (*names, "beach"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    concepts = [Concept(name=name, image=f"{name}.png") for name in names]
    return ConceptDatabase(concepts, root=tmp_path).save(tmp_path / "database.json")


def test_one_query_of_the_first_concepts(database, monkeypatch):
    monkeypatch.chdir(database.parent)
    own = own_photo("beach.png", "database.json", label="mine")
    (item,) = own.items("mine")
    assert item.query == database.parent / "beach.png" and len(own.database) == 9
    assert item.shown == [f"<n{number}>" for number in range(MOST_REFERENCES)]
    assert (own.settings.system, own.settings.max_pixels) == ("inference", PAPER_MAX_PIXELS)
    assert own_photo("beach.png", "database.json", model_name="assets/toy-base").settings == SETTINGS


def test_what_is_missing_is_one_sentence(database, monkeypatch):
    monkeypatch.chdir(database.parent)
    for given in (("beach.png", ""), ("", "database.json")):
        with pytest.raises(Missing, match="give both, a photo and the database"):
            own_photo(*given)
    with pytest.raises(Missing, match=r"gone\.png: no such file"):
        own_photo("gone.png", "database.json")
    with pytest.raises(Missing, match="elsewhere: no such file"):
        own_photo("beach.png", "database.json", "elsewhere")
