"""`ConceptIndex` on a vector database (Qdrant), for many users and for more photos than one machine holds.

It has the same methods `build`, `update`, `add`, `add_many`, `remove`, `rename`, `search` and `fit_threshold`.
Qdrant keeps what is written, so there is nothing to save or load, except the threshold, which belongs to this
object.

Why Qdrant: the open-source server distributes and replicates a collection over machines, and it keeps many users
apart in one collection (a payload field marked ``is_tenant``). The same client also runs without a server, in
memory or on a folder, as the tests do. LanceDB distributes only in its commercial edition. Milvus has both modes,
too, but its embedded one is a separate package that is not made for Windows.

Needs the extra ``qdrant``. Without a server (``QdrantClient(path=...)``) a search compares with every vector in
Python; use it for trials only.

A server that does not answer, or refuses, raises `QdrantError`. What was written before is kept.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.io.extras import need
from repic_core.io.images import open_image
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.index import Hit
from repic_core.retrieval.photos import Changes, embedded, photos_of, warn_of_skipped
from repic_core.retrieval.qdrant_errors import QdrantError, ask
from repic_core.retrieval.threshold import check_search, fitted_threshold

PAGE, SEARCHES = 1000, 100  # points read or written, and searches, in one request
# Numbers sent in one request: a server refuses more than 32 MB, and a number takes some 20 bytes in JSON.
NUMBERS = 1_000_000


class QdrantConceptIndex:
    """One user's photos of concepts in a Qdrant database.

    Each embedder has a collection of its own, so that its vectors are never compared with those of others. Every
    request filters by the user: no method reads or changes concepts of another user.

    Args:
        client: ``QdrantClient(url=...)`` for a server, ``QdrantClient(path=...)`` or ``":memory:"`` without one.
        user: whose concepts these are; not empty.
        shards, replicas: of a new collection, on a server of several machines.

    Raises:
        ValueError: the user is empty, or the embedder's collection has vectors of another size.
        QdrantError: the server did not answer, or refused; every method may raise it.
    """

    def __init__(
        self,
        client: Any,
        user: str,
        embedder_name: str,
        dimensions: int,
        threshold: float | None = None,
        shards: int | None = None,
        replicas: int | None = None,
    ) -> None:
        models = _qdrant_models()

        if not user.strip():
            raise ValueError("user is empty: concepts must belong to somebody")
        self.client, self.user, self.embedder_name, self.threshold = client, user, embedder_name, threshold
        self.collection = f"concepts-{hashlib.sha256(embedder_name.encode()).hexdigest()[:16]}"
        if not self._ask("collection_exists"):
            self._create(dimensions, shards, replicas)
        about = self._ask("get_collection")
        # A process that stopped here may have left a collection without them.
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        for name, schema in (("user", tenant), ("key", models.PayloadSchemaType.KEYWORD)):
            if name not in about.payload_schema:
                self._ask("create_payload_index", name, field_schema=schema)
        self._dimensions = about.config.params.vectors.size
        if self._dimensions != dimensions:
            raise ValueError(
                f"{embedder_name}: vectors of {dimensions} dimensions, but those of its collection "
                f"{self.collection} have {self._dimensions}: name another embedder, or delete the collection"
            )

    @classmethod
    def build(
        cls, database: ConceptDatabase, embedder: Any, client: Any, user: str, **options: Any
    ) -> QdrantConceptIndex:
        """An up-to-date index of all photos of `database`, of which at least one must be readable."""
        photos, _ = photos_of(database)
        # The first photo that can be read gives the number of dimensions.
        for photo in photos.values():
            try:
                dimensions = embedder.images([open_image(photo)]).shape[1]
            except ValueError:
                continue
            index = cls(client, user, embedder.name, dimensions, **options)
            index.update(database, embedder)
            return index
        raise ValueError("the database has no photo that can be read: add a concept first")

    def update(self, database: ConceptDatabase, embedder: Any) -> Changes:
        """As `ConceptIndex.update`, but ValueError for another embedder, which needs an index of its own."""
        models = _qdrant_models()

        if embedder.name != self.embedder_name:
            raise ValueError(f"this index is of {self.embedder_name}, not of {embedder.name}: build another")
        missing, skipped = photos_of(database)
        gone = []
        for point in self._points():
            if missing.pop((point.payload["tag"], point.payload["photo"]), None) is None:
                gone.append(point.id)
        # First what is new: an update that fails leaves no concept without photos, and the next one goes on.
        added = 0
        for rows, vectors in embedded(missing, embedder, skipped):
            self._add(rows, vectors)
            added += len(rows)
        for start in range(0, len(gone), PAGE):
            these = models.HasIdCondition(has_id=gone[start : start + PAGE])
            self._ask("delete", models.Filter(must=[*self._mine().must, these]))
        warn_of_skipped(skipped)
        return Changes(added, len(gone), tuple(skipped))

    def add(self, tag: str, vectors: Any) -> None:
        """As `ConceptIndex.add`."""
        self.add_many([tag] * len(vectors), vectors)

    def add_many(self, tags: Sequence[str], vectors: Any) -> None:
        """As `ConceptIndex.add_many`. After a `QdrantError` some of the photos may be there already: to add them
        again does no harm, or `remove` the concepts first."""
        self._add([(tag, uuid.uuid4().hex) for tag in tags], unit(vectors))

    def remove(self, tag: str) -> None:
        """As `ConceptIndex.remove`."""
        if tag not in self:
            raise KeyError(tag)
        self._ask("delete", self._mine(tag))

    def rename(self, tag: str, new: str) -> None:
        """As `ConceptIndex.rename`."""
        if tag not in self:
            raise KeyError(tag)
        if new in self and key(new) != key(tag):
            raise ValueError(f"the tag {new} is taken already: choose another for {tag}")
        self._ask("set_payload", {"tag": new, "key": key(new)}, points=self._mine(tag))

    def forget(self) -> None:
        """Remove everything that belongs to this user."""
        self._ask("delete", self._mine())

    def search(self, vectors: Any, k: int, threshold: float | None = None) -> list[list[Hit]]:
        """As `ConceptIndex.search`: of equally similar concepts those whose tags sort first."""
        threshold = self.threshold if threshold is None else threshold
        check_search(k, threshold)
        if not len(vectors):
            return []
        self._check_dimensions(vectors := unit(vectors))
        found: list[list[Hit]] = [[] for _ in vectors]
        # Several photos may belong to one concept, or be equally similar; then more are fetched. (A server that is
        # asked for groups stops looking for them after five rounds, and may return too few.)
        waiting, fetch, photos = list(range(len(vectors))), k + 1, len(self)
        while waiting and photos:
            fetch = min(fetch, photos)
            still = []
            for number, points in zip(
                waiting, self._nearest(vectors[waiting], fetch, threshold), strict=True
            ):
                hits = found[number] = _hits(points)
                all_seen = fetch == photos or len(points) < fetch
                if not all_seen and (len(hits) < k or points[-1].score >= hits[k - 1].similarity):
                    still.append(number)
            waiting, fetch = still, fetch * 4
        return [hits[:k] for hits in found]

    def fit_threshold(self, vectors: Any, tags: Sequence[str | None], false_accepts: float = 0.05) -> float:
        """As `ConceptIndex.fit_threshold`."""
        self.threshold = fitted_threshold(self, vectors, tags, false_accepts)
        return self.threshold

    @property
    def tags(self) -> list[str]:
        """Tags of the user's concepts."""
        return list(dict.fromkeys(point.payload["tag"] for point in self._points()))

    def __len__(self) -> int:
        """Number of the user's photos."""
        return self._ask("count", self._mine()).count

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, str) and self._ask("count", self._mine(tag)).count > 0

    def __repr__(self) -> str:
        return f"QdrantConceptIndex({self.user!r}, {len(self)} photos, {self.embedder_name})"

    def _mine(self, tag: str | None = None) -> Any:
        models = _qdrant_models()

        wanted = {"user": self.user} | ({} if tag is None else {"key": key(tag)})
        return models.Filter(
            must=[
                models.FieldCondition(key=name, match=models.MatchValue(value=value))
                for name, value in wanted.items()
            ]
        )

    def _nearest(self, vectors: Any, limit: int, threshold: float | None) -> Iterator[list[Any]]:
        """The photos nearest to each vector."""
        models = _qdrant_models()

        wanted = {
            "filter": self._mine(),
            "limit": limit,
            "score_threshold": threshold,
            "with_payload": ["tag"],
        }
        page = min(SEARCHES, self._page)
        for start in range(0, len(vectors), page):
            queries = vectors[start : start + page].tolist()
            requests = [models.QueryRequest(query=query, **wanted) for query in queries]
            yield from (reply.points for reply in self._ask("query_batch_points", requests))

    def _points(self) -> Any:
        offset = None
        while True:
            points, offset = self._ask("scroll", self._mine(), limit=PAGE, offset=offset)
            yield from points
            if offset is None:
                return

    @property
    def _page(self) -> int:
        """How many vectors one request may have."""
        return max(1, min(PAGE, NUMBERS // self._dimensions))

    def _check_dimensions(self, vectors: Any) -> None:
        if vectors.shape[1] != self._dimensions:
            raise ValueError(f"vectors of {vectors.shape[1]} dimensions in an index of {self._dimensions}")

    def _add(self, rows: Sequence[tuple[str, str]], vectors: Any) -> None:
        models = _qdrant_models()

        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} photos, but {len(vectors)} vectors: give one each")
        self._check_dimensions(vectors)
        page = self._page
        for start in range(0, len(rows), page):
            points = [
                models.PointStruct(
                    id=str(uuid.uuid4()),
                    vector=vector.tolist(),
                    payload={"user": self.user, "tag": tag, "key": key(tag), "photo": photo},
                )
                for (tag, photo), vector in zip(
                    rows[start : start + page], vectors[start : start + page], strict=True
                )
            ]
            self._ask("upsert", points)

    def _create(self, dimensions: int, shards: int | None, replicas: int | None) -> None:
        models = _qdrant_models()

        try:
            self._ask(
                "create_collection",
                vectors_config=models.VectorParams(size=dimensions, distance=models.Distance.COSINE),
                shard_number=shards,
                replication_factor=replicas,
            )
        except QdrantError:
            # Another process may have been first.
            if not self._ask("collection_exists"):
                raise

    def _ask(self, what: str, *args: Any, **options: Any) -> Any:
        return ask(self.client, what, self.collection, *args, **options)


def _hits(points: Sequence[Any]) -> list[Hit]:
    """The concepts of these photos, each with its nearest one's similarity, nearest first."""
    best: dict[str, Hit] = {}
    for point in points:
        tag, similarity = point.payload["tag"], min(1.0, max(-1.0, point.score))
        best.setdefault(key(tag), Hit(tag, similarity))
    return sorted(best.values(), key=lambda hit: (-hit.similarity, hit.tag))


def _qdrant_models() -> Any:
    """The client's module of requests; MissingExtra where the package is not installed."""
    need("qdrant_client", extra="qdrant")
    from qdrant_client import models

    return models
