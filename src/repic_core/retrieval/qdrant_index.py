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
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.io.extras import need
from repic_core.io.images import open_image
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.index import Hit
from repic_core.retrieval.photos import Changes, embedded, photos_of, warn_of_skipped
from repic_core.retrieval.threshold import check_search, fitted_threshold

PAGE = 1000  # points read or written at a time


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
        if not client.collection_exists(self.collection):
            client.create_collection(
                self.collection,
                vectors_config=models.VectorParams(size=dimensions, distance=models.Distance.COSINE),
                shard_number=shards,
                replication_factor=replicas,
            )
            tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
            client.create_payload_index(self.collection, "user", field_schema=tenant)
            client.create_payload_index(self.collection, "key", models.PayloadSchemaType.KEYWORD)
        self._dimensions = client.get_collection(self.collection).config.params.vectors.size
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
        for start in range(0, len(gone), PAGE):
            self.client.delete(self.collection, models.PointIdsList(points=gone[start : start + PAGE]))
        added = 0
        for rows, vectors in embedded(missing, embedder, skipped):
            self._add(rows, vectors)
            added += len(rows)
        warn_of_skipped(skipped)
        return Changes(added, len(gone), tuple(skipped))

    def add(self, tag: str, vectors: Any) -> None:
        """As `ConceptIndex.add`."""
        self.add_many([tag] * len(vectors), vectors)

    def add_many(self, tags: Sequence[str], vectors: Any) -> None:
        """As `ConceptIndex.add_many`."""
        self._add([(tag, uuid.uuid4().hex) for tag in tags], unit(vectors))

    def remove(self, tag: str) -> None:
        """As `ConceptIndex.remove`."""
        if tag not in self:
            raise KeyError(tag)
        self.client.delete(self.collection, self._mine(tag))

    def rename(self, tag: str, new: str) -> None:
        """As `ConceptIndex.rename`."""
        if tag not in self:
            raise KeyError(tag)
        if new in self and key(new) != key(tag):
            raise ValueError(f"the tag {new} is taken already: choose another for {tag}")
        self.client.set_payload(self.collection, {"tag": new, "key": key(new)}, points=self._mine(tag))

    def forget(self) -> None:
        """Remove everything that belongs to this user."""
        self.client.delete(self.collection, self._mine())

    def search(self, vectors: Any, k: int, threshold: float | None = None) -> list[list[Hit]]:
        """As `ConceptIndex.search`."""
        threshold = self.threshold if threshold is None else threshold
        check_search(k, threshold)
        found = []
        if len(vectors):
            self._check_dimensions(vectors := unit(vectors))
        for vector in vectors:
            groups = self.client.query_points_groups(
                self.collection,
                group_by="key",
                query=vector,
                query_filter=self._mine(),
                limit=k,
                group_size=1,
                score_threshold=threshold,
            ).groups
            best = [group.hits[0] for group in groups]
            hits = [Hit(point.payload["tag"], min(1.0, max(-1.0, point.score))) for point in best]
            found.append(sorted(hits, key=lambda hit: (-hit.similarity, hit.tag)))
        return found

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
        return self.client.count(self.collection, count_filter=self._mine()).count

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, str) and self.client.count(self.collection, self._mine(tag)).count > 0

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

    def _points(self) -> Any:
        offset = None
        while True:
            points, offset = self.client.scroll(self.collection, self._mine(), limit=PAGE, offset=offset)
            yield from points
            if offset is None:
                return

    def _check_dimensions(self, vectors: Any) -> None:
        if vectors.shape[1] != self._dimensions:
            raise ValueError(f"vectors of {vectors.shape[1]} dimensions in an index of {self._dimensions}")

    def _add(self, rows: Sequence[tuple[str, str]], vectors: Any) -> None:
        models = _qdrant_models()

        self._check_dimensions(vectors)

        points = [
            models.PointStruct(
                id=str(uuid.uuid4()),
                vector=vector.tolist(),
                payload={"user": self.user, "tag": tag, "key": key(tag), "photo": photo},
            )
            for (tag, photo), vector in zip(rows, vectors, strict=True)
        ]
        for start in range(0, len(points), PAGE):
            self.client.upsert(self.collection, points[start : start + PAGE])


def _qdrant_models() -> Any:
    """The client's module of requests; MissingExtra where the package is not installed."""
    need("qdrant_client", extra="qdrant")
    from qdrant_client import models

    return models
