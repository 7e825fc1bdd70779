"""A folder of photos to caption is read whole, checked, and asked as its settings say."""

import json
from dataclasses import asdict

import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.query_sets import (
    QuerySetError,
    QuerySettings,
    load_query_set,
    save_query_set,
)

QUERIES = {
    "2": [
        {"query": "photos/q.png", "references": ["<bo>", "<mia>"], "shown": ["<mia>"]},
        {"query": "photos/q.png", "references": ["<mia>", "<bo>"], "shown": []},
        {"query": "photos/q.png", "references": ["<mia>"], "shown": ["<mia>"]},
    ]
}
SETTINGS = QuerySettings("inference", 7, 1000, "qwen-vl-utils", "numbered", ("Who?", "What?"), 40)


@pytest.fixture
def root(tmp_path):
    """The photos of two concepts and of a query."""
    (tmp_path / "own" / "photos").mkdir(parents=True)
    for name in ("bo", "mia", "q"):
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / "photos" / f"{name}.png")
    return tmp_path / "own"


@pytest.fixture
def database(root):
    return ConceptDatabase([Concept(name=n, image=f"photos/{n}.png") for n in ("bo", "mia")], root=root)


@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_what_is_saved_is_read(root, database, tmp_path, where):
    from dataclasses import replace

    folder = root if where == "beside" else tmp_path / "runs" / "set"
    settings = SETTINGS if where == "beside" else replace(SETTINGS, image_root=str(root))
    saved = save_query_set(folder, database, QUERIES, settings)
    found = load_query_set(folder)
    assert found.settings == saved.settings == settings and found.queries == QUERIES
    items = found.items("2")
    assert [item.question for item in items] == ["Who?", "What?", "Who?"]
    assert [[c.tag for c in item.references] for item in items] == [
        ["<bo>", "<mia>"],
        ["<mia>", "<bo>"],
        ["<mia>"],
    ]
    assert [item.shown for item in items] == [["<mia>"], [], ["<mia>"]]
    assert {item.query for item in items} == {root / "photos/q.png"} and items[0].label == "photos/q.png"
    assert items[0].references[0].images[0] == str(root / "photos/bo.png")
    assert len(found.items("2", 1)) == 1
    with pytest.raises(QuerySetError, match=r"queries\.json: has no set '3', only 2"):
        found.items("3")


def test_a_captioner_asks_as_the_settings_say(root, database):
    captioner = save_query_set(root, database, QUERIES, SETTINGS).captioner(None, None, batch_size=3)
    names = ("system", "max_new_tokens", "resized_by", "reference_style")
    assert {name: getattr(captioner, name) for name in names} == {
        name: asdict(SETTINGS)[name] for name in names
    }
    assert captioner.batch_size == 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("settings.json", None, r"settings\.json: can't be read"),
        (
            "settings.json",
            {"sistem": "x"},
            r"settings\.json: sistem: must be an object with some of image_root, ",
        ),
        ("settings.json", [], r"settings\.json: no object"),
        ("settings.json", {"questions": "Who?"}, r"settings\.json, questions: must be a list"),
        ("settings.json", {"questions": []}, r"settings\.json, questions: must be a list"),
        ("settings.json", {"max_new_tokens": 0}, r"settings\.json, max_new_tokens: must be a whole number"),
        ("settings.json", {"resized_by": None}, r"settings\.json, resized_by: must be text"),
        ("queries.json", None, r"queries\.json: can't be read"),
        ("queries.json", {}, r"queries\.json: must be an object of sets"),
        ("queries.json", {"2": {}}, r"queries\.json, '2': must be a list"),
        ("queries.json", {"2": [{"references": []}]}, r"queries\.json, '2', query 1: needs 'query'"),
        (
            "queries.json",
            {"2": [QUERIES["2"][0], {"query": "q", "references": "<bo>", "shown": []}]},
            r"'2', query 2, references: must be a list of tags",
        ),
        (
            "queries.json",
            {"2": [{"query": "q", "references": ["<zoe>"], "shown": []}]},
            r"query 1, references: <zoe> is not in .*database\.json",
        ),
    ],
)
def test_what_is_wrong_is_named(root, database, file, content, message):
    save_query_set(root, database, QUERIES, SETTINGS)
    (root / file).unlink() if content is None else (root / file).write_text(json.dumps(content))
    with pytest.raises(QuerySetError, match=message):
        load_query_set(root)


def test_the_toy_world_is_such_a_folder(tmp_path):
    from repic_core.toyworld.dataset import SETTINGS, write_heldout

    database = write_heldout(tmp_path, "val", 2)
    found = load_query_set(tmp_path)
    assert found.settings == SETTINGS and found.settings.system is None
    assert len(found.database) == len(database) and all(
        len(found.items(label)) == 2 for label in found.queries
    )
    assert all(item.query.is_file() for item in found.items("4 all"))
