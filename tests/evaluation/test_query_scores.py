"""Rows of notebook 04 by hand, on a folder of two photos and a captioner without a model."""

import json

import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.query_scores import caption_sets, grid_of, plain, retrieval_rows, score_rows
from repic_core.evaluation.query_sets import QuerySettings, save_query_set
from repic_core.retrieval.find import ConceptIndex
from repic_core.retrieval.regions import whole

NAMES = ("bo", "mia", "zoe")


class Said:
    """Says of each photo what `captions` has for it, and notes how it was asked."""

    def __init__(self, captions):
        self.captions, self.asked = captions, []

    def caption(self, query, references, question):
        return self.captions[query.name]

    def caption_many(self, items, out, resume):
        self.asked.append((out.name, len(items), resume))
        rows = [[item.label, item.shown, self.captions[item.label], item.question] for item in items]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows))
        return rows


class Brightness:
    """Photos as vectors: an angle by their grey."""

    name = "brightness"

    def images(self, photos):
        import numpy as np

        angles = np.array([np.asarray(photo.convert("L")).mean() / 255 for photo in map(_open, photos)])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")


def _open(photo):
    return photo if isinstance(photo, Image.Image) else Image.open(photo)


@pytest.fixture
def queries(tmp_path):
    for grey, name in enumerate((*NAMES, "one", "two")):
        Image.new("RGB", (8, 8), (60 * grey % 180,) * 3).save(tmp_path / f"{name}.png")
    known = ConceptDatabase([Concept(name=name, image=f"{name}.png") for name in NAMES], root=tmp_path)
    asked = {
        "2": [
            {"query": "one.png", "references": ["<bo>", "<mia>"], "shown": ["<bo>"]},
            {"query": "two.png", "references": ["<mia>", "<zoe>"], "shown": ["<mia>"]},
        ],
        "2 all": [{"query": "one.png", "references": ["<bo>", "<mia>"], "shown": ["<bo>", "<mia>"]}],
    }
    return save_query_set(tmp_path / "queries", known, asked, QuerySettings(image_root=str(tmp_path)))


def test_rows_of_each_set(queries, tmp_path):
    said = Said({"one.png": "<bo> and <zoe>.", "two.png": "A cat."})
    files = caption_sets(said, queries, tmp_path / "out")
    assert said.asked == [("2.json", 2, False), ("2_all.json", 1, False)]
    caption_sets(said, queries, tmp_path / "some", ["2"], limit=1, resume=True)
    assert said.asked[2:] == [("2.json", 1, True)]
    rows = score_rows(files, queries.database, "mine")
    assert [(row["arm"], row["k"], row["n"]) for row in rows] == [("mine", "2", 2), ("mine", "2 all", 1)]
    assert (rows[0]["precision"].value, rows[0]["recall"].value) == (0.5, 0.5)
    assert (rows[0]["hallucinated"].value, rows[0]["words"].value) == (0.5, 2.5)
    numbers = plain(rows, 2)[0]
    assert (numbers["f1"], numbers["words"], numbers["k"]) == (0.5, 2.5, "2")
    assert json.loads(json.dumps(numbers)) == numbers


def test_a_grid_of_several_captioners(queries):
    items = queries.items("2", 1)
    said = {"a": Said({"one.png": "A dog."}), "b": Said({"one.png": "<bo>"})}
    (row,) = grid_of(items, said)
    assert (row.captions, row.tags) == ({"a": "A dog.", "b": "<bo>"}, ("<bo>",))
    assert [concept.tag for concept in row.references] == ["<bo>", "<mia>"]


def test_recall_among_the_first_found(queries):
    """one.png is black as <bo>; two.png is as <mia>'s, which is found first, too; of "2 all", <mia> is second."""
    embedder = Brightness()
    index = ConceptIndex.build(queries.database, embedder)
    rows = retrieval_rows(queries, "2", index, embedder, whole, k=4)
    assert [row["among the first"] for row in rows] == [1, 2, 4]
    assert [row["share of shown concepts"].value for row in rows] == [1, 1, 1]
    rows = retrieval_rows(queries, "2 all", index, embedder, whole, k=2)
    assert [row["share of shown concepts"].value for row in rows] == [0.5, 1]
