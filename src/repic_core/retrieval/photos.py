"""The photos of a database for an index: known by their content, embedded in chunks, unreadable ones left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.io.files import read_json
from repic_core.io.images import image_hash, open_image
from repic_core.io.paths import plain
from repic_core.retrieval.faiss_index import IndexFileError, read_faiss

CHUNK = 256  # photos open at a time
LONGEST = (
    2048  # pixels a side: embedders shrink photos to a few hundred, and CHUNK whole ones fill the memory
)
logger = logging.getLogger(__name__)
# Tag and hash of a photo.
Row = tuple[str, str]
# Tag, photo, why it can't be read.
Skipped = tuple[str, str, str]


@dataclass(frozen=True)
class Changes:
    """What `ConceptIndex.update` did: photos added and removed, and ``(tag, photo, why)`` of each photo that can't
    be read."""

    added: int
    removed: int
    skipped: tuple[Skipped, ...] = ()


def photos_of(database: ConceptDatabase) -> tuple[dict[Row, Any], list[Skipped]]:
    """Each photo of `database` by its tag and hash, and the photos that can't be read."""
    photos: dict[Row, Any] = {}
    skipped = []
    for concept in database:
        for image in concept.images:
            if database.root is not None and isinstance(image, str | Path):
                # As `ConceptDatabase.save` reads it.
                image = database.root / image
            try:
                photos[concept.tag, image_hash(image)] = image
            except (OSError, ValueError) as error:
                skipped.append((concept.tag, str(image), getattr(error, "strerror", None) or str(error)))
    return photos, skipped


def embedded(
    photos: dict[Row, Any], embedder: Any, skipped: list[Skipped]
) -> Iterator[tuple[list[Row], Any]]:
    """Yields rows and their vectors, a chunk at a time; appends to `skipped` what can't be opened."""
    rows = list(photos)
    for start in range(0, len(rows), CHUNK):
        opened = {}
        for row in rows[start : start + CHUNK]:
            try:
                opened[row] = open_image(photos[row], LONGEST)
            except ValueError as error:
                skipped.append((row[0], str(photos[row]), str(error)))
        if opened:
            yield list(opened), embedder.images(list(opened.values()))


def warn_of_skipped(skipped: Iterable[Skipped]) -> None:
    """Log which photos are left out of an index, and why."""
    for tag, photo, why in skipped:
        logger.warning("%s: %s left out of the index: %s", tag, photo, why)


def read_upstream(folder: Path, database: ConceptDatabase) -> Iterator[tuple[str, Any]]:
    """Yields tag and vector of each photo in the authors' index; see `ConceptIndex.read_upstream`.

    A name belongs to a photo if it ends like the photo's path under the database's root, or with the same folder
    and file name, or if nothing else in the index and in the database has its file name. Of several photos, the
    one with the longest common end is taken.
    """
    vectors, path = read_faiss(folder / "image.faiss"), folder / "id2filename.json"
    names = _read_names(path, vectors.ntotal)
    above = len(_parts(str(database.root.resolve()))) if database.root else 0
    # By file name: path, number of parts under the root, tag.
    photos: dict[str, list[tuple[tuple[str, ...], int, str]]] = {}
    for concept in database:
        for image in map(str, concept.images):
            parts = _parts(image)
            under = len(parts) - above
            photos.setdefault(parts[-1], []).append((parts, under if under > 0 else len(parts), concept.tag))
    alike = Counter(parts[-1] for parts in map(_parts, names))
    # Of each photo: length of the shared end, number of the vector.
    claims: dict[tuple[tuple[str, ...], str], tuple[int, int]] = {}
    for number, parts in enumerate(map(_parts, names)):
        known = photos.get(parts[-1], [])
        alone = alike[parts[-1]] == len(known) == 1
        shared = [(_shared_end(parts, whole), under, (whole, tag)) for whole, under, tag in known]
        shared = [one for one in shared if alone or one[0] >= min(2, one[1])]
        longest = max((length for length, _, _ in shared), default=0)
        best = [photo for length, _, photo in shared if length == longest]
        if len({tag for _, tag in best}) > 1:
            tags = " or ".join(sorted(tag for _, tag in best))
            raise IndexFileError(f"{path}: {names[number]!r} may be the photo of {tags}")
        for photo in best[:1]:
            claims[photo] = max(claims.get(photo, (0, 0)), (longest, number))
    left_out = len(names) - len({number for _, number in claims.values()})
    if left_out:
        logger.warning("%s: %d of %d photos are of no concept of the database", path, left_out, len(names))
    for (_, tag), (_, number) in claims.items():
        vector = vectors.reconstruct(number)
        if not vector.any():
            raise IndexFileError(f"{folder / 'image.faiss'}: vector {number} is zero: build the index again")
        yield tag, vector


def _read_names(path: Path, count: int) -> list[str]:
    names = read_json(path, IndexFileError)
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise IndexFileError(f"{path}: must be an object of numbers and file names")
    if len(names) != count:
        raise IndexFileError(
            f"{path}: {len(names)} names for the {count} vectors of image.faiss: a photo failed when it was made, "
            "and each later name belongs to another vector: build the index again"
        )
    if set(names) != {str(number) for number in range(count)}:
        raise IndexFileError(f"{path}: its names must be numbered from 0 to {count - 1}")
    return [names[str(number)] for number in range(count)]


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(plain(path)).parts or ("",)


def _shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts at the end of two paths are equal."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
