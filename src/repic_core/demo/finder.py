"""Find which concepts a photo shows, in an index of the given ones and in one of the visitor's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.shelf import Shelf
from repic_core.retrieval.find import find_concepts
from repic_core.retrieval.index import ConceptIndex, Hit
from repic_core.retrieval.regions import Box, whole


class Finder:
    """``Finder(given, embedder)(photo, shelf)`` gives the tags of up to `k` concepts nearest to regions of `photo`.

    Args:
        given: the concepts that everybody is given; embedded once.
        embedder, regions, k: as in `find.find_concepts`.
    """

    def __init__(
        self,
        given: ConceptDatabase,
        embedder: Any,
        regions: Callable[[Any], list[Box]] = whole,
        k: int = 4,
    ) -> None:
        self._given = ConceptIndex.build(given, embedder)
        self._embedder, self._regions, self._k = embedder, regions, k

    def __call__(self, photo: Any, shelf: Shelf) -> list[str]:
        own = shelf.own
        indexes = [self._given]
        if len(own):
            # The visitor's index is kept in the shelf's folder, so that only what has changed is embedded.
            indexes.insert(0, ConceptIndex.open(shelf.folder / "index", own, self._embedder))
        hits = find_concepts(photo, _Both(indexes), self._embedder, self._regions, self._k)
        return [hit.tag for hit in hits]


class _Both:
    """Indexes searched as one; a concept of the first hides a concept with the same tag in the others."""

    def __init__(self, indexes: Sequence[ConceptIndex]) -> None:
        self._indexes, self.embedder_name = indexes, indexes[0].embedder_name

    def search(self, vectors: Any, k: int, threshold: float | None = None) -> list[list[Hit]]:
        first, *others = self._indexes
        found = [list(hits) for hits in first.search(vectors, k, threshold)]
        for other in others:
            for hits, more in zip(found, other.search(vectors, k + len(first), threshold), strict=True):
                hits += [hit for hit in more if hit.tag not in first]
        return [sorted(hits, key=lambda hit: -hit.similarity)[:k] for hits in found]
