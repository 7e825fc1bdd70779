"""Two programs with one database: nothing is lost without a word, and the kit's own tools keep what both did."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from helpers.writers import together
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase


@pytest.fixture
def path(tmp_path):
    """A database file of <bo> and <mia>."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    return ConceptDatabase([named("bo"), named("mia")], root=tmp_path).save(tmp_path / "database.json")


def named(name, info="", image="a.png"):
    return Concept(name=name, image=image, info=info)


def tags(path):
    return list(json.loads(path.read_text(encoding="utf-8"))["concept_dict"])


def infos(path):
    return {c.tag: c.info for c in ConceptDatabase.load(path)}


def put(database, concept):
    database._concepts[concept.tag.strip("<>")] = concept


def test_a_change_by_another_is_noticed(path):
    one, two = ConceptDatabase.load(path), ConceptDatabase.load(path)
    one.add(named("zoe"))
    one.save()
    two.add(named("kim"))
    with pytest.raises(
        ConceptError, match=r"database\.json: another program has changed it since it was read"
    ):
        two.save()
    assert tags(path) == ["<bo>", "<mia>", "<zoe>"]
    one.add(named("ann"))
    one.save()  # its own change is none of another
    assert tags(path) == ["<bo>", "<mia>", "<zoe>", "<ann>"]


def test_what_is_no_change_by_another(path, tmp_path):
    database = ConceptDatabase.load(path)
    path.write_bytes(path.read_bytes())  # written again, the same
    database.remove("<mia>")
    database.save()
    path.unlink()  # gone: nothing can be lost
    database.save()
    assert tags(path) == ["<bo>"]
    other = ConceptDatabase([named("zoe")], root=tmp_path)
    other.save(path)  # asked for: a database that never read the file
    assert tags(path) == ["<zoe>"]
    database.save(tmp_path / "copy.json")
    assert tags(tmp_path / "copy.json") == ["<bo>"]


def test_both_changes_are_kept(path):
    one, two = ConceptDatabase.load(path), ConceptDatabase.load(path)
    with one.changing():
        one.add(named("zoe"))
        one.remove("<mia>")
        one.save()
    two.add(named("ann"))  # not saved yet
    with two.changing():
        two.add(named("kim"))
        two.rename("<bo>", "Bobby")
        two.save()
    assert sorted(tags(path)) == ["<Bobby>", "<ann>", "<kim>", "<zoe>"] == sorted(c.tag for c in two)
    with one.changing():
        assert sorted(c.tag for c in one) == sorted(tags(path))


def test_photos_of_merged_concepts_are_still_there(path, tmp_path):
    one, two = ConceptDatabase.load(path), ConceptDatabase.load(path)
    for database, name in ((one, "zoe"), (two, "kim")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "blue").save(tmp_path / "photos" / f"{name}.png")
        with database.changing():
            database.add(named(name, image=str(tmp_path / "photos" / f"{name}.png")))
            database.save()
    read = ConceptDatabase.load(path)
    assert [c.images[0].rpartition("/")[2] for c in read] == ["a.png", "a.png", "zoe.png", "kim.png"]


def test_both_change_one_concept(path):
    one, two, three = (ConceptDatabase.load(path) for _ in range(3))
    for database, info in ((one, "a dog"), (two, "a wolf"), (three, "a dog")):
        put(database, replace(database["<bo>"], info=info))
    one.save()
    with (
        pytest.raises(ConceptError, match=r"database\.json: another program has changed <bo>, too"),
        two.changing(),
    ):
        pytest.fail("a change was lost")
    assert two["<bo>"].info == "a wolf"  # as it was, to look at
    with three.changing():  # both did the same
        three.save()
    assert infos(path) == {"<bo>": "a dog", "<mia>": ""}


def test_one_removes_what_the_other_changes(path):
    one, two = ConceptDatabase.load(path), ConceptDatabase.load(path)
    one.remove("<bo>")
    one.save()
    put(two, replace(two["<bo>"], info="a dog"))
    with pytest.raises(ConceptError, match="has changed <bo>, too"), two.changing():
        pytest.fail("a change was lost")


def test_two_begin_with_no_file(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    path = tmp_path / "database.json"
    one, two = (ConceptDatabase(root=tmp_path, path=path) for _ in range(2))
    for database, name in ((one, "bo"), (two, "mia")):
        with database.changing():
            database.add(named(name))
            database.save()
    assert tags(path) == ["<bo>", "<mia>"]
    unsaved = ConceptDatabase([named("bo", "another")], root=tmp_path, path=path)
    with pytest.raises(ConceptError, match="has changed <bo>, too"), unsaved.changing():
        pytest.fail("a change was lost")


PREPARE = """
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
database = ConceptDatabase.load(folder / "database.json")
"""


def test_processes_that_add_at_once(path, tmp_path):
    work = """
for turn in range(5):
    with database.changing():
        database.add(Concept(name=f"toy {number} {turn}", image="a.png"))
        database.save()
"""
    together(tmp_path, 3, PREPARE, work)
    wanted = {f"<toy {number} {turn}>" for number in range(3) for turn in range(5)}
    assert set(tags(path)) == {"<bo>", "<mia>"} | wanted


def test_processes_that_do_not_merge_lose_nothing_silently(path, tmp_path):
    """Load, add, save: what was saved without an error is there."""
    work = """
for turn in range(5):
    try:
        database = ConceptDatabase.load(folder / "database.json")
        database.add(Concept(name=f"toy {number} {turn}", image="a.png"))
        time.sleep(0.002)
        database.save()
        print(f"<toy {number} {turn}>")
    except ConceptError as error:
        assert "another program has changed it" in str(error)
"""
    said = together(tmp_path, 3, PREPARE, work)
    saved = {line for lines in said for line in lines.splitlines()}
    assert saved and set(tags(path)) == {"<bo>", "<mia>"} | saved
