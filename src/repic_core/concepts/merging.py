"""A database's file that several programs change: what each has done since it read the file, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.io.locks import content_hash


@dataclass(frozen=True)
class Snapshot:
    """A file as it was when a database read or wrote it last.

    Args:
        digest: of its bytes; None if there was no file.
        concepts: by the key of their tags.
    """

    path: Path
    digest: str | None
    concepts: Mapping[str, Concept]

    def is_of(self, path: Path) -> bool:
        return self.path.resolve() == path.resolve()

    def is_old(self) -> bool:
        """Whether another program has written the file since; one that is gone holds nothing to lose."""
        return content_hash(self.path) not in (self.digest, None)


def merged(
    before: Mapping[str, Concept],
    mine: Mapping[str, Concept],
    theirs: Mapping[str, Concept],
    path: Path,
    root: Path,
) -> dict[str, Concept]:
    """`theirs` with what `mine` has added, changed or removed since `before`; all by the key of their tags.

    Args:
        path: the file, for messages.
        root: what image paths are relative to.

    Raises:
        ConceptError: both have changed the same concept in different ways; names it.
    """

    def same(one: Concept | None, other: Concept | None) -> bool:
        return one is other or (
            one is not None and other is not None and _texts(one, root) == _texts(other, root)
        )

    result = dict(theirs)
    for key in before.keys() | mine.keys():
        if same(before.get(key), mine.get(key)):
            continue
        if not same(before.get(key), theirs.get(key)) and not same(mine.get(key), theirs.get(key)):
            tag = (mine.get(key) or theirs.get(key) or before[key]).tag
            raise ConceptError(
                f"{path}: another program has changed {tag}, too, since the file was read: load it again and "
                "repeat the change"
            )
        if key not in mine:
            result.pop(key, None)
    added = {key: concept for key, concept in mine.items() if not same(before.get(key), concept)}
    return result | added


def _texts(concept: Concept, root: Path) -> tuple[object, ...]:
    """All of a concept, with its photos' paths in one form."""
    photos = [
        (root / image).resolve() if isinstance(image, str | Path) else id(image) for image in concept.images
    ]
    return concept.tag, concept.name, concept.info, concept.category, *photos
