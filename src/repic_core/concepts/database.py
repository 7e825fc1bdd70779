"""Databases of concepts on disk.

The public format is upstream's ``database.json``::

    {"concept_dict": {"<bo>": {"name": "bo", "image": "photos/bo.jpg", "info": "...", "category": "dog"}},
     "path_to_concept": {"photos/bo.jpg": "<bo>"}}

with image paths relative to a root folder that the caller gives (for upstream's files: its repository).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.merging import Snapshot, merged
from repic_core.concepts.photo_paths import absolute, relative, resolver
from repic_core.concepts.tags import key
from repic_core.io.files import read_json, write_json_atomic
from repic_core.io.locks import content_hash, locked
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
        self._snapshot: Snapshot | None = None  # of the file, as it was read or written last
        self._concepts: dict[str, Concept] = {}
        self._named: dict[str, Concept] = {}  # by the keys of tags and names
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
        digest = content_hash(path)  # before it is read: if it changes meanwhile, it counts as changed
        data = _read_json(path)
        entries = data.get("concept_dict") if isinstance(data, dict) else None
        if not isinstance(entries, dict):
            raise ConceptError(f'{path}: no "concept_dict" object; is this a concept database?')
        database = cls(root=root, path=path)
        database.check_images = check_images
        resolve = resolver(root, check_images, read=len(entries) <= READ_UP_TO)
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
        database._snapshot = Snapshot(path, digest, dict(database._concepts))
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
            ConceptError: no path is known; the file was read or written here, and another program has changed it
                since (`changing` puts both changes together); an image is outside the root, or does not exist
                (the last is not checked in a database loaded with ``check_images=False``).
        """
        path = Path(path).absolute() if path else self.path
        if path is None:
            raise ConceptError("this database has no file yet: give save() a path")
        root = Path(root).absolute() if root else self.root or path.parent
        entries: dict[str, Any] = {}
        index: dict[str, str] = {}
        for concept in self:
            images = [relative(image, root, concept.tag, self.check_images) for image in concept.images]
            index |= dict.fromkeys(images, concept.tag)
            entries[concept.tag] = {
                "name": concept.name,
                "image": images[0] if len(images) == 1 else images,
                "info": concept.info,
                "category": concept.category,
            }
        with locked(path):
            if self._snapshot and self._snapshot.is_of(path) and self._snapshot.is_old():
                raise ConceptError(
                    f"{path}: another program has changed it since it was read: load it again and repeat the change"
                )
            write_json_atomic(path, {"concept_dict": entries, "path_to_concept": index})
            self._snapshot = Snapshot(path, content_hash(path), dict(self._concepts))
        self.path, self.root = path, root
        return path

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Context manager for changes that end with `save`, to a file that other programs change as well.

        No other program of the kit writes the file meanwhile. What others have written since it was read here is
        taken over first, beside what has been changed here and is not saved yet.

        >>> with database.changing():  # doctest: +SKIP
        ...     database.add(concept)
        ...     database.save()

        Raises:
            ConceptError: the file can't be read, or another program has changed the same concept differently.
        """
        if self.path is None:
            yield
            return
        with locked(self.path):
            snapshot = self._snapshot
            if snapshot is None or not snapshot.is_of(
                self.path
            ):  # never read: what is in the file comes from others
                snapshot = Snapshot(self.path, None, {})
            if snapshot.is_old():
                theirs = type(self).load(self.path, self.root, self.check_images)
                both = merged(snapshot.concepts, self._concepts, theirs._concepts, self.path, theirs.root)
                checked = type(self)(both.values(), root=self.root)
                self._concepts, self._named = checked._concepts, checked._named
                self._snapshot = theirs._snapshot
            yield

    def add(self, concept: Concept) -> None:
        """Append a concept; `ConceptError` if its tag or its name, in any spelling, is another concept's.

        A relative path of a photo is one under the root if there is such a file, else one from the working
        directory; it becomes absolute.
        """
        self._check_distinct(concept)
        self._put(self._placed(concept))

    def _put(self, concept: Concept) -> None:
        self._concepts[key(concept.tag)] = concept
        self._named |= dict.fromkeys((key(concept.tag), key(concept.name)), concept)

    def _check_distinct(self, concept: Concept, instead_of: Concept | None = None) -> None:
        """Raise `ConceptError` if a text that names `concept` could also name another concept of the database."""
        for written in dict.fromkeys((concept.tag, concept.name)):
            taken = self._named.get(key(written))
            if taken is None or taken is instead_of:
                continue
            if key(concept.tag) == key(taken.tag):
                raise ConceptError(
                    f"the tag {concept.tag} is taken already (by {taken.tag}): rename one of the two"
                )
            raise ConceptError(
                f"{concept.tag} can't be told from {taken.tag} in a caption, as both are called {written!r}: "
                "give one of them another name"
            )

    def _placed(self, concept: Concept) -> Concept:
        """`concept` with absolute paths of those photos that are there; if they are already, `concept` itself."""
        images = [absolute(image, self.root) for image in concept.images]
        if images == list(concept.images):
            return concept
        return replace(concept, image=images if isinstance(concept.image, tuple) else images[0])

    def update(self, concept: Concept) -> None:
        """Put `concept` in the place of the one with its tag; errors as in `add`, or if there is no such tag."""
        old = self[concept.tag]
        self._check_distinct(concept, instead_of=old)
        placed = self._placed(concept)
        self._replace([placed if known is old else known for known in self])

    def remove(self, tag: str) -> Concept:
        """Remove a concept and return it."""
        concept = self[tag]
        self._replace([other for other in self if other is not concept])
        return concept

    def rename(self, tag: str, name: str, new_tag: str | None = None) -> Concept:
        """Give a concept another name, and the tag made from it (or `new_tag`); the order is kept."""
        old = self[tag]
        renamed = replace(old, name=name, tag=new_tag or f"<{' '.join(name.split())}>")
        self._check_distinct(renamed, instead_of=old)
        self._replace([renamed if concept is old else concept for concept in self])
        return renamed

    def _replace(self, concepts: Iterable[Concept]) -> None:
        self._concepts, self._named = {}, {}
        for concept in concepts:
            self._put(concept)

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
