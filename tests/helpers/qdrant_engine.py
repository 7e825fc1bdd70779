"""Qdrant's own engine (the package qdrant-edge-py), with the methods of `QdrantClient` that the stand-in uses.

It is the server's Rust code for one shard: storage, filters, payload indexes and search, with no server around it.
"""

from __future__ import annotations

import tempfile
from typing import Any

import qdrant_edge as edge
from qdrant_client import QdrantClient
from qdrant_client.http import models


class Engine:
    """Shards in temporary folders, one for each collection."""

    def __init__(self) -> None:
        self._about, self._shards, self._folders = QdrantClient(":memory:"), {}, []
        self.collection_exists, self.get_collection = (
            self._about.collection_exists,
            self._about.get_collection,
        )

    def create_collection(self, name: str, vectors_config: models.VectorParams) -> bool:
        self._folders.append(tempfile.TemporaryDirectory())
        vectors = edge.EdgeVectorParams(vectors_config.size, edge.Distance.Cosine)
        self._shards[name] = edge.EdgeShard.create(self._folders[-1].name, edge.EdgeConfig(vectors=vectors))
        return self._about.create_collection(name, vectors_config=vectors_config)

    def create_payload_index(self, name: str, field: str, field_schema: Any) -> None:
        index = edge.KeywordIndexParams(is_tenant=getattr(field_schema, "is_tenant", None))
        self._shards[name].update(edge.UpdateOperation.create_field_index(field, index))

    def upsert(self, name: str, points: list[models.PointStruct]) -> None:
        given = [edge.Point(one.id, one.vector, one.payload) for one in points]
        self._shards[name].update(edge.UpdateOperation.upsert_points(given))

    def delete(self, name: str, selector: models.FilterSelector) -> None:
        self._shards[name].update(edge.UpdateOperation.delete_points_by_filter(translated(selector.filter)))

    def set_payload(self, name: str, payload: dict[str, Any], points: models.Filter) -> None:
        self._shards[name].update(edge.UpdateOperation.set_payload_by_filter(translated(points), payload))

    def count(self, name: str, count_filter: models.Filter) -> models.CountResult:
        request = edge.CountRequest(exact=True, filter=translated(count_filter))
        return models.CountResult(count=self._shards[name].count(request))

    def scroll(self, name: str, wanted: models.Filter, limit: int, offset: Any, with_payload: Any) -> Any:
        request = edge.ScrollRequest(offset, limit, translated(wanted), with_payload=True)
        points, after = self._shards[name].scroll(request)
        records = [models.Record(id=str(point.id), payload=point.payload) for point in points]
        return records, None if after is None else str(after)

    def query_batch_points(
        self, name: str, requests: list[models.QueryRequest]
    ) -> list[models.QueryResponse]:
        found = []
        for one in requests:
            request = edge.QueryRequest(
                limit=one.limit,
                query=edge.Query.Nearest(getattr(one.query, "nearest", one.query)),
                with_payload=one.with_payload,
                filter=translated(one.filter),
                score_threshold=one.score_threshold,
            )
            points = [
                models.ScoredPoint(id=str(hit.id), version=0, score=hit.score, payload=hit.payload)
                for hit in self._shards[name].query(request)
            ]
            found.append(models.QueryResponse(points=points))
        return found


def translated(wanted: models.Filter) -> edge.Filter:
    """The engine's own form of a filter; only of the conditions that the index uses."""
    assert wanted.should is None and wanted.must_not is None
    conditions = []
    for one in wanted.must:
        if isinstance(one, models.HasIdCondition):
            conditions.append(edge.HasIdCondition(set(one.has_id)))
        else:
            conditions.append(edge.FieldCondition(one.key, edge.MatchValue(one.match.value)))
    return edge.Filter(must=conditions)
