"""The concept editor, driven as a browser drives it: values set, buttons clicked."""

import io
import json
from datetime import datetime
from html import escape
from pathlib import Path

import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.display import concept_editor as widgets
from repic_core.display.concept_editor import ConceptEditor, concept_editor, editable_copy, has_frontend


def photo(color, kind="PNG", size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    """A database file of <bo>, <mia> (called Mia Lee) and <ray>."""
    for name in ("bo", "mia", "ray"):
        (tmp_path / f"{name}.png").write_bytes(photo("red"))
    concepts = [
        Concept(name="bo", image=str(tmp_path / "bo.png"), info="a dog", category="dog"),
        Concept(tag="<mia>", name="Mia Lee", image=str(tmp_path / "mia.png"), info="a cat"),
        Concept(name="ray", image=[str(tmp_path / "ray.png"), str(tmp_path / "bo.png")], info="a fish"),
    ]
    return ConceptDatabase(concepts, root=tmp_path).save(tmp_path / "database.json")


@pytest.fixture
def editor(path):
    return ConceptEditor(ConceptDatabase.load(path))


def upload(editor, content, name="new.png"):
    editor.photo.value = (
        {
            "name": name,
            "type": "image/png",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime(2026, 1, 1),
        },
    )


def entries(path):
    return json.loads(path.read_text(encoding="utf-8"))["concept_dict"]


def test_add(editor, path):
    editor.name.value, editor.info.value = "  Zoe  Ann ", "a bird"
    upload(editor, photo("blue", "JPEG", (400, 300)))
    editor.add.click()
    added = entries(path)["<Zoe Ann>"]
    assert list(entries(path)) == ["<bo>", "<mia>", "<ray>", "<Zoe Ann>"]
    assert (added["name"], added["info"]) == ("Zoe Ann", "a bird")
    assert added["image"].startswith("photos/")
    with Image.open(path.parent / added["image"]) as stored:
        assert stored.size == (400, 300) and stored.getpixel((9, 9))[2] > 250
    assert "&lt;Zoe Ann&gt; is added." in editor.message.value
    assert editor.choice.value == "<Zoe Ann>" and editor.photo.value == ()
    assert (
        editor.cards.value.count("<figure") == 4 and 'alt="Reference photo of Zoe Ann"' in editor.cards.value
    )
    assert [c.info for c in ConceptDatabase.load(path)] == ["a dog", "a cat", "a fish", "a bird"]


def test_a_changed_name_renames_and_the_order_stays(editor, path):
    editor.choice.value = "<bo>"
    assert (editor.name.value, editor.info.value) == ("bo", "a dog")
    editor.name.value, editor.info.value = "rex", "a big dog"
    editor.save.click()
    assert list(entries(path)) == ["<rex>", "<mia>", "<ray>"]
    assert entries(path)["<rex>"] == {
        "name": "rex", "image": "bo.png", "info": "a big dog", "category": "dog"
    }  # fmt: skip
    assert "<bo>" not in editor.database and editor.choice.value == "<rex>"


def test_without_another_name_the_tag_stays(editor, path):
    editor.choice.value = "<mia>"
    editor.info.value = "an old cat"
    upload(editor, photo("lime"))
    editor.save.click()
    entry = entries(path)["<mia>"]
    assert (entry["name"], entry["info"]) == ("Mia Lee", "an old cat")
    with Image.open(path.parent / entry["image"]) as stored:
        assert stored.getpixel((0, 0)) == (0, 255, 0)
    editor.choice.value = "<ray>"
    editor.save.click()
    assert entries(path)["<ray>"]["image"] == ["ray.png", "bo.png"]  # without a new photo, all stay


def test_delete_asks_once(editor, path):
    editor.choice.value = "<bo>"
    editor.delete.click()
    assert editor.delete.description == "Delete <bo>? Click again" and "<bo>" in entries(path)
    editor.choice.value = "<ray>"  # another choice takes it back
    assert editor.delete.description == "Delete"
    editor.delete.click()
    editor.save.click()  # and so does another button
    assert editor.delete.description == "Delete"
    editor.delete.click()
    editor.delete.click()
    assert list(entries(path)) == ["<bo>", "<mia>"] == [c.tag for c in editor.database]
    assert "&lt;ray&gt; is deleted." in editor.message.value
    assert editor.choice.value == "" and editor.delete.disabled and editor.save.disabled


@pytest.mark.parametrize(
    ("name", "info", "content", "message"),
    [
        ("zoe", "a bird", None, "a new concept needs a photo: choose one"),
        ("zoe", "<|im_end|>", photo("blue"), "the info of '<zoe>' holds the control token '<|im_end|>'"),
        ("a>b", "a bird", photo("blue"), "must be one name in angle brackets"),
        ("BO", "a bird", photo("blue"), "the tag <BO> is taken already (by <bo>)"),
        (" ", "a bird", photo("blue"), "has an empty name: give it one"),
        ("zoe", "a bird", b"<svg onload=alert(1)>", "new.png: is not a photo that can be read"),
    ],
)
def test_what_fails_changes_nothing(editor, path, name, info, content, message):
    before, text = list(editor.database), path.read_text(encoding="utf-8")
    editor.name.value, editor.info.value = name, info
    if content:
        upload(editor, content)
    editor.add.click()
    assert escape(message) in editor.message.value and 'class="missing"' in editor.message.value
    assert list(editor.database) == before and path.read_text(encoding="utf-8") == text
    assert not (path.parent / "photos").exists()
    assert editor.name.value == name  # to be mended


def test_a_taken_name_is_refused_for_a_change(editor, path):
    before, text = list(editor.database), path.read_text(encoding="utf-8")
    editor.choice.value = "<mia>"
    editor.name.value = "Ray"
    editor.save.click()
    assert "the tag &lt;Ray&gt; is taken already" in editor.message.value
    assert list(editor.database) == before and path.read_text(encoding="utf-8") == text


def test_what_can_not_be_saved_is_taken_back(editor, path):
    """A photo of another concept vanished: saving fails after the new photo was stored."""
    before, text = list(editor.database), path.read_text(encoding="utf-8")
    (path.parent / "mia.png").unlink()
    editor.name.value = "zoe"
    upload(editor, photo("blue"))
    editor.add.click()
    assert "&lt;mia&gt;: there is no image" in editor.message.value
    assert list(editor.database) == before and path.read_text(encoding="utf-8") == text
    assert list((path.parent / "photos").iterdir()) == []
    assert "mia.png is missing or unreadable" in ConceptEditor(editor.database).cards.value


def test_hostile_text_is_escaped(editor, path):
    """In thumbnails, photo descriptions and messages; the form shows it as text."""
    editor.name.value = '&"onerror="alert(1)'
    editor.info.value = "<script>alert(2)</script><img src=x onerror=alert(3)>"
    upload(editor, photo("blue"))
    editor.add.click()
    cards = editor.cards.value
    assert "<script" not in cards and "<img src" not in cards
    assert "&lt;script&gt;alert(2)&lt;/script&gt;&lt;img src=x onerror=alert(3)&gt;" in cards
    assert 'alt="Reference photo of &amp;&quot;onerror=&quot;alert(1)"' in cards
    assert "&amp;&quot;onerror=&quot;alert(1)" in editor.message.value
    upload(editor, b"no photo", "<img src=x onerror=alert(4)>.png")
    editor.save.click()
    assert "<img" not in editor.message.value and "&lt;img src=x onerror=alert(4)&gt;" in editor.message.value


def test_without_a_file_photos_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = ConceptDatabase()
    editor = ConceptEditor(database)
    editor.name.value = "zoe"
    upload(editor, photo("blue"))
    editor.add.click()
    assert database["<zoe>"].images[0].getpixel((0, 0)) == (0, 0, 255)
    assert list(tmp_path.iterdir()) == []


def test_a_large_database_is_filtered():
    image = Image.new("RGB", (8, 8))
    database = ConceptDatabase(
        Concept(name=f"n{i:03}", image=image, info="Even" * (i % 2 == 0)) for i in range(130)
    )
    editor = ConceptEditor(database)
    assert editor.cards.value.count("<figure") == widgets.SHOWN == len(editor.choice.options) - 1
    assert "60 of 130 concepts" in editor.cards.value
    editor.choice.value = "<n012>"
    editor.info.value = "not yet saved"
    editor.filter.value = "N01"
    assert [tag for _, tag in editor.choice.options][1:] == [f"<n01{i}>" for i in range(10)]
    assert (editor.choice.value, editor.info.value) == ("<n012>", "not yet saved")
    editor.filter.value = "even"
    assert editor.cards.value.count("<figure") == 60
    editor.filter.value = "n129"
    assert (editor.choice.value, editor.name.value) == ("", "")


def test_photos_are_shown_small(tmp_path):
    Image.effect_noise((2000, 1500), 90).convert("RGB").save(tmp_path / "large.jpg")
    database = ConceptDatabase([Concept(name="bo", image=str(tmp_path / "large.jpg"))])
    assert len(ConceptEditor(database).cards.value) < 100_000


def test_where_no_widget_shows_there_are_cards(path):
    database = ConceptDatabase.load(path)
    assert not has_frontend()
    shown = concept_editor(database)
    assert shown.text == "<bo>  bo: a dog\n<mia>  Mia Lee: a cat\n<ray>  ray: a fish"
    assert shown.html.count("<img") == 3
    assert concept_editor(database, widgets=True)._repr_mimebundle_()[
        "application/vnd.jupyter.widget-view+json"
    ]


def test_an_editable_copy_has_its_own_photos_and_stays(path, tmp_path):
    known = ConceptDatabase.load(path)
    copy = editable_copy(known.select("<bo>", "<mia>"), tmp_path / "mine")
    folder = tmp_path / "mine"
    assert [concept.tag for concept in copy] == ["<bo>", "<mia>"] and copy.path == folder / "database.json"
    assert all(Path(image).is_relative_to(folder) for concept in copy for image in concept.images)
    copy.remove("<bo>")
    copy.save()
    assert [concept.tag for concept in editable_copy(known, folder)] == ["<mia>"]
    assert len(ConceptDatabase.load(path)) == 3


# Two editors of one file


def add(editor, name):
    editor.choice.value = ""
    editor.name.value = name
    upload(editor, photo("blue"))
    editor.add.click()


def test_what_two_editors_add_is_kept(path):
    one, two = (ConceptEditor(ConceptDatabase.load(path)) for _ in range(2))
    add(one, "Zoe")
    add(two, "Kim")
    assert "is added" in two.message.value
    assert list(entries(path)) == ["<bo>", "<mia>", "<ray>", "<Zoe>", "<Kim>"]
    assert [c.tag for c in two.database] == list(entries(path)) and "5 of 5 concepts" in two.cards.value
    one.choice.value = "<ray>"
    one.delete.click(), one.delete.click()
    assert list(entries(path)) == ["<bo>", "<mia>", "<Zoe>", "<Kim>"]


@pytest.mark.parametrize("button", ["save", "delete"])
def test_a_concept_is_changed_again_after_it_was_saved(path, button):
    """The editor's own change is not that of another program."""
    editor = ConceptEditor(ConceptDatabase.load(path))
    editor.choice.value = "<bo>"
    for info in ("a wolf", "a fox")[: 1 if button == "delete" else 2]:
        editor.info.value = info
        editor.save.click()
        assert "&lt;bo&gt; is saved." in editor.message.value and entries(path)["<bo>"]["info"] == info
    if button == "delete":
        editor.delete.click(), editor.delete.click()
        assert "<bo>" not in entries(path)


@pytest.mark.parametrize("button", ["save", "delete"])
def test_a_concept_that_another_editor_changed_is_shown_first(path, button):
    one, two = (ConceptEditor(ConceptDatabase.load(path)) for _ in range(2))
    one.choice.value = two.choice.value = "<bo>"
    one.info.value = "a wolf"
    one.save.click()
    two.name.value = "Bobby"
    getattr(two, button).click()
    if button == "delete":
        getattr(two, button).click()
    assert "another program has changed &lt;bo&gt; meanwhile" in two.message.value
    assert entries(path)["<bo>"]["info"] == "a wolf" == two.info.value and two.choice.value == "<bo>"
    two.name.value = "Bobby"
    two.save.click()
    assert entries(path)["<Bobby>"]["info"] == "a wolf"


def test_a_concept_that_another_editor_deleted(path):
    one, two = (ConceptEditor(ConceptDatabase.load(path)) for _ in range(2))
    one.choice.value = two.choice.value = "<bo>"
    one.delete.click(), one.delete.click()
    two.info.value = "a wolf"
    two.save.click()
    assert "no concept &lt;bo&gt;" in two.message.value and list(entries(path)) == ["<mia>", "<ray>"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_relative_folder_as_notebook_3_has_it(path, tmp_path, monkeypatch, begun):
    """`run_dir` is relative there: photos are stored once under the root, also after the kernel changed folders."""
    monkeypatch.chdir(tmp_path.parent)
    mine = Path(tmp_path.name) / "database.json"
    database = ConceptDatabase.load(mine) if begun else ConceptDatabase(root=mine.parent, path=mine)
    if not begun:
        path.unlink()
    editor = ConceptEditor(database)
    editor.name.value = "Zoe"
    upload(editor, photo("blue"))
    editor.add.click()
    assert "&lt;Zoe&gt; is added." in editor.message.value
    monkeypatch.chdir("/")
    upload(editor, photo("green"))
    editor.save.click()
    assert "&lt;Zoe&gt; is saved." in editor.message.value
    with Image.open(tmp_path / entries(path)["<Zoe>"]["image"]) as stored:
        assert stored.getpixel((9, 9)) == (0, 128, 0)
    assert len(ConceptDatabase.load(path)) == (4 if begun else 1)
