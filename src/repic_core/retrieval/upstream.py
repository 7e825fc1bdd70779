"""The authors' index of photos: read, matched to a database, and checked against an embedder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.io.files import read_json
from repic_core.io.images import open_image
from repic_core.io.paths import plain
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.faiss_index import IndexFileError, read_faiss

CLIP = "openai/clip-vit-large-patch14-336"  # upstream's embedder (`retriever.py`, line 19)
UPSTREAM = f"{CLIP}, as the authors made it"
COMPARED = 5  # photos that are embedded again
SAME = 0.9  # cosine similarity of two vectors of a photo by the same model; decoders and resizing differ a little
logger = logging.getLogger(__name__)


def read_upstream(folder: Path, database: ConceptDatabase) -> Iterator[tuple[str, str, Any]]:
    """Yields tag, path and vector of each photo in the authors' index; see `ConceptIndex.read_upstream`.

    A name belongs to a photo if it ends like the photo's path under the database's root, or with the same folder
    and file name, or if nothing else in the index and in the database has its file name. Of several photos, the
    one with the longest common end is taken.
    """
    vectors, path = read_faiss(folder / "image.faiss"), folder / "id2filename.json"
    names = _read_names(path, vectors.ntotal)
    above = len(_parts(str(database.root.resolve()))) if database.root else 0
    # By file name: path, number of parts under the root, tag.
    photos: dict[str, list[tuple[str, int, str]]] = {}
    for concept in database:
        for image in map(str, concept.images):
            parts = _parts(image)
            under = len(parts) - above
            photos.setdefault(parts[-1], []).append((image, under if under > 0 else len(parts), concept.tag))
    alike = Counter(parts[-1] for parts in map(_parts, names))
    # Of each photo: length of the shared end, number of the vector.
    claims: dict[tuple[str, str], tuple[int, int]] = {}
    for number, parts in enumerate(map(_parts, names)):
        known = photos.get(parts[-1], [])
        alone = alike[parts[-1]] == len(known) == 1
        shared = [(_shared_end(parts, _parts(image)), under, (image, tag)) for image, under, tag in known]
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
    for (image, tag), (_, number) in claims.items():
        vector = vectors.reconstruct(number)
        if not vector.any():
            raise IndexFileError(f"{folder / 'image.faiss'}: vector {number} is zero: build the index again")
        yield tag, image, vector


def check_embedder(folder: Path, found: Sequence[tuple[str, str, Any]], embedder: Any) -> None:
    """Check that the vectors of `read_upstream` are those of `embedder`: some photos are embedded again.

    Most must have their stored vector again, not all: a photo may have been edited, or turned upright.

    Raises:
        IndexFileError: they are of another, or no photo can be read; names the file and the embedder.
    """
    path, alike = folder / "image.faiss", []
    for _, image, vector in found:
        try:
            photo = open_image(image)
        except ValueError:
            continue
        own = embedder.images([photo])[0]
        alike.append(own.shape == vector.shape and unit(own[None])[0] @ unit(vector[None])[0] >= SAME)
        if len(alike) == COMPARED:
            break
    if not alike:
        raise IndexFileError(
            f"{path}: none of its photos can be read, so what made its vectors can't be checked"
        )
    others = len(alike) - sum(alike)
    if 2 * others >= len(alike):
        raise IndexFileError(
            f"{path}: its vectors are not those of {embedder.name}, which gives others for "
            f"{others} of {len(alike)} photos; the authors' are of {UPSTREAM}"
        )


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
