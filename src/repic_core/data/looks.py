"""Which photos of other concepts look most like a photo: hard negatives by look, whatever their category."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Photos as vectors of length 1 (photos, dimensions), such as the method `images` of an embedder of `retrieval`.
Embed = Callable[[Sequence[Path]], Any]


def nearest_photos(
    root: str | Path, photos: Mapping[str, Sequence[str]], firsts: Mapping[str, str], embed: Embed
) -> dict[str, dict[str, str]]:
    """Of each concept in `firsts`, the other concepts in the order of their likeness, each with its likest photo.

    Likeness is the cosine similarity of the concept's photo in `firsts` to the most similar photo of the other.

    Args:
        root: what photos are relative to.
        photos: concept -> its photos.
        firsts: concept -> the photo that others are compared with, one of `photos`.
    """
    files = [file for some in photos.values() for file in some]
    vectors = dict(zip(files, embed([Path(root) / file for file in files]), strict=True))
    found = {}
    for concept, first in firsts.items():
        nearest = {
            other: max((float(vectors[first] @ vectors[file]), file) for file in some)
            for other, some in photos.items()
            if other != concept
        }
        order = sorted(nearest, key=nearest.__getitem__, reverse=True)
        found[concept] = {other: nearest[other][1] for other in order}
    return found
