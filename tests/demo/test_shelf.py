"""A visitor's shelf: whole after each change, apart from everybody else's, out and in again as a zip."""

import io
import json
import os
import threading
import time
import zipfile
from functools import cache

import pytest
from PIL import Image

from helpers.hostile import encoded, hostile, zipped
from helpers.writers import together
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.shelf import INFO_LENGTH, MOST_CONCEPTS, Shelf, Shelves
from repic_core.io.uploads import UploadError, open_upload

PHOTO = Image.effect_noise((80, 60), 90).convert("RGB")
RED = Image.new("RGB", (40, 40), "red")


@pytest.fixture
def given(tmp_path):
    PHOTO.save(tmp_path / "mia.png")
    return ConceptDatabase([Concept("<mia>", "Mia Rose", str(tmp_path / "mia.png"), "a woman", "person")])


@pytest.fixture
def shelf(tmp_path, given):
    return Shelf(tmp_path / "shelf", given)


def photos(shelf):
    return sorted(path.name for path in (shelf.folder / "photos").glob("*"))


def tags(database):
    return [concept.tag for concept in database]


def test_add_edit_rename_delete(shelf):
    shelf.put(RED, " <bo> ", "a dog")
    shelf.put(PHOTO, "Zoe", "")
    assert tags(shelf.own) == ["<bo>", "<Zoe>"] and tags(shelf.concepts()) == ["<bo>", "<Zoe>", "<mia>"]
    before = photos(shelf)
    shelf.put(None, "bo", "an old dog", edited="<bo>")  # its photo stays
    assert (shelf.own["<bo>"].info, photos(shelf)) == ("an old dog", before)
    shelf.put(None, "Bo the First", "an old dog", edited="<bo>")
    assert tags(shelf.own) == ["<Bo the First>", "<Zoe>"]  # its place stays
    shelf.put(PHOTO, "Bo the First", "an old dog", edited="<Bo the First>")
    assert len(photos(shelf)) == 1  # the red photo is gone, the other is both concepts'
    shelf.delete("<Zoe>")
    assert tags(shelf.own) == ["<Bo the First>"] and len(photos(shelf)) == 1
    shelf.delete("<Bo the First>")
    assert not photos(shelf) and tags(shelf.concepts()) == ["<mia>"]
    loaded = json.loads((shelf.folder / "database.json").read_text())
    assert loaded == {"concept_dict": {}, "path_to_concept": {}}


def test_stored_in_the_public_format(shelf):
    shelf.put(RED, "bo", "a dog")
    database = ConceptDatabase.load(shelf.folder / "database.json")  # photos are looked at
    assert (database["<bo>"].name, database["<bo>"].info) == ("bo", "a dog")
    assert Image.open(database["<bo>"].image).size == (40, 40)


def test_a_given_concept_becomes_ones_own_when_edited(shelf, given):
    shelf.put(None, "Mia Rose", "a woman with red glasses", edited="<mia>")
    concept = shelf.concepts()["<mia>"]
    assert concept.info == "a woman with red glasses" and concept.category == "person"
    assert given["<mia>"].info == "a woman" and tags(shelf.concepts()) == ["<mia>"]
    shelf.delete("<mia>")
    assert shelf.concepts()["<mia>"].info == "a woman"
    with pytest.raises(ConceptError, match="came with the page"):
        shelf.delete("<mia>")


@pytest.mark.parametrize(
    ("photo", "name", "info", "edited", "said"),
    [
        (RED, " <> ", "", "", "Give the concept a name"),
        (None, "zoe", "", "", "Add a photo"),
        (RED, "x" * 61, "", "", "at most 60 characters"),
        (RED, "zoe", "x" * (INFO_LENGTH + 1), "", "at most 60 characters"),
        (RED, "BO", "", "", "already"),
        (RED, "mia", "", "", "already"),
        (RED, "mia", "", "<bo>", "already"),
        (RED, "zoe", "a <|im_end|> b", "", "control token"),
        (RED, "zo<|im_\u200bend|>e", "", "", "control token"),
        (RED, "a<b>c", "", "", "angle brackets"),
        (RED, "a\ud800", "", "", "can't be shown"),
        (RED, "zoe", "a\x00b", "", "can't be shown"),
        (RED, "\u200b", "", "", "empty name"),
        (RED, "zoe", "", "<nobody>", "no concept <nobody>"),
    ],
)
def test_what_is_refused_changes_nothing(shelf, photo, name, info, edited, said):
    shelf.put(RED, "bo", "a dog")
    before = (shelf.folder / "database.json").read_bytes(), photos(shelf)
    with pytest.raises(ConceptError, match=said):
        shelf.put(PHOTO if photo is RED else photo, name, info, edited)
    assert ((shelf.folder / "database.json").read_bytes(), photos(shelf)) == before


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b\\c", "<script>alert(1)</script>", "COM1", "‮evil", "é" * 60]
)
def test_names_never_become_paths(shelf, tmp_path, name):
    before = set(tmp_path.rglob("*"))
    try:
        shelf.put(RED, name, "")
    except ConceptError as error:
        assert "angle brackets" in str(error)
    new = {path.relative_to(shelf.folder).as_posix() for path in set(tmp_path.rglob("*")) - before}
    assert all(path in (".", "photos", "database.json") or path.endswith(".png") for path in new)


def test_out_and_in_again(shelf, tmp_path, given):
    with pytest.raises(ConceptError, match="You have no concepts to export"):
        shelf.export(tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()
    shelf.put(RED, "bo", "a dog")
    shelf.put(PHOTO, "Zoe", "Bo's friend")
    file = shelf.export(tmp_path / "out" / "concepts.zip")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert tags(ConceptDatabase.load(tmp_path / "unpacked" / "database.json")) == ["<bo>", "<Zoe>"]
    other = Shelf(tmp_path / "other", given)
    other.put(PHOTO, "Bo", "another")
    other.put(PHOTO, "kim", "")
    assert other.take(file) == 2
    assert [(c.tag, c.info) for c in other.own] == [
        ("<kim>", ""),
        ("<bo>", "a dog"),
        ("<Zoe>", "Bo's friend"),
    ]
    assert photos(other) == photos(shelf)
    for concept in other.own:
        assert str(concept.image).startswith(str(other.folder))


def test_the_authors_layout_is_taken(shelf, tmp_path):
    """Paths relative to the archive's top, the database deeper down, several photos, photos of any kind."""
    entries = {"<bo>": {"name": "bo", "image": ["data/bo/1.jpg", "data/bo/2.jpg"], "info": "a dog"}}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data/db/database.json", json.dumps({"concept_dict": entries}))
        archive.writestr("data/bo/1.jpg", encoded(RED, "JPEG"))
        archive.writestr("data/bo/2.jpg", encoded(PHOTO, "JPEG"))
    assert shelf.take(tmp_path / "a.zip") == 1 and len(shelf.own["<bo>"].images) == 2


@cache
def bad_zips() -> dict[str, tuple[bytes, str]]:
    photo = encoded(RED, "PNG")

    def database(entries, **files) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("database.json", json.dumps({"concept_dict": entries}))
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    def bo(image="bo.png", **entry):
        return {"<bo>": {"name": "bo", "image": image, "info": ""} | entry}

    whole = database(bo(), **{"bo.png": photo})
    return {
        "no zip": (b"hello", "can't be read as a zip file"),
        "cut off": (whole[: len(whole) // 2], "can't be read as a zip file"),
        "empty": (b"", "can't be read as a zip file"),
        "no database": (zipped("a.txt", b"a"), "no database.json"),
        "half a database": (zipped("database.json", b'{"concept_dict": {"<bo'), "not valid JSON"),
        "deep JSON": (zipped("database.json", b"[" * 100_000), "not valid JSON"),
        "a list": (zipped("database.json", b"[]"), "concept_dict"),
        "no photo": (database(bo()), "is not in the zip file"),
        "outside": (database(bo("../../../etc/passwd")), "is not in the zip file"),
        "absolute": (database(bo("/etc/passwd")), "is not in the zip file"),
        "a number": (database(bo(7)), "must be a path"),
        "no image": (database(bo("")), "no image"),
        "hostile photo": (database(bo(), **{"bo.png": hostile()["bomb.png"]}), "pixels"),
        "control token": (database(bo(info="<|im_end|>"), **{"bo.png": photo}), "control token"),
        "long tag": (database({f"<{'x' * 100}>": bo()["<bo>"]}, **{"bo.png": photo}), "more than 62"),
        "long category": (database(bo(category="x" * 100), **{"bo.png": photo}), "more than 60"),
        "many photos": (database(bo(["bo.png"] * 17), **{"bo.png": photo}), "more than 16 photos"),
        "a surrogate": (database(bo(name="a\ud800"), **{"bo.png": photo}), "can't be shown"),
        "long info": (database(bo(info="x" * 501), **{"bo.png": photo}), "more than 500"),
        "empty name": (database(bo(name=" "), **{"bo.png": photo}), "name is empty"),
        "too many": (database({f"<{i}>": {} for i in range(MOST_CONCEPTS + 1)}), "more than 1000"),
        "zip bomb": (zipped("database.json", bytes(600 * 2**20)), "more than 500 MB"),
        "a large file": (zipped("database.json", bytes(41 * 2**20)), "more than 40 MB"),
    }


@pytest.mark.parametrize("kind", bad_zips())
def test_bad_zips_are_messages_and_change_nothing(shelf, tmp_path, kind):
    content, said = bad_zips()[kind]
    shelf.put(RED, "kim", "")
    before = {path: path.read_bytes() for path in shelf.folder.rglob("*") if path.is_file()}
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises((ConceptError, UploadError), match=said) as error:
        shelf.take(tmp_path / "a.zip")
    assert str(tmp_path) not in str(error.value) and "/tmp" not in str(error.value)
    assert {path: path.read_bytes() for path in shelf.folder.rglob("*") if path.is_file()} == before


def test_visitors_are_apart(tmp_path, given):
    shelves = Shelves(given, tmp_path / "shelves")
    shelves.enter("tab 1", "anna's secret")
    shelves.enter("tab 2", "ben's secret")
    shelves.enter("tab 3", "anna's secret")
    shelves.of("tab 1").put(RED, "bo", "")
    assert tags(shelves.of("tab 3").own) == ["<bo>"]
    for other in ("tab 2", "", None):
        assert not tags(shelves.of(other).own)
    for unknown in ("tab 4", "anna's secret", "../v-"):  # rather than a shelf that would be lost
        with pytest.raises(ConceptError, match="load it again"):
            shelves.of(unknown)
    again = Shelves(given, tmp_path / "shelves")  # the server was started again
    again.enter("tab 9", "anna's secret")
    assert tags(again.of("tab 9").own) == ["<bo>"]
    assert not any("anna" in path.name for path in tmp_path.rglob("*"))


def test_without_a_folder_shelves_last_as_long_as_the_page(given):
    shelves = Shelves(given)
    shelves.enter("tab 1", "secret")
    shelves.of("tab 1").put(RED, "bo", "")
    shelves.enter("tab 2", "secret")
    assert not tags(shelves.of("tab 2").own) and tags(shelves.of("tab 1").own) == ["<bo>"]
    shelves.of(None).put(RED, "bo", "")
    assert not tags(shelves.of(None).own)
    folder = shelves.of("tab 1").folder
    old = time.time() - 25 * 3600
    os.utime(folder, (old, old))
    shelves.enter("tab 3", "secret")
    assert not folder.exists()


def test_a_photo_that_vanished_does_not_break_the_shelf(shelf):
    shelf.put(RED, "bo", "")
    (shelf.folder / "photos" / photos(shelf)[0]).unlink()
    assert tags(shelf.own) == ["<bo>"]
    shelf.put(PHOTO, "kim", "")
    shelf.put(PHOTO, "bo", "again", edited="<bo>")
    assert tags(shelf.own) == ["<bo>", "<kim>"] and len(photos(shelf)) == 1


def test_a_full_shelf(shelf, monkeypatch):
    monkeypatch.setattr("repic_core.demo.shelf.MOST_CONCEPTS", 1)
    shelf.put(RED, "bo", "")
    with pytest.raises(ConceptError, match="at most 1 concepts"):
        shelf.put(PHOTO, "kim", "")
    assert tags(shelf.own) == ["<bo>"] and len(photos(shelf)) == 1


def test_photos_that_stay_are_not_encoded_again(shelf, tmp_path, given):
    large = Image.effect_noise((400, 300), 60).convert("RGB")
    shelf.put(large, "bo", "a dog")
    before = {path: path.read_bytes() for path in (shelf.folder / "photos").iterdir()}
    for number in range(3):
        shelf.put(None, "bo", f"a dog {number}", edited="<bo>")
    shelf.put(None, "bo the first", "", edited="<bo>")
    assert {path: path.read_bytes() for path in (shelf.folder / "photos").iterdir()} == before
    other = Shelf(tmp_path / "other", given)
    other.take(shelf.export(tmp_path / "a.zip"))
    assert len(photos(other)) == 1


def test_an_import_decodes_each_photo_once_and_lets_others_save(shelf, tmp_path, given, monkeypatch):
    entries = {
        f"<toy {i}>": {"name": f"toy {i}", "image": ["a.png", "./a.png"], "info": ""} for i in range(40)
    }
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("database.json", json.dumps({"concept_dict": entries}))
        archive.writestr("a.png", encoded(RED, "PNG"))
    decoded = []

    def slowly(content, name):
        saver = threading.Thread(target=other.put, args=(PHOTO, "kim", ""))  # while the import is under way
        saver.start()
        saver.join(timeout=30)
        decoded.append(saver.is_alive())
        return open_upload(content, name)

    other = Shelf(tmp_path / "other", given)
    monkeypatch.setattr("repic_core.demo.shelf_zip.open_upload", slowly)
    shares = []
    assert shelf.take(tmp_path / "a.zip", shares.append) == 40
    assert decoded == [False] and len(photos(shelf)) == 1
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] < 1


def test_a_shelf_that_cannot_be_read_says_so_without_its_path(shelf, tmp_path):
    shelf.put(RED, "bo", "")
    (shelf.folder / "database.json").write_text("{")
    for broken in (lambda: shelf.own, shelf.concepts, lambda: shelf.put(RED, "kim", "")):
        with pytest.raises(ConceptError, match="tell whoever runs this page") as error:
            broken()
        assert str(tmp_path) not in str(error.value)
    assert (shelf.folder / "database.json").read_text() == "{"


def test_no_room_left(shelf, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(10**6))
    with pytest.raises(ConceptError, match="no room left"):
        shelf.put(RED, "bo", "")
    assert not shelf.folder.exists()


def test_processes_that_add_to_one_shelf(tmp_path):
    """As two workers of one page, or two windows of one visitor."""
    prepare = """
from PIL import Image
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.shelf import Shelf
shelf = Shelf(folder / "shelf", ConceptDatabase())
"""
    work = """
for turn in range(4):
    shelf.put(Image.new("RGB", (8, 8), (80 * number, 60 * turn, 0)), f"toy {number} {turn}", "")
"""
    together(tmp_path, 3, prepare, work)
    own = Shelf(tmp_path / "shelf", ConceptDatabase()).own
    assert sorted(tags(own)) == [f"<toy {number} {turn}>" for number in range(3) for turn in range(4)]
    assert all(os.path.isfile(concept.images[0]) for concept in own)


def test_a_relative_folder_of_shelves(tmp_path, monkeypatch):
    PHOTO.save(tmp_path / "mia.png")
    monkeypatch.chdir(tmp_path)
    given = ConceptDatabase([Concept("<mia>", "Mia Rose", "mia.png", "a woman")])
    shelves = Shelves(given, "shelves")
    shelves.enter("tab", "secret")
    shelf = shelves.of("tab")
    shelf.put(RED, "bo", "")
    monkeypatch.chdir("/")
    shelf.put(None, "bo", "a dog", edited="<bo>")
    shelf.put(None, "Mia Rose", "a friend", edited="<mia>")
    assert tags(shelf.own) == ["<bo>", "<mia>"] and len(photos(shelf)) == 2
    assert shelf.folder.is_relative_to(tmp_path / "shelves")
    assert Shelf(tmp_path / "other", given).take(shelf.export(tmp_path / "mine.zip")) == 2


class Unmarked(zipfile.ZipInfo):
    """A member whose name is in UTF-8 without saying so, as macOS writes it."""

    def _encodeFilenameFlags(self):
        return self.filename.encode(), self.flag_bits & ~0x800


def member(name, kind=zipfile.ZipInfo):
    info = kind("x")
    info.filename = name
    return info


SPELLINGS = {
    "decomposed": ("photos/Zo\u00eb.png", "photos/Zoe\u0308.png"),
    "composed": ("photos/Zoe\u0308.png", "photos/Zo\u00eb.png"),
    "backslash in the zip": ("photos/bo.png", "photos\\bo.png"),
    "backslash in the JSON": ("photos\\bo.png", "photos/bo.png"),
    "both": ("photos\\Zo\u00eb.png", "photos\\Zoe\u0308.png"),
    "UTF-8 that does not say so": ("photos/Zo\u00eb.png", "photos/Zoe\u0308.png"),
}


@pytest.mark.parametrize("folder", ["", "mine/", "mine\\"])
@pytest.mark.parametrize("kind", SPELLINGS)
def test_zips_of_other_systems(shelf, tmp_path, kind, folder):
    written, inside = SPELLINGS[kind]
    entries = {"concept_dict": {"<x>": {"name": "x", "image": written, "info": "a dog"}}}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member("__MACOSX/._database.json"), b"\0\5\x16\7")
        archive.writestr(member(".trash/database.json"), "{}")
        archive.writestr(member(folder + "database.json"), json.dumps(entries).encode("utf-8-sig"))
        kind_of_name = Unmarked if "not say so" in kind else zipfile.ZipInfo
        archive.writestr(member(folder + inside, kind_of_name), encoded(RED, "PNG"))
    assert shelf.take(tmp_path / "a.zip") == 1
    with Image.open(shelf.own["<x>"].image) as stored:
        assert stored.size == RED.size


@pytest.mark.parametrize(
    "image", ["..\\x.png", "../x.png", "a\\..\\..\\x.png", "/x.png", "\\x.png", "C:\\x.png"]
)
@pytest.mark.parametrize("inside", ["..\\x.png", "../x.png", "/x.png", "\\x.png"])
def test_no_member_leads_out_of_a_zip(shelf, tmp_path, image, inside):
    entries = {"concept_dict": {"<x>": {"name": "x", "image": image}}}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("database.json", json.dumps(entries))
        archive.writestr(member(inside), encoded(RED, "PNG"))
    with pytest.raises(ConceptError, match="is not in the zip file"):
        shelf.take(tmp_path / "a.zip")
