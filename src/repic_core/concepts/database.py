"""Databases of concepts on disk.

The public format is upstream's ``database.json``::

    {"concept_dict": {"<bo>": {"name": "bo", "image": "photos/bo.jpg", "info": "...", "category": "dog"}},
     "path_to_concept": {"photos/bo.jpg": "<bo>"}}

with image paths relative to a root folder that the caller gives (for upstream's files: its repository).
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.tags import key
from repic_core.io.files import read_json, write_json_atomic
from repic_core.io.images import image_fault
from repic_core.io.paths import find_file

READ_UP_TO = 1000  # concepts; loading a larger database only checks that the photos exist


class ConceptDatabase:
    """Concepts in order, each with its own tag, and the root folder of their files.

    Two spellings of a tag are the same tag (`tags.key`).

    >>> database = ConceptDatabase([Concept(name="bo", image="bo.jpg", info="a Shiba Inu")])
    >>> "<bo>" in database, len(database), database.select("<bo>")[0].info
    (True, 1, 'a Shiba Inu')
    """

    def __init__(
        self, concepts: Iterable[Concept] = (), root: str | Path | None = None, path: str | Path | None = None
    ):
        # Absolute, so that they mean the same when the working directory has changed.
        self.path = Path(path).absolute() if path else None
        self.root = Path(root).absolute() if root else None
        self.check_images = True  # False after load(check_images=False): then save() doesn't check either
        self._concepts: dict[str, Concept] = {}
        for concept in concepts:
            self.add(concept)

    @classmethod
    def load(
        cls, path: str | Path, root: str | Path | None = None, check_images: bool = True
    ) -> ConceptDatabase:
        """Read a database; image paths are taken relative to `root` (by default the file's folder).

        Args:
            check_images: False for files whose photos are elsewhere: then no photo is checked, here or in `save`.
                If True, every photo must exist, and with up to `READ_UP_TO` concepts every photo is also read.
                (A database of 10,000 loads in well under a second; a broken photo is reported when it is used.)

        Raises:
            ConceptError: for anything that can't be used; names the file and the entry.
        """
        path = Path(path)
        root = Path(root).absolute() if root is not None else path.absolute().parent
        data = _read_json(path)
        entries = data.get("concept_dict") if isinstance(data, dict) else None
        if not isinstance(entries, dict):
            raise ConceptError(f'{path}: no "concept_dict" object; is this a concept database?')
        database = cls(root=root, path=path)
        database.check_images = check_images
        resolve = _resolver(root, check_images, read=len(entries) <= READ_UP_TO)
        written: dict[str, str] = {}
        for tag, entry in entries.items():
            where = f"{path}, entry {tag!r}"
            if not isinstance(entry, dict):
                raise ConceptError(f"{where}: must be an object with name, image, info and category")
            if not str(entry.get("name") or "").strip():
                raise ConceptError(f"{where}: the name is empty: give it one")
            images = entry.get("image")
            if not images:
                raise ConceptError(f"{where}: no image: give a path or a list of paths")
            images = images if isinstance(images, list) else [images]
            resolved = [resolve(image, where) for image in images]
            written |= dict.fromkeys(images, tag)
            try:
                database.add(
                    Concept(
                        tag=tag,
                        name=entry["name"],
                        image=resolved[0] if len(resolved) == 1 else resolved,
                        info=entry.get("info") or "",
                        category=entry.get("category") or "",
                    )
                )
            except ConceptError as error:
                raise ConceptError(f"{where}: {error}") from None
        database._compare_index(data.get("path_to_concept"), path, root, written)
        return database

    def _compare_index(self, index: Any, path: Path, root: Path, written: dict[str, str]) -> None:
        """Warn once if the file's own ``path_to_concept`` disagrees with its ``concept_dict``.

        `written` maps each path, as ``concept_dict`` writes it, to its tag.
        """
        if index is None:
            return
        if not isinstance(index, dict):
            raise ConceptError(f'{path}: "path_to_concept" must be an object')
        wrong = [p for p, tag in index.items() if written.get(p) != tag]
        if wrong:  # perhaps the same path, written in another way
            tags = {str(image): concept.tag for concept in self for image in concept.images}
            wrong = [p for p in wrong if "\0" in p or tags.get(str(find_file(root, p).resolve())) != index[p]]
        if wrong:
            warnings.warn(
                f'{path}: "path_to_concept" disagrees with "concept_dict" for {len(wrong)} image(s), '
                f"first {wrong[0]!r}; concept_dict is used",
                stacklevel=3,
            )

    def save(self, path: str | Path | None = None, root: str | Path | None = None) -> Path:
        """Write the public format, atomically; image paths become relative to the root.

        Raises:
            ConceptError: no path is known, an image is outside the root, or an image does not exist (the last is
                not checked in a database loaded with ``check_images=False``).
        """
        path = Path(path).absolute() if path else self.path
        if path is None:
            raise ConceptError("this database has no file yet: give save() a path")
        root = Path(root).absolute() if root else self.root or path.parent
        entries: dict[str, Any] = {}
        index: dict[str, str] = {}
        for concept in self:
            images = [_relative(image, root, concept.tag, self.check_images) for image in concept.images]
            index |= dict.fromkeys(images, concept.tag)
            entries[concept.tag] = {
                "name": concept.name,
                "image": images[0] if len(images) == 1 else images,
                "info": concept.info,
                "category": concept.category,
            }
        self.path, self.root = path, root
        return write_json_atomic(path, {"concept_dict": entries, "path_to_concept": index})

    def add(self, concept: Concept) -> None:
        """Append a concept; `ConceptError` if its tag is taken, in any spelling.

        A relative path of a photo is one under the root if there is such a file, else one from the working
        directory; it becomes absolute.
        """
        taken = self._concepts.get(key(concept.tag))
        if taken is not None:
            raise ConceptError(
                f"the tag {concept.tag} is taken already (by {taken.tag}): rename one of the two"
            )
        self._concepts[key(concept.tag)] = self._placed(concept)

    def _placed(self, concept: Concept) -> Concept:
        """`concept` with absolute paths of those photos that are there; if they are already, `concept` itself."""
        images = [_absolute(image, self.root) for image in concept.images]
        if images == list(concept.images):
            return concept
        return replace(concept, image=images if isinstance(concept.image, tuple) else images[0])

    def remove(self, tag: str) -> Concept:
        """Remove a concept and return it."""
        concept = self[tag]
        del self._concepts[key(tag)]
        return concept

    def rename(self, tag: str, name: str, new_tag: str | None = None) -> Concept:
        """Give a concept another name, and the tag made from it (or `new_tag`); the order is kept."""
        renamed = replace(self[tag], name=name, tag=new_tag or f"<{' '.join(name.split())}>")
        old, new = key(tag), key(renamed.tag)
        if new != old and new in self._concepts:
            raise ConceptError(f"the tag {renamed.tag} is taken already: choose another name for {tag}")
        concepts = [
            renamed if concept_key == old else concept for concept_key, concept in self._concepts.items()
        ]
        self._concepts = {key(concept.tag): concept for concept in concepts}
        return renamed

    def select(self, *tags: str) -> list[Concept]:
        """The concepts with these tags, in the order asked for."""
        return [self[tag] for tag in tags]

    def __getitem__(self, tag: str) -> Concept:
        try:
            return self._concepts[key(tag)]
        except KeyError:
            known = ", ".join(c.tag for c in list(self)[:8])
            raise ConceptError(
                f"no concept {tag} in {self.path or 'this database'}; it has {known} ..."
            ) from None

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, str) and key(tag) in self._concepts

    def __iter__(self) -> Iterator[Concept]:
        return iter(self._concepts.values())

    def __len__(self) -> int:
        return len(self._concepts)

    def __repr__(self) -> str:
        return f"ConceptDatabase({len(self)} concepts, {self.path or 'not saved'})"


def _read_json(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice = next((key for key in counts if counts[key] > 1 and key.startswith("<")), None)
        if twice is not None:
            raise ConceptError(f"{path}, entry {twice!r}: the tag is used twice: rename one of the two")
        return dict(pairs)

    return read_json(path, ConceptError, object_pairs_hook=unique)


def _resolver(root: Path, check: bool, read: bool) -> Callable[[Any, str], str]:
    """A function that resolves an image path under `root`; its second argument says where, for messages."""
    real_root = os.path.realpath(root)
    # Most photos share a few folders: to resolve each path by itself would take most of the time.
    folders: dict[str, str] = {}

    def resolve(image: Any, where: str) -> str:
        if not isinstance(image, str) or not image or "\0" in image:
            raise ConceptError(f"{where}: image must be a path or a list of paths, not {image!r}")
        written = os.path.join(root, image)
        folder, name = os.path.split(written if os.path.lexists(written) else find_file(root, image))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        resolved = os.path.join(folders[folder], name)
        if name in ("", ".", "..") or os.path.islink(resolved):
            resolved = os.path.realpath(resolved)
        if os.path.commonpath((real_root, resolved)) != real_root:
            raise ConceptError(f"{where}: the image {image!r} lies outside the root {root}")
        if check:
            if not os.path.isfile(resolved):
                raise ConceptError(
                    f"{where}: missing image {image!r} under {root}: give the folder that paths are relative to "
                    "as root= (check_images=False skips this check)"
                )
            fault = image_fault(Path(resolved)) if read else None
            if fault:
                raise ConceptError(f"{where}: the image {image!r} {fault}")
        return resolved

    return resolve


def _absolute(image: Any, root: Path | None) -> Any:
    """A relative path of a file under `root`, or else in the working directory, as an absolute one."""
    if not isinstance(image, str | Path) or os.path.isabs(image):
        return image
    places = [find_file(place, str(image)) for place in (root, Path.cwd()) if place is not None]
    return next((str(place) for place in places if place.is_file()), image)


def _relative(image: Any, root: Path, tag: str, check: bool) -> str:
    if not isinstance(image, str | Path):
        raise ConceptError(f"{tag}: its image is in memory; save it to a file under {root} first")
    # Looked for again: when it was added, there may have been no root, or no file.
    resolved = (root / _absolute(image, root)).resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise ConceptError(f"{tag}: the image {image} lies outside the root {root}: copy it there first")
    if check and not resolved.is_file():
        raise ConceptError(f"{tag}: there is no image {image} under {root}: put it there first")
    return resolved.relative_to(root.resolve()).as_posix()
