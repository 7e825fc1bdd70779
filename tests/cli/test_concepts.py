"""``repic concepts``: a folder of photos becomes a database that loads; what is wrong is named."""

import json
import os

import pytest
from PIL import Image, ImageFile

from helpers.photos import HEIC
from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.images import open_for_model


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("bo/2.jpg", "bo/1.PNG", "mira.jpeg", "old dog2/a.webp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "red").save(folder / name)
    (folder / "bo" / "info.txt").write_text("a small\nbrown dog \n")
    (folder / "mira.txt").write_text("a woman with red glasses")
    return folder


def concepts(*arguments):
    return main(["concepts", *map(str, arguments)])


def test_init_check_list(photos, capsys):
    assert concepts("init", photos) == 0
    printed = capsys.readouterr()
    file = photos / "database.json"
    assert printed.out == f"{file}: 3 concepts, 4 photos: <bo>, <mira>, <old dog2>\n"
    assert printed.err == f"without a line of information: <old dog2>; write what each is into {file}\n"
    written = json.loads(file.read_text())["concept_dict"]
    assert written["<bo>"] == {
        "name": "bo", "image": ["bo/1.PNG", "bo/2.jpg"], "info": "a small brown dog", "category": ""
    }  # fmt: skip
    assert written["<mira>"]["image"] == "mira.jpeg" and written["<mira>"]["info"].endswith("glasses")
    assert concepts("check", file) == 0
    assert capsys.readouterr().out == f"{file}: 3 concepts, 4 photos, no problems found\n"
    assert concepts("list", file) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "| tag | name | photos | info |" and lines[2] == "| <bo> | bo | 2 | a small brown dog |"
    )
    assert len(lines) == 5


def test_answers_for_programs(photos, capsys):
    out = photos / "mine.json"
    assert concepts("init", photos, "--out", out, "--json", "--categories") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"file": str(out), "concepts": ["<bo>", "<mira>", "<old dog2>"]}
    assert printed.err == ""
    assert concepts("check", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "concepts": 3, "photos": 4}
    assert concepts("list", out, "--json") == 0
    third = json.loads(capsys.readouterr().out)[2]
    assert third == {
        "tag": "<old dog2>", "name": "old dog2", "info": "", "category": "dog",
        "photos": [str(photos / "old dog2" / "a.webp")],
    }  # fmt: skip


def test_a_database_that_exists_is_kept(photos, capsys):
    assert concepts("init", photos) == 0
    file = photos / "database.json"
    before = file.read_text().replace('"info": ""', '"info": "by hand"')
    file.write_text(before)
    assert concepts("init", photos) == 2
    assert f"repic concepts init: {file}: exists; give another --out, or --replace" in capsys.readouterr().err
    assert file.read_text() == before
    assert concepts("init", photos, "--replace", "--quiet") == 0 and "by hand" not in file.read_text()
    assert capsys.readouterr().err == ""


def test_another_place_needs_a_root_above_both(photos, tmp_path, capsys):
    assert concepts("init", photos, "--out", tmp_path / "other" / "d.json") == 2
    assert "lies outside the root" in capsys.readouterr().err
    assert concepts("init", photos, "--out", tmp_path / "other" / "d.json", "--root", tmp_path) == 0
    loaded = ConceptDatabase.load(tmp_path / "other" / "d.json", root=tmp_path)
    assert loaded["<mira>"].images == (str(photos / "mira.jpeg"),)
    assert concepts("check", tmp_path / "other" / "d.json") == 2
    assert "missing image 'photos/bo/1.PNG'" in capsys.readouterr().err
    assert concepts("check", tmp_path / "other" / "d.json", "--root", tmp_path) == 0


def test_a_fault_has_status_2(photos, capsys):
    assert concepts("init", photos, "--quiet") == 0
    (photos / "mira.jpeg").write_bytes(b"half")
    capsys.readouterr()
    assert concepts("check", photos / "database.json") == 2
    printed = capsys.readouterr()
    assert (
        printed.out == "" and "entry '<mira>': the image 'mira.jpeg' is not a readable image" in printed.err
    )


def test_photos_from_phones(photos, capsys, monkeypatch):
    """Turned by their EXIF, of 50 megapixels (decoded small), and HEIC, which is named with how to fix it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8160, 6120), 128).save(photos / "large.jpg", quality=30, exif=exif)
    decoded, load = [], ImageFile.ImageFile.load

    def watched(image):
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    assert concepts("init", photos) == 0
    assert decoded and max(map(max, decoded)) <= 8160 // 8
    large = ConceptDatabase.load(photos / "database.json")["<large>"]
    assert open_for_model(large.image).height > open_for_model(large.image).width
    capsys.readouterr()
    (photos / "IMG_7.HEIC").write_bytes(HEIC)
    assert concepts("init", photos, "--replace") == 2
    said = capsys.readouterr().err
    assert "IMG_7.HEIC is a HEIC photo (iPhone): save it as JPEG, or install pillow-heif" in said
    assert said.count("\n") == 1


def test_a_note_of_the_kit_is_a_line_unless_quiet(photos, capsys):
    concepts("init", photos, "--quiet")
    file = photos / "database.json"
    data = json.loads(file.read_text())
    data["path_to_concept"] = {"mira.jpeg": "<bo>"}
    file.write_text(json.dumps(data))
    capsys.readouterr()
    assert concepts("check", file) == 0
    assert capsys.readouterr().err.startswith(f'note: {file}: "path_to_concept" disagrees')
    assert concepts("check", file, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_photo_whose_name_is_no_unicode_is_listed(tmp_path, capsys):
    name = os.fsdecode(b"Zo\xeb.png")
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    path = ConceptDatabase([Concept(name="zoe", image=name)], root=tmp_path).save(tmp_path / "database.json")
    assert main(["concepts", "list", str(path), "--json"]) == 0
    assert "Zo\\udceb.png" in capsys.readouterr().out
