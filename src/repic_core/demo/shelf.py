"""A visitor's own concepts: kept in a folder, in the public format, behind them those that everybody is given."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import posixpath
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.files import replaced
from repic_core.io.uploads import MAX_BYTES, UploadError, open_upload, store_photo

logger = logging.getLogger(__name__)
MOST_CONCEPTS = 1000  # of one visitor
MOST_BYTES = 500 * 2**20  # of a zip file, unpacked
NAME_LENGTH, INFO_LENGTH = 60, 500  # characters
MOST_PHOTOS = 16  # of a concept
ROOM = 2**30  # bytes that stay free on the disk
KEPT_HOURS = 24  # that a shelf is left alone before it goes, where shelves are not to last
_changing = threading.RLock()  # a visitor may have two windows


class Shelf:
    """One visitor's concepts (``folder/database.json`` and ``folder/photos``); those of `given` stand behind them,
    and an own concept of the same tag hides the given one. Each change is on disk, whole, when its method ends."""

    def __init__(self, folder: Path, given: ConceptDatabase) -> None:
        self.folder, self.given = folder, given

    @property
    def own(self) -> ConceptDatabase:
        """The visitor's concepts, read anew."""
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

    def concepts(self) -> ConceptDatabase:
        """All that the visitor may choose: own ones first."""
        return self._with_given(self.own)

    def _with_given(self, own: ConceptDatabase) -> ConceptDatabase:
        return ConceptDatabase([*own, *(concept for concept in self.given if concept.tag not in own)])

    def put(self, photo: Any, name: str, info: str, edited: str = "") -> Concept:
        """Add a concept, or change the one with the tag `edited` (a given one then becomes an own one).

        Args:
            photo: path or PIL image; None keeps the edited concept's.

        Raises:
            ConceptError: no name or no photo, a text too long, a control token, or a tag that is taken.
        """
        name = name.strip().strip("<>").strip()
        if not name:
            raise ConceptError("Give the concept a name.")
        if len(name) > NAME_LENGTH or len(info) > INFO_LENGTH:
            raise ConceptError(f"A name has at most {NAME_LENGTH} characters, its info {INFO_LENGTH}.")
        with _changing:
            own = self.own
            known = self._with_given(own)
            old = known[edited] if edited else None
            if photo is None and old is None:
                raise ConceptError("Add a photo of the concept.")
            same_name = old is not None and old.name == name  # keeps a tag that differs from its name
            tag = old.tag if old is not None and same_name else f"<{' '.join(name.split())}>"
            concept = Concept(tag, name, "later", info, old.category if old else "")  # checks the texts first
            if concept.tag in known and not (old and known[concept.tag] is old):
                raise ConceptError(
                    f"There is a concept {concept.tag} already: edit it, or choose another name."
                )
            _check_count(len(own) + 1 if old is None or old.tag not in own else 0)
            stored = self._stored([photo] if photo is not None or old is None else old.images)
            concept = replace(concept, image=stored)
            if old is not None and old.tag in own:
                concepts = [concept if each.tag == old.tag else each for each in own]
            else:
                concepts = [*own, concept]
            self._save(concepts)
        return concept

    def delete(self, tag: str) -> None:
        """Take an own concept away, with its photo; ConceptError for one that was given."""
        with _changing:
            own = self.own
            if tag not in own:
                raise ConceptError(f"{tag} came with the page: it can be left out, not deleted.")
            own.remove(tag)
            self._save(own)

    def export(self, file: Path) -> Path:
        """Write the own concepts and their photos as a zip in the public format; ConceptError if there is none."""
        with _changing:
            own = self.own
            if not len(own):
                raise ConceptError("There is no concept of yours to export: add one first.")
            with replaced(file) as out, zipfile.ZipFile(out, "w") as archive:
                archive.write(self.folder / "database.json", "database.json")
                for image in sorted({str(image) for concept in own for image in concept.images}):
                    if Path(image).is_file():
                        archive.write(image, f"photos/{Path(image).name}")
        return file

    def take(self, file: str | Path, tell: Callable[[float], Any] = lambda share: None) -> int:
        """Add the concepts of an exported zip, in place of own ones with their tags; how many there were.

        Args:
            tell: is told the share of photos that have been checked.

        Raises:
            ConceptError, UploadError: no zip of a database and its photos, or anything in it that can't be used;
                then nothing is taken.
        """
        with tempfile.TemporaryDirectory() as folder:
            new = _read_zip(Path(file), Path(folder), tell)  # takes long, and changes nothing yet
            with _changing:
                kept = [concept for concept in self.own if concept.tag not in new]
                _check_count(len(kept) + len(new))
                moved = [replace(one, image=self._stored(one.images, made=True)) for one in new]
                self._save([*kept, *moved])
        return len(moved)

    def _stored(self, images: Sequence[Any], made: bool = False) -> list[str]:
        """Paths of photos in the shelf; what lies in it already stays as it is.

        Args:
            made: the photos are files that `store_photo` made elsewhere.
        """
        photos, paths = (self.folder / "photos").resolve(), []
        if shutil.disk_usage(_existing(self.folder)).free < ROOM:
            raise ConceptError("There is no room left for photos here.")
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
        folder: where shelves last; by default a temporary folder that goes with the server.
    """

    def __init__(self, given: ConceptDatabase, folder: str | Path | None = None) -> None:
        self.given, self.lasting = given, folder is not None
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="repic-shelves-")
        self._folder = Path(folder or self._temporary.name)
        self._visitors: dict[str, str] = {}

    def enter(self, session: str, visitor: str) -> None:
        """From now on a browser session sees the lasting shelf of `visitor` (a secret of their browser, or their
        account)."""
        if self.lasting:
            self._visitors.pop(session, None)
            self._visitors[session] = visitor  # the latest comes last
            while len(self._visitors) > 10_000:
                self._visitors.pop(next(iter(self._visitors)))
        self._forget_old()

    def of(self, session: str) -> Shelf:
        """The shelf of a browser session; of none, an empty one that nobody sees again.

        Raises:
            ConceptError: shelves last, and the server (started again, say) doesn't know whose this one is.
        """
        visitor = self._visitors.get(session)
        if self.lasting and session and not visitor:
            raise ConceptError("The page no longer knows whose shelf this is: load it again.")
        name = f"visitor:{visitor}" if visitor else f"session:{session or secrets.token_hex()}"
        folder = self._folder / ("v-" if visitor else "s-")
        number = hashlib.sha256(name.encode()).hexdigest()[:32]
        return Shelf(folder.with_name(folder.name + number), self.given)

    def _forget_old(self) -> None:
        for folder in self._folder.glob("s-*"):
            with suppress(FileNotFoundError):  # another visitor's arrival took it away
                if time.time() - folder.stat().st_mtime > KEPT_HOURS * 3600:
                    shutil.rmtree(folder, ignore_errors=True)


def _check_count(concepts: int) -> None:
    if concepts > MOST_CONCEPTS:
        raise ConceptError(f"A shelf holds at most {MOST_CONCEPTS} concepts.")


def _read_zip(file: Path, folder: Path, tell: Callable[[float], Any]) -> ConceptDatabase:
    """The database in a zip, with its photos checked and stored in `folder`; nothing else of it is unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ConceptError(f"The zip file unpacks to more than {MOST_BYTES >> 20} MB: split it.")
            where, data = _database_in(archive)
            entries = data.get("concept_dict") if isinstance(data, dict) else None
            if not isinstance(entries, dict) or not entries:
                raise ConceptError(f'{where}: no "concept_dict" with concepts: export it again')
            if len(entries) > MOST_CONCEPTS:
                raise ConceptError(f"{where}: has {len(entries)} concepts, more than {MOST_CONCEPTS}")
            known: dict[str, Path] = {}
            for number, (tag, entry) in enumerate(entries.items()):
                tell(number / len(entries))
                if isinstance(entry, dict) and entry.get("image"):
                    _check_lengths(where, tag, entry)
                    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
                    if len(images) > MOST_PHOTOS:
                        raise ConceptError(f"{where}, entry {tag!r}: has more than {MOST_PHOTOS} photos")
                    paths = [_stored_once(archive, where, tag, image, folder, known) for image in images]
                    entry["image"] = [f"photos/{path.name}" for path in paths]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise ConceptError("There is no room left for photos here.") from None
        raise ConceptError(f"This is no zip file that can be read ({error}): export it again.") from None
    except zipfile.zlib.error as error:
        raise ConceptError(f"This zip file is broken ({error}): export it again.") from None
    (folder / "database.json").write_text(json.dumps({"concept_dict": entries}), encoding="ascii")
    try:
        return ConceptDatabase.load(folder / "database.json", check_images=False)
    except ConceptError as error:
        raise ConceptError(str(error).replace(str(folder / "database.json"), where)) from None


def _check_lengths(where: str, tag: str, entry: dict[str, Any]) -> None:
    texts = {**entry, "tag": tag}
    longest = {"name": NAME_LENGTH, "tag": NAME_LENGTH + 2, "category": NAME_LENGTH, "info": INFO_LENGTH}
    for field, most in longest.items():
        if isinstance(texts.get(field), str) and len(texts[field]) > most:
            raise ConceptError(f"{where}, entry {tag[:80]!r}: its {field} has more than {most} characters")


def _database_in(archive: zipfile.ZipFile) -> tuple[str, Any]:
    """Name and content of the database nearest to the top of an archive."""
    files = [name for name in archive.namelist() if posixpath.basename(name) == "database.json"]
    files = files or [name for name in archive.namelist() if name.endswith(".json")]
    if not files:
        raise ConceptError("There is no database.json in this zip file: export it again.")
    name = min(files, key=lambda found: (found.count("/"), found))
    try:
        return name, json.loads(_content(archive, name))
    except (ValueError, RecursionError) as error:
        raise ConceptError(f"{name}: not valid JSON ({error}): export it again") from None


def _stored_once(
    archive: zipfile.ZipFile, where: str, tag: str, image: Any, folder: Path, known: dict[str, Path]
) -> Path:
    """A photo of an archive, checked and stored in `folder`; several entries may share it."""
    if not isinstance(image, str):
        raise ConceptError(f"{where}, entry {tag!r}: image must be a path, not {image!r}")
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(where), image))
    name = next((one for one in (inside, posixpath.normpath(image)) if one in archive.NameToInfo), None)
    if name is None:
        raise ConceptError(f"{where}, entry {tag!r}: the photo {image!r} is not in the zip file")
    if name not in known:
        photo = open_upload(_content(archive, name), posixpath.basename(name))
        known[name] = store_photo(photo, folder / "photos")
    return known[name]


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive; `zipfile` unpacks no more than the size that was checked."""
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise UploadError(f"{name}: has more than {MAX_BYTES >> 20} MB: shrink it")
    return archive.read(name)
