"""The index on a vector database, in the client's own embedded mode: the same hits, and users kept apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers.colours import Colors, colours
from repic_core.retrieval.find import ConceptIndex, find_concepts
from repic_core.retrieval.qdrant_index import QdrantConceptIndex
from repic_core.retrieval.upstream import UPSTREAM

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")


@pytest.fixture
def client(tmp_path):
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(tmp_path / "store"))
    yield client
    client.close()


def test_hits_are_those_of_the_exact_index_also_after_edits(client):
    rng = np.random.default_rng(0)
    exact, stored = ConceptIndex("random"), QdrantConceptIndex(client, "ann", "random", 6)
    for index in range(12):
        rows = rng.normal(size=(1 + index % 3, 6))
        for one in (exact, stored):
            one.add(f"<c{index}>", rows)
    for one in (exact, stored):
        one.remove("<C3>")
        one.rename("<c5>", "<bo>")
    queries = rng.normal(size=(5, 6))
    for k, threshold in ((1, None), (4, None), (20, 0.2), (3, 0.99)):
        for expected, hits in zip(
            exact.search(queries, k, threshold), stored.search(queries, k, threshold), strict=True
        ):
            assert [hit.tag for hit in hits] == [hit.tag for hit in expected]
            expected = [hit.similarity for hit in expected]
            assert [hit.similarity for hit in hits] == pytest.approx(expected, abs=1e-5)
    assert sorted(stored.tags) == sorted(exact.tags) and len(stored) == len(exact)
    for wrong in (stored.remove, lambda tag: stored.rename(tag, "<new>")):
        with pytest.raises(KeyError):
            wrong("<c3>")
    with pytest.raises(ValueError, match="<BO> is taken"):
        stored.rename("<c1>", "<BO>")


def test_users_are_kept_apart(client, tmp_path):
    embedder = Colors()
    ann = colours(tmp_path / "ann", red=(250, 0, 0), blue=(0, 0, 250))
    ben = colours(tmp_path / "ben", red=(0, 250, 0))  # another thing of the same name
    of_ann = QdrantConceptIndex.build(ann, embedder, client, "ann")
    of_ben = QdrantConceptIndex.build(ben, embedder, client, "ben")
    green = [(1, 251, 1)]
    assert [hit.tag for hit in of_ben.search(green, k=5)[0]] == ["<red>"]
    assert of_ben.search(green, k=1)[0][0].similarity == pytest.approx(1, abs=1e-5)
    assert all(hit.similarity < 0.1 for hit in of_ann.search(green, k=5)[0])
    of_ben.rename("<red>", "<leaf>")
    assert sorted(of_ann.tags) == ["<blue>", "<red>"] and of_ben.tags == ["<leaf>"]
    of_ann.remove("<red>")
    of_ben.forget()
    assert of_ann.tags == ["<blue>"] and of_ben.tags == [] and of_ben.search(green, k=1) == [[]]
    with pytest.raises(ValueError, match="must belong to somebody"):
        QdrantConceptIndex(client, " ", "x", 3)


def test_only_what_changed_is_embedded_and_it_outlives_the_client(client, tmp_path):
    from qdrant_client import QdrantClient

    embedder = Colors()
    known = colours(tmp_path, red=(250, 0, 0), blue=(0, 0, 250), grey=(99, 99, 99))
    index = QdrantConceptIndex.build(known, embedder, client, "ann")
    assert embedder.seen == 1 + 3  # one to know the dimensions
    (tmp_path / "grey.png").write_bytes(b"no photo")
    known.remove("<blue>")
    changes = index.update(known, embedder)
    assert (changes.added, changes.removed, len(changes.skipped)) == (0, 2, 1) and index.tags == ["<red>"]
    client.close()
    again = QdrantConceptIndex(QdrantClient(path=str(tmp_path / "store")), "ann", embedder.name, 3)
    assert again.update(known, embedder).added == 0 and again.tags == ["<red>"] and embedder.seen == 4
    again.client.close()
    with pytest.raises(ValueError, match="not of another: build another"):
        again.update(known, Colors("another"))


def test_an_unreadable_first_photo_a_threshold_and_two_spellings(client, tmp_path):
    known = colours(tmp_path, red=(250, 0, 0), blue=(0, 0, 250))
    (tmp_path / "red.png").write_bytes(b"no photo")
    index = QdrantConceptIndex.build(known, Colors(), client, "ann")
    assert index.tags == ["<blue>"]
    index.add_many(["<Blue>", "<mia>"], [[1, 1, 251], [1, 251, 1]])
    assert [hit.tag.lower() for hit in index.search([[1, 1, 251]], k=5)[0]] == ["<blue>", "<mia>"]
    index.fit_threshold([[1, 200, 100]], [None])
    assert index.search([[1, 200, 100]], k=1) == [[]] != index.search([[1, 251, 1]], k=1)
    (tmp_path / "blue.png").unlink()
    with pytest.raises(ValueError, match="no photo that can be read"):
        QdrantConceptIndex.build(known, Colors(), client, "ben")


def test_queries_of_another_embedder_are_refused(client, tmp_path):
    database = colours(tmp_path / "photos", red=(250, 0, 0), blue=(0, 0, 250))
    index = QdrantConceptIndex.build(database, Colors(), client, "ann")
    photo = Image.new("RGB", (9, 9), "red")
    assert find_concepts(photo, index, Colors(), k=1)[0].tag == "<red>"

    with pytest.raises(ValueError, match="the index is of mean colour, not of a stranger"):
        find_concepts(photo, index, Colors("a stranger"))
    of_upstream = QdrantConceptIndex(client, "ann", UPSTREAM, 3)
    with pytest.raises(ValueError, match="does not say what made its vectors"):
        find_concepts(photo, of_upstream, Colors("a stranger"))


def test_vectors_of_another_size_are_refused(client):
    index = QdrantConceptIndex(client, "ann", "three", 3)
    index.add("<bo>", [[1, 0, 0]])
    with pytest.raises(ValueError, match="vectors of 4 dimensions in an index of 3"):
        index.search([[1, 0, 0, 0]], 1)
    with pytest.raises(ValueError, match="vectors of 2 dimensions in an index of 3"):
        index.add("<mia>", [[1, 0]])
    with pytest.raises(
        ValueError, match=r"three: vectors of 4 dimensions, but those of its collection .* have 3"
    ):
        QdrantConceptIndex(client, "mia", "three", 4)
    assert index.search([], 1) == [] and index.tags == ["<bo>"]
