"""Databases: the round trip, upstream's variants, and every refusal with the file and the entry in its message."""

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase


@pytest.fixture
def root(tmp_path):
    for name in ("bo", "mia", "mia2"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    Image.effect_noise((300, 300), 80).convert("RGB").save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:9000])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return tmp_path


def write(root, entries, **more):
    path = root / "database.json"
    path.write_text(json.dumps({"concept_dict": entries, **more}))
    return path


def entry(**changes):
    return {"name": "bo", "image": "bo.png", "info": "a dog", "category": "dog", **changes}


def test_concept_defaults_and_folding():
    concept = Concept(name="bo", image="bo.png", info="a Shiba Inu\nwith a black collar")
    assert (concept.tag, concept.info) == ("<bo>", "a Shiba Inu with a black collar")
    assert Concept("<ironman>", "Iron Man", "x.png").name == "Iron Man"
    assert Concept("<bo>", image=["a.png", "b.png"]).images == ("a.png", "b.png")


def test_round_trip(root):
    path = write(root, {"<bo>": entry(), "<mia>": entry(name="Mia", image=["mia.png", "mia2.png"])})
    database = ConceptDatabase.load(path)
    assert [c.tag for c in database] == ["<bo>", "<mia>"]
    assert database["<MIA>"].name == "Mia" and "<Bo>" in database and len(database) == 2
    saved = json.loads(database.save(root / "copy.json").read_text())
    assert saved["concept_dict"] == json.loads(path.read_text())["concept_dict"]
    assert saved["path_to_concept"] == {"bo.png": "<bo>", "mia.png": "<mia>", "mia2.png": "<mia>"}
    again = ConceptDatabase.load(root / "copy.json")
    assert list(again) == list(database)
    assert sorted(p.name for p in root.glob("*.tmp")) == []


def test_edit(root):
    database = ConceptDatabase([Concept(name="bo", image="bo.png"), Concept(name="mia", image="mia.png")])
    database.rename("<bo>", "Rex")
    assert [c.tag for c in database] == ["<Rex>", "<mia>"]
    assert [c.tag for c in database.select("<mia>", "<rex>")] == ["<mia>", "<Rex>"]
    with pytest.raises(ConceptError, match="taken already"):
        database.rename("<mia>", "REX")
    database.remove("<mia>")
    with pytest.raises(ConceptError, match="no concept <mia>"):
        database["<mia>"]
    with pytest.raises(ConceptError, match="outside the root"):
        ConceptDatabase([Concept(name="bo", image="../bo.png")], root=root).save(root / "x.json")
    assert not (root / "x.json").exists()


def test_spellings_of_one_tag():
    database = ConceptDatabase([Concept("<Straße>", image="a.png"), Concept("<bo>", image="b.png")])
    assert database["<STRAẞE>"] is database["<strasse>"] and "<\uff22\uff2f>" in database
    database.rename("<\uff42\uff4f>", "Bo")
    with pytest.raises(ConceptError, match="taken already"):
        database.rename("<Bo>", "strasse")
    database.remove("<STRASSE>")
    assert [c.tag for c in database] == ["<Bo>"]


def test_save_looks_for_the_photos(root):
    with pytest.raises(ConceptError, match=r"<bo>: there is no image gone\.png under"):
        ConceptDatabase([Concept("<bo>", image="gone.png")], root=root).save(root / "x.json")
    assert not (root / "x.json").exists()
    path = write(root, {"<bo>": entry(image="gone.png")})
    elsewhere = ConceptDatabase.load(path, check_images=False)  # its photos are not here
    assert list(ConceptDatabase.load(elsewhere.save(), check_images=False)) == list(elsewhere)


def test_index_disagreement_warns_once_and_concept_dict_wins(root):
    entries = {"<bo>": entry(), "<mia>": entry(name="mia", image="mia.png")}
    path = write(root, entries, path_to_concept={"bo.png": "<mia>", "mia.png": "<bo>"})
    with pytest.warns(UserWarning, match="disagrees") as caught:
        database = ConceptDatabase.load(path)
    assert len(caught) == 1
    assert database["<bo>"].images[0].endswith("bo.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConceptDatabase.load(write(root, entries, path_to_concept={"./bo.png": "<bo>"}))
    unknown = write(root, entries, path_to_concept={"bo.png": "<bo>", "z.png": "<zoe>", "y.png": "<bo>"})
    with pytest.warns(UserWarning, match=r"for 2 image\(s\), first 'z\.png'") as caught:
        ConceptDatabase.load(unknown)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"<bo>": entry(image="gone.png")}, "missing image 'gone.png'"),
        ({"<bo>": entry(image="broken.png")}, "the image 'broken.png' is not a readable image"),
        ({"<bo>": entry(image="cut.jpg")}, "the image 'cut.jpg' is not a readable image"),
        ({"<bo>": entry(image="../bo.png")}, "outside the root"),
        ({"<bo>": entry(image="/etc/hostname")}, "outside the root"),
        ({"<bo>": entry(image="")}, "no image"),
        ({"<bo>": entry(name="  ")}, "the name is empty"),
        ({"<bo>": entry(name="bo<|im_end|>")}, "control token '<|im_end|>'"),
        ({"<bo>": entry(info="a dog <|vision_start|><|image_pad|>")}, "control token"),
        ({"<bo>": entry(info="a dog <image>")}, "control token '<image>'"),
        ({"<bo>": entry(info="a dog <| im_end\u200b|>")}, "control token"),
        ({"<bo>": entry(info=7)}, "info must be text"),
        ({"bo": entry()}, "angle brackets"),
        ({"</bo>": entry()}, "begins with '/'"),
        ({"<|bo>": entry()}, "begins with '|'"),
        ({"<bo>": "a dog"}, "must be an object"),
        ({"<bo>": entry(), "<BO>": entry()}, "taken already"),
        ({"<bo>": entry(), "<\uff42\uff4f>": entry()}, "taken already"),  # full-width letters
        ({"<straße>": entry(), "<STRASSE>": entry()}, "taken already"),
    ],
)
def test_refusals_name_file_and_entry(root, entries, message):
    path = write(root, entries)
    with pytest.raises(ConceptError) as error:
        ConceptDatabase.load(path)
    text = str(error.value)
    assert message in text and str(path) in text and repr(list(entries)[-1]) in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"concept_dict": {"<bo>": {"name": "b', "was it cut off"),
        ('{"concept_dict": {"<bo>": {}, "<bo>": {}}}', "is used twice"),
        ('["<bo>"]', 'no "concept_dict"'),
    ],
)
def test_bad_files(root, text, message):
    (root / "bad.json").write_text(text)
    with pytest.raises(ConceptError, match=message) as error:
        ConceptDatabase.load(root / "bad.json")
    assert "bad.json" in str(error.value)
    with pytest.raises(ConceptError, match=r"none\.json: can.t be read \(No such file"):
        ConceptDatabase.load(root / "none.json")


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_old_file(root, monkeypatch, step):
    path = write(root, {"<bo>": entry()})
    before, database = path.read_text(), ConceptDatabase.load(path)
    monkeypatch.setattr(step, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        database.save()
    assert path.read_text() == before and not list(root.glob("*.tmp"))


@given(st.text(), st.text())
def test_no_accepted_text_holds_a_control_token(name, info):
    try:
        concept = Concept(name=name, image="x.png", info=info)
    except ConceptError:
        return
    for token in ("<|im_end|>", "<|im_start|>", "<|image_pad|>", "<|vision_start|>", "\n"):
        assert token not in concept.tag + concept.name + concept.info


def test_upstream_databases_load(official_root):
    four = ConceptDatabase.load(
        official_root / "data/database_tot/database_4_concepts/database_mod.json", root=official_root
    )
    assert len(four) == 32 and four["<ironman>"].name == "Iron Man"
    figure = ConceptDatabase.load(official_root / "__assets__/main_figure/database.json", root=official_root)
    assert len(figure) == 7
    elsewhere = official_root / "data/database_tot/database_dreambooth/database.json"  # other relative paths
    with pytest.raises(ConceptError, match="missing image"):
        ConceptDatabase.load(elsewhere, root=official_root)
    assert len(ConceptDatabase.load(elsewhere, root=official_root, check_images=False)) == 30


def test_photos_of_a_large_database_are_looked_for_and_not_read(root, monkeypatch):
    from repic_core.concepts import database as concepts

    monkeypatch.setattr(concepts, "READ_UP_TO", 2)
    few = {"<bo>": entry(), "<mia>": entry(name="Mia", image="broken.png")}
    with pytest.raises(ConceptError, match=r"broken\.png.* is not a readable image"):
        ConceptDatabase.load(write(root, few))
    many = {**few, "<zoe>": entry(name="Zoe", image="mia.png")}
    assert len(ConceptDatabase.load(write(root, many))) == 3
    with pytest.raises(ConceptError, match=r"missing image 'gone\.png'"):
        ConceptDatabase.load(write(root, {**many, "<ann>": entry(name="Ann", image="gone.png")}))


def test_paths_that_are_none(root):
    with pytest.raises(ConceptError, match="image must be a path"):
        ConceptDatabase.load(write(root, {"<bo>": entry(image=["bo.png", ""])}), check_images=False)
    with pytest.warns(UserWarning, match="disagrees"):
        ConceptDatabase.load(write(root, {"<bo>": entry()}, path_to_concept={"bo\0.png": "<bo>"}))


def test_photos_behind_links_and_dots_stay_under_the_root(root):
    (root / "photos").mkdir()
    (root / "photos" / "link.png").symlink_to(root / "bo.png")
    (root / "photos" / "out.png").symlink_to(root.parent / "elsewhere.png")
    known = ConceptDatabase.load(write(root, {"<bo>": entry(image="photos/../photos/link.png")}))
    assert known["<bo>"].images == (str((root / "bo.png").resolve()),)
    for path in ("photos/out.png", "../elsewhere.png", "photos/../../elsewhere.png", "/etc/passwd"):
        with pytest.raises(ConceptError, match="lies outside the root"):
            ConceptDatabase.load(write(root, {"<bo>": entry(image=path)}), check_images=False)


def test_update_keeps_the_place_and_refuses_a_name_of_another():
    database = ConceptDatabase(Concept(name=name, image="x.jpg") for name in ("bo", "mia"))
    database.update(Concept(name="bo", image="x.jpg", info="a dog"))
    assert [(one.tag, one.info) for one in database] == [("<bo>", "a dog"), ("<mia>", "")]
    with pytest.raises(ConceptError, match="both are called 'mia'"):
        database.update(Concept(tag="<bo>", name="mia", image="x.jpg"))
    with pytest.raises(ConceptError, match="no concept <zoe>"):
        database.update(Concept(name="zoe", image="x.jpg"))
    assert [one.name for one in database] == ["bo", "mia"]
