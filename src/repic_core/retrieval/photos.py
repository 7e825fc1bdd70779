"""The photos of a database for an index: known by their content, embedded in chunks, unreadable ones left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.io.images import image_hash, open_image

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
