"""An index of the photos of concepts, searched by cosine similarity; `find` uses it for the concepts of a photo.

`ConceptIndex` keeps vectors in faiss, with exact searches up to 100,000 of them (`faiss_index`). A concept may
have several photos; one that can't be read is left out, with a warning. The index is made for one machine;
`qdrant_index` has the same methods on a vector database with a server.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.faiss_index import (
    IndexFileError,
    is_exact,
    make_faiss,
    repacked,
    search_faiss,
)
from repic_core.retrieval.index_files import NAME, read_index, write_index
from repic_core.retrieval.photos import Changes, Row, embedded, photos_of, warn_of_skipped
from repic_core.retrieval.threshold import check_search, fitted_threshold
from repic_core.retrieval.upstream import UPSTREAM, check_embedder, read_upstream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """A concept that was found, with the cosine similarity of its nearest photo."""

    tag: str
    similarity: float


class ConceptIndex:
    """Photos of concepts as vectors, searched by cosine similarity.

    >>> index = ConceptIndex("two numbers")
    >>> index.add("<bo>", [[1.0, 0.0]])
    >>> index.add("<mia>", [[0.0, 1.0]])
    >>> [hit.tag for hit in index.search([[0.6, 0.8]], k=2)[0]], index.search([[1.0, 0.9]], 2, threshold=0.9)
    (['<mia>', '<bo>'], [[]])

    Args:
        embedder_name: what made the vectors.
        threshold: least similarity of a hit, from `fit_threshold`; None accepts every hit.
    """

    def __init__(self, embedder_name: str, threshold: float | None = None) -> None:
        self.embedder_name, self.threshold = embedder_name, threshold
        self._faiss: Any = None
        # Of each vector, the tag and the photo's hash; None if it is removed.
        self._rows: list[Row | None] = []
        self._of_tag: dict[str, list[int]] = {}

    @classmethod
    def build(cls, database: ConceptDatabase, embedder: Any) -> ConceptIndex:
        """An index of all photos of `database`; `update` warns of those that can't be read."""
        index = cls(embedder.name)
        index.update(database, embedder)
        return index

    @classmethod
    def open(cls, folder: str | Path, database: ConceptDatabase, embedder: Any) -> ConceptIndex:
        """The index in `folder`, brought up to date with `database` and saved. It is built again if there is none,
        or if it is broken or of another embedder."""
        folder, index = Path(folder), cls(embedder.name)
        if (folder / NAME).exists():
            try:
                index = cls.load(folder)
            except IndexFileError as error:
                logger.warning("%s (it is built again now)", error)
        changes = index.update(database, embedder)
        if changes.added or changes.removed or not len(index):
            index.save(folder)
        return index

    @classmethod
    def read_upstream(
        cls, folder: str | Path, database: ConceptDatabase, embedder: Any = None
    ) -> ConceptIndex:
        """The authors' index: ``image.faiss`` and ``id2filename.json`` in `folder` (CLIP ViT-L/14-336).

        Paths in the index may be absolute or under another root, so each file name is matched to the photo of
        `database` with which it shares the longest end (`upstream.read_upstream`). Photos of no concept are left
        out, with a warning.

        Args:
            embedder: what queries will be embedded with. The files don't say what made their vectors, so some
                photos are embedded again and compared (`upstream.check_embedder`). Without it, `find.find_concepts`
                refuses the index.

        Raises:
            IndexFileError: a file is missing or broken; there are fewer vectors than names (a photo failed when the
                index was made, and every later name belongs to another vector); a name fits several photos; or the
                vectors are not the embedder's.
        """
        found = list(read_upstream(Path(folder), database))
        if embedder is not None:
            check_embedder(Path(folder), found, embedder)
        index = cls(UPSTREAM if embedder is None else embedder.name)
        for tag, _, vector in found:
            index.add(tag, vector[None])
        return index

    def update(self, database: ConceptDatabase, embedder: Any) -> Changes:
        """Bring the index up to date with `database`. Only photos that are new or changed are embedded, or all if
        the index is of another embedder. Photos that can't be read are left out, with a warning."""
        removed = 0
        if embedder.name != self.embedder_name:
            removed = len(self)
            # The threshold goes, too: it was for other vectors.
            self.__init__(embedder.name)
        missing, skipped = photos_of(database)
        for number, row in enumerate(self._rows):
            if row is not None and missing.pop(row, None) is None:
                self._drop(number)
                removed += 1
        added = 0
        for rows, vectors in embedded(missing, embedder, skipped):
            self._add(rows, vectors)
            added += len(rows)
        self.pack()
        warn_of_skipped(skipped)
        return Changes(added, removed, tuple(skipped))

    def add(self, tag: str, vectors: Any) -> None:
        """Add photos of a concept, new or known, as vectors (photos, dimensions)."""
        self.add_many([tag] * len(vectors), vectors)

    def add_many(self, tags: Sequence[str], vectors: Any) -> None:
        """Add a photo of each of these concepts as vectors (photos, dimensions)."""
        self._add([(tag, "") for tag in tags], unit(vectors))

    def remove(self, tag: str) -> None:
        """Remove a concept; KeyError if the index doesn't have it. Until `save` or `update`, its vectors are only
        skipped: after most of more than 100,000 vectors are removed, searches find fewer concepts until then."""
        for number in self._of_tag[key(tag)].copy():
            self._drop(number)

    def rename(self, tag: str, new: str) -> None:
        """Give a concept another tag; KeyError if the index doesn't have it, ValueError if the new tag is taken."""
        if key(new) in self._of_tag and key(new) != key(tag):
            raise ValueError(f"the tag {new} is taken already: choose another for {tag}")
        numbers = self._of_tag.pop(key(tag))
        self._of_tag[key(new)] = numbers
        for number in numbers:
            self._rows[number] = (new, self._rows[number][1])

    def search(self, vectors: Any, k: int, threshold: float | None = None) -> list[list[Hit]]:
        """The up to `k` nearest concepts of each vector, nearest first; of equally similar ones those whose tags
        sort first.

        Args:
            vectors: (n, dimensions), of any length. If the embedder can embed texts, they may be of texts.
            threshold: least cosine similarity of a hit, in single precision (1.0 may refuse even the same photo);
                None takes the index's own threshold, if it has one.
        """
        threshold = self.threshold if threshold is None else threshold
        check_search(k, threshold)
        if not len(self) or not len(vectors):
            return [[] for _ in vectors]
        vectors = unit(vectors)
        self._check_dimensions(vectors)
        wanted = min(k, len(self._of_tag))
        least = -1.0 if threshold is None else threshold
        # Several vectors may belong to one concept, be equally similar or be removed; then more are fetched.
        fetch = k + 1
        while True:
            fetch = min(fetch, self._faiss.ntotal)
            similarities, numbers = search_faiss(self._faiss, vectors, fetch)
            found = [self._hits(*row, threshold) for row in zip(similarities, numbers, strict=True)]
            enough = [
                len(hits) == len(self._of_tag)
                or (len(hits) >= wanted and row[-1] < hits[wanted - 1].similarity)
                or row[-1] < least
                or last[-1] < 0
                for hits, row, last in zip(found, similarities, numbers, strict=True)
            ]
            if fetch == self._faiss.ntotal or all(enough):
                return [hits[:k] for hits in found]
            fetch *= 4

    def fit_threshold(self, vectors: Any, tags: Sequence[str | None], false_accepts: float = 0.05) -> float:
        """Set and return the threshold with which at most a share `false_accepts` of wrong nearest concepts is
        accepted; arguments as in `threshold.fitted_threshold`."""
        self.threshold = fitted_threshold(self, vectors, tags, false_accepts)
        return self.threshold

    def save(self, folder: str | Path) -> None:
        """Write the index into `folder`, whole or not at all (`index_files.write_index`)."""
        self.pack()
        about = {"embedder": self.embedder_name, "threshold": self.threshold, "rows": self._rows}
        write_index(Path(folder), about, self._faiss)

    @classmethod
    def load(cls, folder: str | Path) -> ConceptIndex:
        """Read a saved index.

        Raises:
            IndexFileError: a file is missing or broken, or the files are not of the same index.
        """
        about, vectors = read_index(Path(folder))
        path = Path(folder) / NAME
        try:
            threshold = about["threshold"]
            index = cls(str(about["embedder"]), None if threshold is None else float(threshold))
            rows = [None if row is None else (str(row[0]), str(row[1])) for row in about["rows"]]
        except (TypeError, KeyError, IndexError, ValueError):
            raise IndexFileError(f"{path}: not a saved concept index: delete the folder") from None
        if len(rows) != (0 if vectors is None else vectors.ntotal):
            raise IndexFileError(f"{path}: does not belong to the vectors beside it: delete the folder")
        index._rows, index._faiss = rows, vectors
        index._know(0)
        return index

    @property
    def exact(self) -> bool:
        """Whether a search compares with every vector."""
        return self._faiss is None or not hasattr(self._faiss, "k_factor")

    @property
    def tags(self) -> list[str]:
        """Tags of the concepts in the index."""
        return [self._rows[numbers[0]][0] for numbers in self._of_tag.values()]

    def __len__(self) -> int:
        """Number of photos in the index."""
        return sum(map(len, self._of_tag.values()))

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, str) and key(tag) in self._of_tag

    def __repr__(self) -> str:
        kind = "exact" if self.exact else "lists of codes"
        return f"ConceptIndex({len(self._of_tag)} concepts, {len(self)} photos, {kind}, {self.embedder_name})"

    def _hits(self, similarities: Any, numbers: Any, threshold: float | None) -> list[Hit]:
        best: dict[str, Hit] = {}
        for inner, number in zip(similarities.tolist(), numbers.tolist(), strict=True):
            row = self._rows[number] if number >= 0 else None
            similarity = min(1.0, max(-1.0, inner))
            if row is not None and (threshold is None or similarity >= threshold):
                best.setdefault(key(row[0]), Hit(row[0], similarity))
        return sorted(best.values(), key=lambda hit: (-hit.similarity, hit.tag))

    def _add(self, rows: Sequence[tuple[str, str]], vectors: Any) -> None:
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} photos, but {len(vectors)} vectors: give one each")
        if not rows:
            return
        if self._faiss is None:
            self._faiss = make_faiss(len(vectors), vectors)
        self._check_dimensions(vectors)
        self._faiss.add(vectors)
        self._rows += rows
        self._know(len(self._rows) - len(rows))

    def _know(self, start: int) -> None:
        """Note to which tags the rows from `start` on belong."""
        for number, row in enumerate(self._rows[start:], start):
            if row is not None:
                self._of_tag.setdefault(key(row[0]), []).append(number)

    def _check_dimensions(self, vectors: Any) -> None:
        if vectors.shape[1] != self._faiss.d:
            raise ValueError(f"vectors of {vectors.shape[1]} dimensions in an index of {self._faiss.d}")

    def _drop(self, number: int) -> None:
        tag, _ = self._rows[number]
        self._rows[number] = None
        self._of_tag[key(tag)].remove(number)
        if not self._of_tag[key(tag)]:
            del self._of_tag[key(tag)]

    def pack(self) -> None:
        """Build the faiss index again if most of it is removed, or if its kind is for another size. `add` and
        `remove` leave this to `update` and `save`, so that no edit has to wait for it."""
        mostly_used = len(self) * 2 >= len(self._rows)
        if self._faiss is None or (mostly_used and self.exact == is_exact(len(self))):
            return
        kept = [number for number, row in enumerate(self._rows) if row is not None]
        self._faiss = repacked(self._faiss, kept) if kept else None
        self._rows, self._of_tag = [self._rows[number] for number in kept], {}
        self._know(0)
