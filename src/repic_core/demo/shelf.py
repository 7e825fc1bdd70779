"""A visitor's own concepts, kept in a folder in the public format, and with them those that everybody is given."""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.shelf_zip import INFO_LENGTH, MOST_CONCEPTS, NAME_LENGTH, NO_ROOM, read_zip
from repic_core.io.files import replaced
from repic_core.io.locks import locked
from repic_core.io.uploads import store_photo

logger = logging.getLogger(__name__)
# Bytes that stay free on the disk.
ROOM = 2**30
# An unused shelf is deleted after this time, unless shelves are to last.
KEPT_HOURS = 24


class Shelf:
    """One visitor's concepts (``folder/database.json`` and ``folder/photos``), and those of `given`.

    An own concept hides a given one with the same tag. Each change is on disk, whole, when its method returns.
    """

    def __init__(self, folder: Path, given: ConceptDatabase) -> None:
        self.folder, self.given = folder.absolute(), given

    @property
    def own(self) -> ConceptDatabase:
        """The visitor's concepts, read again each time."""
        file = self.folder / "database.json"
        if not file.exists():
            database = ConceptDatabase(root=self.folder, path=file)
            database.check_images = False
            return database
        try:
            return ConceptDatabase.load(file, check_images=False)
        except ConceptError:
            logger.exception("a visitor's shelf can't be read")
            raise ConceptError("Your shelf can't be read: tell whoever runs this page.") from None

    def _changing(self) -> AbstractContextManager[None]:
        """Context manager for a change: a visitor may have two windows, and the page two processes."""
        return locked(self.folder)

    def concepts(self) -> ConceptDatabase:
        """All concepts that the visitor may choose, their own first."""
        return self._with_given(self.own)

    def _with_given(self, own: ConceptDatabase) -> ConceptDatabase:
        return ConceptDatabase([*own, *(concept for concept in self.given if concept.tag not in own)])

    def put(self, photo: Any, name: str, info: str, edited: str = "") -> Concept:
        """Add a concept, or change the one with the tag `edited` (a given one becomes the visitor's own).

        Args:
            photo: path or PIL image; None keeps that of the edited concept.

        Raises:
            ConceptError: no name or no photo, a text too long, a control token, or a tag that is taken.
        """
        name = name.strip().strip("<>").strip()
        if not name:
            raise ConceptError("Give the concept a name.")
        if len(name) > NAME_LENGTH or len(info) > INFO_LENGTH:
            raise ConceptError(f"A name has at most {NAME_LENGTH} characters, its info {INFO_LENGTH}.")
        with self._changing():
            own = self.own
            known = self._with_given(own)
            old = known[edited] if edited else None
            if photo is None and old is None:
                raise ConceptError("Add a photo of the concept.")
            # A concept whose name stays keeps its tag, which may differ from the name.
            keeps_tag = old is not None and old.name == name
            tag = old.tag if keeps_tag else f"<{' '.join(name.split())}>"
            # Made before the photo is stored, since it checks the texts.
            concept = Concept(tag, name, "later", info, old.category if old else "")
            if concept.tag in known and not (old and known[concept.tag] is old):
                raise ConceptError(
                    f"There is already a concept {concept.tag}: edit it, or choose another name."
                )
            if old is None or old.tag not in own:
                _check_count(len(own) + 1)
            stored = self._stored(old.images if photo is None else [photo])
            concept = replace(concept, image=stored)
            if old is not None and old.tag in own:
                concepts = [concept if each.tag == old.tag else each for each in own]
            else:
                concepts = [*own, concept]
            self._save(concepts)
        return concept

    def delete(self, tag: str) -> None:
        """Delete an own concept and its photo; ConceptError for one that was given."""
        with self._changing():
            own = self.own
            if tag not in own:
                raise ConceptError(f"{tag} came with the page: it can be left out, not deleted.")
            own.remove(tag)
            self._save(own)

    def export(self, file: Path) -> Path:
        """Write the own concepts and their photos as a zip in the public format; ConceptError if there are none."""
        with self._changing():
            own = self.own
            if not len(own):
                raise ConceptError("You have no concepts to export: add one first.")
            with replaced(file) as out, zipfile.ZipFile(out, "w") as archive:
                archive.write(self.folder / "database.json", "database.json")
                for image in sorted({str(image) for concept in own for image in concept.images}):
                    if Path(image).is_file():
                        archive.write(image, f"photos/{Path(image).name}")
        return file

    def take(self, file: str | Path, tell: Callable[[float], Any] = lambda share: None) -> int:
        """Add the concepts of an exported zip, and return how many. They replace own concepts with their tags.

        Args:
            tell: is called with the share of entries that have been read, from 0 to 1.

        Raises:
            ConceptError, UploadError: the file is not a zip of a database and its photos, or holds something that
                can't be used. Nothing is added then.
        """
        with tempfile.TemporaryDirectory() as folder:
            # This may take long, so it is done before the lock is taken; it changes nothing.
            new = read_zip(Path(file), Path(folder), tell)
            with self._changing():
                kept = [concept for concept in self.own if concept.tag not in new]
                _check_count(len(kept) + len(new))
                moved = [replace(one, image=self._stored(one.images, made=True)) for one in new]
                self._save([*kept, *moved])
        return len(moved)

    def _stored(self, images: Sequence[Any], made: bool = False) -> list[str]:
        """Store photos in the shelf and return their paths; those that it already holds stay as they are.

        Args:
            made: the photos are files that `store_photo` wrote elsewhere.
        """
        photos, paths = (self.folder / "photos").resolve(), []
        if shutil.disk_usage(_existing(self.folder)).free < ROOM:
            raise ConceptError(NO_ROOM)
        for image in images:
            if isinstance(image, str | Path) and Path(image).resolve().parent == photos:
                paths.append(image)
            elif made:
                with replaced(photos / Path(image).name) as out:
                    out.write(Path(image).read_bytes())
                paths.append(photos / Path(image).name)
            else:
                paths.append(store_photo(image, photos))
        return [str(path) for path in paths]

    def _save(self, concepts: Any) -> None:
        concepts = list(concepts)
        database = ConceptDatabase(concepts, self.folder, self.folder / "database.json")
        database.check_images = False
        database.save()
        used = {Path(image).name for concept in concepts for image in concept.images}
        for photo in (self.folder / "photos").glob("*"):
            if photo.name not in used:
                photo.unlink()


class Shelves:
    """The shelves of all visitors, each in a folder of its own.

    Args:
        given: concepts that everybody may choose.
        folder: where shelves are kept; by default a temporary folder, deleted when the server stops.
    """

    def __init__(self, given: ConceptDatabase, folder: str | Path | None = None) -> None:
        self.given, self.lasting = given, folder is not None
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="repic-shelves-")
        self._folder = Path(folder or self._temporary.name)
        self._visitors: dict[str, str] = {}

    def enter(self, session: str, visitor: str) -> None:
        """Connect a browser session with the lasting shelf of `visitor`: a secret of their browser, or their
        account."""
        if self.lasting:
            # Removed first, so that the latest session comes last.
            self._visitors.pop(session, None)
            self._visitors[session] = visitor
            while len(self._visitors) > 10_000:
                self._visitors.pop(next(iter(self._visitors)))
        self._forget_old()

    def of(self, session: str) -> Shelf:
        """The shelf of a browser session; without a session, an empty one that nobody sees again.

        Raises:
            ConceptError: shelves are to last, and the server doesn't know whose this one is (after a restart, say).
        """
        visitor = self._visitors.get(session)
        if self.lasting and session and not visitor:
            raise ConceptError("The page no longer knows whose shelf this is: load it again.")
        name = f"visitor:{visitor}" if visitor else f"session:{session or secrets.token_hex()}"
        prefix = "v" if visitor else "s"
        number = hashlib.sha256(name.encode()).hexdigest()[:32]
        return Shelf(self._folder / f"{prefix}-{number}", self.given)

    def _forget_old(self) -> None:
        for folder in self._folder.glob("s-*"):
            # Another visitor's arrival may have deleted it.
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > KEPT_HOURS * 3600:
                    shutil.rmtree(folder, ignore_errors=True)


def _check_count(concepts: int) -> None:
    if concepts > MOST_CONCEPTS:
        raise ConceptError(f"A shelf holds at most {MOST_CONCEPTS} concepts.")


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing(folder.parent)
