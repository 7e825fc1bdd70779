"""A folder of photos as a database: names, infos, what is passed over, what is refused."""

import logging

import pytest
from PIL import Image

from repic_core.data.builders import BuildError, concept_photos
from repic_core.data.photo_folder import database_from_folder, folder_infos


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), "blue").save(path)


def test_folders_and_single_photos_in_the_order_of_their_names(tmp_path, monkeypatch):
    for name in ("zoe/1.png", "bo.png", "mia/b.jpg", "mia/a.jpg"):
        photo(tmp_path / name)
    monkeypatch.chdir(tmp_path.parent)
    for folder in (tmp_path, tmp_path.name):
        database = database_from_folder(folder)
        assert [c.tag for c in database] == ["<bo>", "<mia>", "<zoe>"] and database.root == tmp_path
        assert database["<mia>"].images == (str(tmp_path / "mia/a.jpg"), str(tmp_path / "mia/b.jpg"))
        assert [c.category for c in database] == ["", "", ""]


def test_infos_are_a_line(tmp_path):
    for name in ("zoe/1.png", "bo.png", "mia/a.jpg"):
        photo(tmp_path / name)
    (tmp_path / "zoe" / "info.txt").write_bytes("\ufeffa cat\n  with one ear\n".encode())
    (tmp_path / "bo.txt").write_text("")
    database = database_from_folder(tmp_path)
    assert [c.info for c in database] == ["", "", "a cat with one ear"]
    assert folder_infos(tmp_path) == {"zoe": "a cat with one ear"}
    (tmp_path / "bo.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BuildError, match=r"bo\.txt: not UTF-16 text .*: was it cut off"):
        database_from_folder(tmp_path)


def test_hidden_files_are_passed_over_and_others_told(tmp_path, caplog):
    for name in ("bo/1.png", "bo/._1.jpg", ".trash/1.png"):
        photo(tmp_path / name.replace("._1.jpg", "x.jpg"))
    (tmp_path / "bo" / "x.jpg").rename(tmp_path / "bo" / "._1.jpg")
    (tmp_path / "bo" / "._1.jpg").write_bytes(b"what macOS keeps beside a file")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "database.json").write_text("{}")
    (tmp_path / "mira.mov").write_bytes(b"")
    (tmp_path / "shelves").mkdir()
    with caplog.at_level(logging.WARNING):
        database = database_from_folder(tmp_path)
    assert [(c.tag, len(c.images)) for c in database] == [("<bo>", 1)]
    assert [r.message.partition(": ")[0].rpartition("/")[2] for r in caplog.records] == [
        "mira.mov",
        "shelves",
    ]
    assert "its name does not end in .jpg" in caplog.text and "it holds no photo" in caplog.text
    assert list(concept_photos_without(tmp_path, "shelves")) == ["bo"]


def concept_photos_without(folder, name):
    (folder / name).rmdir()
    return concept_photos(folder)


def test_what_can_not_be_used_is_named(tmp_path):
    with pytest.raises(BuildError, match="nowhere: no such folder"):
        database_from_folder(tmp_path / "nowhere")
    with pytest.raises(BuildError, match="holds no photo, nor a folder with photos"):
        database_from_folder(tmp_path)
    photo(tmp_path / "bo" / "1.png")
    photo(tmp_path / "Bo.png")
    with pytest.raises(BuildError, match=r"bo: the tag <bo> is taken already \(by <Bo>\): rename"):
        database_from_folder(tmp_path)
    (tmp_path / "Bo.png").rename(tmp_path / "a>b.png")
    with pytest.raises(BuildError, match=r"a>b\.png: the tag '<a>b>' must be one name"):
        database_from_folder(tmp_path)
    (tmp_path / "a>b.png").write_bytes(b"half")
    with pytest.raises(BuildError, match=r"a>b\.png is not a readable image"):
        database_from_folder(tmp_path)
