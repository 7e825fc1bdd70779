"""Read the concepts and photos of a zip file that a visitor brings: checked, and nothing else unpacked."""

from __future__ import annotations

import errno
import json
import posixpath
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.uploads import MAX_BYTES, UploadError, open_upload, store_photo

MOST_CONCEPTS = 1000  # of one visitor
MOST_PHOTOS = 16  # of a concept
MOST_BYTES = 500 * 2**20  # of a zip file, unpacked
NAME_LENGTH, INFO_LENGTH = 60, 500  # characters
NO_ROOM = "There is no room left for photos here."


def read_zip(file: Path, folder: Path, tell: Callable[[float], Any]) -> ConceptDatabase:
    """The database in a zip, with its photos checked and stored in `folder`.

    Args:
        tell: is called with the share of entries that have been read, from 0 to 1.

    Raises:
        ConceptError, UploadError: the file is not a zip of a database and its photos, or holds something that
            can't be used.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            where, entries = _entries_in(archive, folder, tell)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise ConceptError(NO_ROOM) from None
        raise ConceptError(f"This file can't be read as a zip file ({error}): export it again.") from None
    except zlib.error as error:
        raise ConceptError(f"This zip file is broken ({error}): export it again.") from None
    (folder / "database.json").write_text(json.dumps({"concept_dict": entries}), encoding="ascii")
    try:
        return ConceptDatabase.load(folder / "database.json", check_images=False)
    except ConceptError as error:
        raise ConceptError(str(error).replace(str(folder / "database.json"), where)) from None


def _entries_in(
    archive: zipfile.ZipFile, folder: Path, tell: Callable[[float], Any]
) -> tuple[str, dict[str, Any]]:
    """Name of the database in an archive, and its entries by tag, with photos stored in `folder`."""
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
    return where, entries


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


def _check_lengths(where: str, tag: str, entry: dict[str, Any]) -> None:
    texts = {**entry, "tag": tag}
    longest = {"name": NAME_LENGTH, "tag": NAME_LENGTH + 2, "category": NAME_LENGTH, "info": INFO_LENGTH}
    for field, most in longest.items():
        if isinstance(texts.get(field), str) and len(texts[field]) > most:
            raise ConceptError(f"{where}, entry {tag[:80]!r}: its {field} has more than {most} characters")


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


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive; `zipfile` unpacks no more than the size that was checked."""
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise UploadError(f"{name}: has more than {MAX_BYTES >> 20} MB: shrink it")
    return archive.read(name)
