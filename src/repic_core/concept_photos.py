"""The photos of a database as an index wants them: by content, embedded in chunks, the unreadable ones left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from repic_core.concepts import ConceptDatabase
from repic_core.files import read_json
from repic_core.images import image_hash, open_image
from repic_core.vectors import IndexFileError, read_faiss

CHUNK = 256  # photos open at a time
Row = tuple[str, str]  # tag and hash of a photo
Skipped = tuple[str, str, str]  # tag, photo, why


def photos_of(database: ConceptDatabase) -> tuple[dict[Row, Any], list[Skipped]]:
    """Each photo of `database` by its tag and hash; and those that are not there."""
    photos: dict[Row, Any] = {}
    skipped = []
    for concept in database:
        for image in concept.images:
            try:
                photos[concept.tag, image_hash(image)] = image
            except OSError as error:
                skipped.append((concept.tag, str(image), error.strerror or "can't be read"))
    return photos, skipped


def embedded(
    photos: dict[Row, Any], embedder: Any, skipped: list[Skipped]
) -> Iterator[tuple[list[Row], Any]]:
    """Rows and their vectors, a chunk at a time; appends to `skipped` what can't be opened."""
    rows = list(photos)
    for start in range(0, len(rows), CHUNK):
        opened = {}
        for row in rows[start : start + CHUNK]:
            try:
                opened[row] = open_image(photos[row])
            except ValueError as error:
                skipped.append((row[0], str(photos[row]), str(error)))
        if opened:
            yield list(opened), embedder.images(list(opened.values()))


def read_upstream(folder: Path, database: ConceptDatabase) -> Iterator[tuple[str, Any]]:
    """Tag and vector of each photo in the authors' index; see `ConceptIndex.read_upstream`."""
    vectors, path = read_faiss(folder / "image.faiss"), folder / "id2filename.json"
    names = read_json(path, IndexFileError)
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise IndexFileError(f"{path}: must be an object of numbers and file names")
    if set(names) != {str(number) for number in range(vectors.ntotal)}:
        raise IndexFileError(
            f"{path}: {len(names)} names for the {vectors.ntotal} vectors of image.faiss: a photo failed when it "
            "was made, and each later name belongs to another vector: build the index anew"
        )
    photos: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for concept in database:
        for image in map(str, concept.images):
            photos.setdefault(Path(image).name, []).append((_parts(image), concept.tag))
    claims: dict[tuple[tuple[str, ...], str], tuple[int, int]] = {}  # of each photo: shared end, vector
    for number in range(vectors.ntotal):
        parts = _parts(names[str(number)])
        shared = [(_shared_end(parts, photo[0]), photo) for photo in photos.get(parts[-1], ())]
        longest = max((length for length, _ in shared), default=0)
        best = [photo for length, photo in shared if length == longest]
        if len({tag for _, tag in best}) > 1:
            tags = " or ".join(sorted(tag for _, tag in best))
            raise IndexFileError(f"{path}: {names[str(number)]!r} may be the photo of {tags}")
        for photo in best[:1]:
            claims[photo] = max(claims.get(photo, (0, 0)), (longest, number))
    for (_, tag), (_, number) in claims.items():
        yield tag, vectors.reconstruct(number)


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path.replace("\\", "/")).parts or ("",)


def _shared_end(one: Iterable[str], other: Iterable[str]) -> int:
    count = 0
    for a, b in zip(reversed(tuple(one)), reversed(tuple(other)), strict=False):
        if a != b:
            break
        count += 1
    return count
