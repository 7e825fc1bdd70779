"""Roots and paths of a database: relative ones mean the same for ever, and other systems' spellings are found."""

import json
import os
import warnings

import pytest
from PIL import Image

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with ``rel/database.json`` of <bo>, another photo in ``rel``, and one outside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rel" / "photos").mkdir(parents=True)
    for name in ("rel/photos/bo.png", "rel/photos/mia.png", "outside.png"):
        Image.new("RGB", (8, 8), "red").save(name)
    entries = {"<bo>": {"name": "bo", "image": "photos/bo.png"}}
    (tmp_path / "rel" / "database.json").write_text(json.dumps({"concept_dict": entries}))
    return tmp_path


def images(path):
    return [entry["image"] for entry in json.loads(path.read_text())["concept_dict"].values()]


@pytest.mark.parametrize("given", ["rel/photos/mia.png", "photos/mia.png", "absolute"])
@pytest.mark.parametrize("root", [None, "rel"])
def test_a_photo_under_a_relative_root(here, given, root):
    database = ConceptDatabase.load("rel/database.json", root)
    given = str(here / "rel/photos/mia.png") if given == "absolute" else given
    database.add(Concept(name="mia", image=given))
    os.chdir("/")
    assert all(os.path.isfile(image) for concept in database for image in concept.images)
    assert images(database.save()) == ["photos/bo.png", "photos/mia.png"]
    assert database.path == here / "rel/database.json" and database.root == here / "rel"
    assert [c.image for c in ConceptDatabase.load(here / "rel/database.json")] == [c.image for c in database]


def test_a_new_database_with_a_relative_root_or_none(here):
    for options in ({"root": "rel"}, {}):
        database = ConceptDatabase([Concept(name="bo", image="rel/photos/bo.png")], **options)
        assert images(database.save("rel/new.json")) == ["photos/bo.png"]
    database = ConceptDatabase([Concept(name="bo", image="photos/bo.png")])  # no file yet to be relative to
    assert images(database.save("rel/new.json")) == ["photos/bo.png"]


def test_a_file_under_the_root_comes_before_one_in_the_working_directory(here):
    Image.new("RGB", (8, 8), "blue").save("rel/outside.png")
    database = ConceptDatabase.load("rel/database.json")
    database.add(Concept(name="mia", image="outside.png"))
    assert images(database.save()) == ["photos/bo.png", "outside.png"]
    with Image.open(database["<mia>"].image) as photo:
        assert photo.getpixel((0, 0)) == (0, 0, 255)


def test_what_is_outside_or_missing_is_named_before_anything_is_written(here):
    before = (here / "rel/database.json").read_bytes()
    for image, said in (
        ("outside.png", "outside the root"),
        ("photos/none.png", "there is no image photos/none"),
    ):
        database = ConceptDatabase.load("rel/database.json")
        database.add(Concept(name="mia", image=image))
        with pytest.raises(ConceptError, match=f"<mia>: .*{said}"):
            database.save()
    assert (here / "rel/database.json").read_bytes() == before


@pytest.mark.parametrize("written", ["photos/Zo\u00eb.png", "photos\\Zoe\u0308.png", "photos\\Zo\u00eb.png"])
def test_spellings_of_other_systems(here, written):
    (here / "rel/photos/bo.png").rename(here / "rel/photos/Zoe\u0308.png")
    data = {"concept_dict": {"<x>": {"name": "x", "image": written}}, "path_to_concept": {written: "<x>"}}
    for index in (written, "photos/Zoe\u0308.png", "photos/Zo\u00eb.png"):
        data["path_to_concept"] = {index: "<x>"}
        (here / "rel/database.json").write_text(json.dumps(data))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            database = ConceptDatabase.load("rel/database.json")
    assert database["<x>"].image == str(here / "rel/photos/Zoe\u0308.png")
    assert images(database.save()) == ["photos/Zoe\u0308.png"]


@pytest.mark.parametrize("written", ["..\\outside.png", "photos\\..\\..\\outside.png"])
@pytest.mark.parametrize("check", [True, False])
def test_backslashes_do_not_lead_out_of_the_root(here, written, check):
    data = {"concept_dict": {"<x>": {"name": "x", "image": written}}}
    (here / "rel/database.json").write_text(json.dumps(data))
    with pytest.raises(ConceptError, match=r"entry '<x>': the image .* lies outside"):
        ConceptDatabase.load("rel/database.json", check_images=check)


def test_a_name_that_is_no_unicode(here):
    """A file name in Latin-1, as old archives have it."""
    name = os.fsdecode(b"rel/photos/Zo\xeb.png")
    os.rename("rel/photos/bo.png", name)
    path = ConceptDatabase([Concept(name="zoe", image=name)], root="rel").save("rel/new.json")
    assert ConceptDatabase.load(path)["<zoe>"].image == str(here / name)
    (here / "rel/new.json").write_text(
        json.dumps({"concept_dict": {"<x>": {"name": "x", "image": "\ud83d.png"}}})
    )
    with pytest.raises(ConceptError, match=r"entry '<x>': missing image '\\ud83d\.png'"):
        ConceptDatabase.load(path)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_texts_of_other_systems(here, coding):
    text = (here / "rel/database.json").read_text()
    (here / "rel/database.json").write_bytes(text.encode(coding))
    assert len(ConceptDatabase.load("rel/database.json")) == 1
