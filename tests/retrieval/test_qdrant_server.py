"""The index over HTTP: on a stand-in for the server, and on a real one if REPIC_QDRANT_URL names it."""

from __future__ import annotations

import os
import uuid

import numpy as np
import pytest

from helpers.colours import Colors, colours, paint
from repic_core.retrieval import qdrant_index
from repic_core.retrieval.index import ConceptIndex
from repic_core.retrieval.qdrant_errors import QdrantError
from repic_core.retrieval.qdrant_index import QdrantConceptIndex

pytest.importorskip("qdrant_client", reason="needs the extra qdrant")
from qdrant_client import QdrantClient

from helpers.qdrant_server import serving, stop


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def client(server):
    client = QdrantClient(url=server.url, timeout=60, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture(params=["stand-in", "engine", "server"])
def any_client(request):
    """A client of the stand-in, of the stand-in with Qdrant's own engine, or of a real server."""
    if request.param == "stand-in":
        yield request.getfixturevalue("client")
    elif request.param == "engine":
        pytest.importorskip("qdrant_edge", reason="Qdrant's own engine: pip install qdrant-edge-py")
        from helpers.qdrant_engine import Engine

        with serving(Engine()) as server:
            client = QdrantClient(url=server.url, timeout=60, check_compatibility=False)
            yield client
            client.close()
    elif not (url := os.environ.get("REPIC_QDRANT_URL")):
        pytest.skip(
            "no server: docker run -p 6333:6333 qdrant/qdrant, REPIC_QDRANT_URL=http://localhost:6333"
        )
    else:
        client = QdrantClient(url=url, api_key=os.environ.get("REPIC_QDRANT_KEY"))
        before = {one.name for one in client.get_collections().collections}
        yield client
        for one in client.get_collections().collections:
            if one.name not in before:
                client.delete_collection(one.name)
        client.close()


def same(stored, exact, queries, k, threshold=None):
    expected, found = exact.search(queries, k, threshold), stored.search(queries, k, threshold)
    assert [[hit.tag for hit in hits] for hits in found] == [[hit.tag for hit in hits] for hits in expected]
    similarities = [hit.similarity for hits in found for hit in hits]
    assert similarities == pytest.approx([hit.similarity for hits in expected for hit in hits], abs=1e-5)


def test_the_hits_are_those_of_faiss_also_after_edits(any_client):
    rng, name = np.random.default_rng(0), f"random {uuid.uuid4()}"
    exact, stored = ConceptIndex(name), QdrantConceptIndex(any_client, "ann", name, 6)
    queries = rng.normal(size=(5, 6))
    for one, seed in ((exact, 1), (stored, 1)):
        rng = np.random.default_rng(seed)
        for index in range(12):
            one.add(f"<c{index}>", rng.normal(size=(1 + index % 3, 6)))
        # Many photos of one concept are nearest to the first query: they take no other's place.
        one.add("<many>", queries[0] + 0.01 * rng.normal(size=(60, 6)))
        one.add_many([f"<d{index}>" for index in range(9)], rng.normal(size=(9, 6)))
        one.remove("<C3>")
        one.rename("<c5>", "<bo>")
    for k, threshold in ((1, None), (4, None), (30, None), (20, 0.2), (3, 0.99)):
        same(stored, exact, queries, k, threshold)
    assert sorted(stored.tags) == sorted(exact.tags) and len(stored) == len(exact)
    labels = ["<c1>", "<many>", None, None, "<d2>"]
    expected = exact.fit_threshold(queries, labels, 0.4)
    assert stored.fit_threshold(queries, labels, 0.4) == pytest.approx(expected, abs=1e-5)


def test_ties_are_ordered_as_by_faiss(any_client):
    name = f"ties {uuid.uuid4()}"
    exact, stored = ConceptIndex(name), QdrantConceptIndex(any_client, "ann", name, 4)
    for one in (exact, stored):
        for tag in ("<d>", "<b>", "<far>", "<a>", "<c>", "<e>"):
            one.add(tag, [[1, 0, 0, 1] if tag == "<far>" else [1, 0, 0, 0]] * 3)
    for k in (1, 2, 3, 4, 5, 6, 9):
        same(stored, exact, [[1, 0, 0, 0], [1, 0, 0, 1]], k)
    assert [hit.tag for hit in stored.search([[1, 0, 0, 0]], 3)[0]] == ["<a>", "<b>", "<c>"]


def test_photos_are_built_updated_and_paged(any_client, tmp_path, monkeypatch):
    monkeypatch.setattr(qdrant_index, "PAGE", 2)
    embedder = Colors(f"colours {uuid.uuid4()}")
    known = colours(tmp_path, **{f"c{index}": (20 * index, 250 - 20 * index, 9) for index in range(7)})
    index = QdrantConceptIndex.build(known, embedder, any_client, "ann")
    assert len(index) == 7 and index.update(known, embedder).added == 0
    for number in range(5):
        known.remove(f"<c{number}>")
    paint(tmp_path / "c6.png", (1, 2, 250))
    changes = index.update(known, embedder)
    assert (changes.added, changes.removed) == (1, 6) and sorted(index.tags) == ["<c5>", "<c6>"]
    assert [hit.tag for hit in index.search([(2, 3, 251)], 1)[0]] == ["<c6>"]
    index.forget()
    assert index.tags == [] and index.search([(2, 3, 251)], 1) == [[]]


def users_of(body):
    """The users that a request is about."""
    if "searches" in body:
        return [user for search in body["searches"] for user in users_of(search)]
    if body.get("points"):
        return [point["payload"]["user"] for point in body["points"]]
    return [one["match"]["value"] for one in body["filter"]["must"] if one.get("key") == "user"]


def test_every_request_on_photos_names_its_user_alone(server, client, tmp_path):
    embedder = Colors(f"colours {uuid.uuid4()}")
    known = {
        "ann": colours(tmp_path / "ann", red=(250, 0, 0), blue=(0, 0, 250)),
        "ben": colours(tmp_path / "ben", red=(0, 250, 0), pink=(250, 99, 99)),
    }
    kinds = set()
    for user, other in (("ann", "ben"), ("ben", "ann"), ("ann", "ben")):
        theirs = QdrantConceptIndex.build(known[other], embedder, client, other)
        before = [point.model_dump() for point in theirs._points()]
        server.requests.clear()
        index = QdrantConceptIndex.build(known[user], embedder, client, user)
        index.add("<new>", [[1, 2, 3]])
        index.add_many(["<newer>", "<red>"], [[1, 2, 3], [3, 2, 1]])
        index.rename("<new>", "<old>")
        index.search([[1, 2, 3]], 9)
        index.fit_threshold([[1, 2, 3]], [None])
        index.remove("<newer>")
        (tmp_path / user / "red.png").write_bytes(b"no photo")
        index.update(known[user], embedder)
        assert "<red>" not in index and "<old>" not in index and len(index) == 1 and index.tags
        index.forget()
        on_photos = [(method, path, body) for method, path, body in server.requests if "/points" in path]
        kinds |= {(method, path.split("/points")[1].split("?")[0]) for method, path, _ in on_photos}
        for method, path, body in on_photos:
            assert set(users_of(body)) == {user}, (method, path, body)
        assert [point.model_dump() for point in theirs._points()] == before
        paint(tmp_path / user / "red.png", (250, 0, 0))
    reads = {("POST", f"/{one}") for one in ("scroll", "count", "query/batch")}
    assert kinds == {("PUT", ""), ("POST", "/delete"), ("POST", "/payload")} | reads


def test_no_request_is_larger_than_a_server_takes(server, client, monkeypatch):
    index = QdrantConceptIndex(client, "ann", "large", 3584)
    index.add("<many>", np.random.default_rng(0).normal(size=(450, 3584)))
    sent = [
        len(body["points"]) for method, path, body in server.requests if path.endswith("/points?wait=true")
    ]
    assert sent == [279, 171] and len(index) == 450
    monkeypatch.setattr(qdrant_index, "NUMBERS", 4 * 3584)
    found = index.search(np.ones((10, 3584)), 1)
    assert [hit.tag for hits in found for hit in hits] == ["<many>"] * 10
    searches = [len(body["searches"]) for _, path, body in server.requests if "query" in path]
    assert searches[:3] == [4, 4, 2] and max(searches) == 4


def test_errors_are_one_sentence_and_lose_nothing(server, client, tmp_path):
    embedder = Colors(f"colours {uuid.uuid4()}")
    known = colours(tmp_path, red=(250, 0, 0), blue=(0, 0, 250))
    index = QdrantConceptIndex.build(known, embedder, client, "ann")
    paint(tmp_path / "red.png", (0, 250, 0))
    calls = {
        "/points": lambda: index.add("<x>", [[1, 2, 3]]),
        "/count": lambda: len(index),
        "/query/batch": lambda: index.search([[1, 2, 3]], 1),
        "/payload": lambda: index.rename("<red>", "<x>"),
        "/delete": lambda: index.remove("<red>"),
        "/scroll": lambda: index.tags,
        "/exists": lambda: QdrantConceptIndex(client, "ann", embedder.name, 3),
    }
    for end, call in calls.items():
        server.broken = {end: 500}
        with pytest.raises(
            QdrantError, match=r"answered 500 \(out of disk space\) when asked to \w+: see its"
        ):
            call()
    # A photo changed. Its old vector stays until the new one is written, and the next update goes on from there.
    for end in ("/points", "/delete"):
        server.broken = {end: 503}
        with pytest.raises(QdrantError, match="answered 503") as told:
            index.update(known, embedder)
        assert "\n" not in str(told.value)
        server.broken = {}
        assert {"<red>", "<blue>"} == set(index.tags)
    changes = index.update(known, embedder)
    assert (changes.added, changes.removed) == (0, 1) and len(index) == 2
    assert index.search([(1, 251, 1)], 1)[0][0].similarity == pytest.approx(1, abs=1e-5)


def test_no_answer_is_one_sentence(server, client):
    index = QdrantConceptIndex(client, "ann", "three", 3)
    index.add("<bo>", [[1, 0, 0]])
    server.broken = {"/query/batch": 0}
    index.client = QdrantClient(url=server.url, timeout=1, check_compatibility=False)
    with pytest.raises(
        QdrantError, match=r"did not answer \(timed out\) when asked to query_batch_points: check"
    ):
        index.search([[1, 0, 0]], 1)
    index.client.close()
    index.client = client
    stop(server)
    with pytest.raises(QdrantError, match=r"did not answer \(.+\) when asked to count: check that"):
        len(index)
    assert server.store.count(index.collection).count == 1


def test_two_processes_may_make_the_collection_and_one_may_stop_half_way(server, client, monkeypatch):
    QdrantConceptIndex(client, "ann", "three", 3).add("<bo>", [[1, 0, 0]])
    (collection,) = server.indexed
    assert server.indexed[collection]["user"] == {"type": "keyword", "is_tenant": True}
    seen, exists = [], client.collection_exists
    monkeypatch.setattr(
        client, "collection_exists", lambda name: bool(seen.append(1) or exists(name)) and len(seen) > 1
    )
    del server.indexed[collection]["key"]
    late = QdrantConceptIndex(client, "ann", "three", 3)
    assert late.tags == ["<bo>"] and len(seen) == 2 and set(server.indexed[collection]) == {"user", "key"}
    server.broken = {late.collection: 500}
    monkeypatch.setattr(client, "collection_exists", lambda name: False)
    with pytest.raises(QdrantError, match="answered 500"):
        QdrantConceptIndex(client, "ann", "three", 3)
