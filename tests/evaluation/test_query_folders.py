"""Folders to caption from one's own photos and from the authors' repository."""

import pytest
from PIL import Image

from repic_core.data.photo_folder import database_from_folder, write_photo_rows
from repic_core.data.rows import read_rows
from repic_core.evaluation.paper_settings import paper_setting
from repic_core.evaluation.query_folders import write_paper_queries, write_photo_queries
from repic_core.evaluation.query_sets import QuerySetError, QuerySettings, load_query_set
from repic_core.models.loading import PAPER_MAX_PIXELS

SETTINGS = QuerySettings(system=None, max_new_tokens=9)
COLOURS = {"bo": "red", "mia": "green", "zoe": "blue", "kim": "white", "lou": "black", "alone": "gray"}


@pytest.fixture
def photos(tmp_path):
    """Five concepts with three photos each, which differ, and one with a single photo."""
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(1 if name == "alone" else 3):
            photo = Image.new("RGB", (20 + number, 16), colour)
            photo.save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_the_first_photo_is_the_reference_and_the_last_is_asked_about(photos, tmp_path):
    write_photo_queries(tmp_path / "own", database_from_folder(photos), SETTINGS)
    found = load_query_set(tmp_path / "own")
    assert found.settings.system is None and found.root == photos
    assert [len(concept.images) for concept in found.database] == [1] * 6
    assert {label: len(asked) for label, asked in found.queries.items()} == {"1": 5, "4": 5, "4 all": 5}
    for item in [*found.items("1"), *found.items("4")]:
        (tag,) = item.shown
        assert item.query == photos / tag.strip("<>") / "2.png"
        reference = next(one for one in item.references if one.tag == tag)
        assert reference.images[0] == str(photos / tag.strip("<>") / "0.png")
    assert {len(item.references) for item in found.items("4")} == {4}
    # The one that is shown is not always at the same place.
    places = [[one.tag for one in item.references].index(item.shown[0]) for item in found.items("4")]
    assert len(set(places)) > 1
    for item in found.items("4 all"):
        assert sorted(item.shown) == sorted(one.tag for one in item.references)
        assert item.query.is_file() and (tmp_path / "own" / "collages") == item.query.resolve().parent
        assert "<alone>" not in item.shown


def test_two_concepts_are_asked_about_together_and_one_photo_each_is_refused(photos, tmp_path):
    few = database_from_folder(photos)
    for name in ("zoe", "kim", "lou", "alone"):
        few.remove(f"<{name}>")
    assert set(write_photo_queries(tmp_path / "two", few, SETTINGS).queries) == {"1", "2", "2 all"}
    for name in COLOURS:
        for number in (1, 2):
            (photos / name / f"{number}.png").unlink(missing_ok=True)
    with pytest.raises(QuerySetError, match="no concept has two photos"):
        write_photo_queries(tmp_path / "none", database_from_folder(photos), SETTINGS)


def test_rows_are_found_from_their_own_folder(photos, tmp_path):
    rows = read_rows(write_photo_rows(tmp_path / "deep" / "own" / "rows.jsonl", photos))
    assert {row.method for row in rows} == {"yes_no", "yes_no_name", "yes_no_name_multi"}
    assert (tmp_path / "deep" / "own" / "collages").is_dir()


def test_a_setting_of_the_paper_is_asked_as_it_was(official_root, tmp_path):
    made = write_paper_queries(tmp_path / "official", official_root, "4-concepts", limit=6)
    setting = paper_setting(official_root, "4-concepts", limit=6)
    found = load_query_set(tmp_path / "official").items("4 all")
    assert found == made.items("4 all") and len(found) == 6
    for mine, theirs in zip(found, setting.items, strict=True):
        assert (mine.query.resolve(), mine.question) == (theirs.query.resolve(), theirs.question)
        assert [one.tag for one in mine.references] == [one.tag for one in theirs.references]
        assert mine.shown == theirs.shown and mine.label == theirs.label
    settings = made.settings
    assert (settings.max_pixels, settings.resized_by) == (PAPER_MAX_PIXELS, "qwen-vl-utils")
    assert (settings.system, settings.reference_style) == ("evaluation", "numbered")


def test_what_the_toy_world_draws_as_photos_is_such_a_folder(tmp_path):
    from repic_core.toyworld.dataset import write_photo_folder

    database = database_from_folder(write_photo_folder(tmp_path / "photos", 3))
    assert [len(concept.images) for concept in database] == [2, 2, 2]
    assert all(concept.info for concept in database)
    assert set(write_photo_queries(tmp_path / "own", database, SETTINGS).queries) == {"1", "3", "3 all"}
