"""Read the concepts and photos of a zip file that a visitor brings: checked, and nothing else unpacked."""

from __future__ import annotations

import errno
import json
import posixpath
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.files import decode_text, parse_json
from repic_core.io.paths import plain, shown_members
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
    members = _members(archive)
    where, data = _database_in(archive, members)
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
            names = [_member(members, where, tag, image) for image in images]
            paths = [_stored_once(archive, name, folder, known) for name in names]
            entry["image"] = [f"photos/{path.name}" for path in paths]
    return where, entries


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """The names in an archive by what `plain` makes of them, without hidden ones and those that lead out of it."""
    members: dict[str, str] = {}
    for name in shown_members(archive.namelist()):
        for spelling in (name, _as_utf8(archive.getinfo(name))):
            inside = posixpath.normpath(plain(spelling))
            if not inside.startswith(("../", "/")):
                members.setdefault(inside, name)
    return members


def _as_utf8(member: zipfile.ZipInfo) -> str:
    """A member's name as UTF-8, which macOS writes without saying so: `zipfile` takes it for code page 437."""
    try:
        return member.filename if member.flag_bits & 0x800 else member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename


def _database_in(archive: zipfile.ZipFile, members: Mapping[str, str]) -> tuple[str, Any]:
    """Name and content of the database nearest to the top of an archive."""
    files = [name for name in members if posixpath.basename(name) == "database.json"]
    files = files or [name for name in members if name.endswith(".json")]
    if not files:
        raise ConceptError("There is no database.json in this zip file: export it again.")
    name = min(files, key=lambda found: (found.count("/"), found))
    text = decode_text(_content(archive, members[name]), name, ConceptError)
    return name, parse_json(text, name, ConceptError)


def _check_lengths(where: str, tag: str, entry: dict[str, Any]) -> None:
    texts = {**entry, "tag": tag}
    longest = {"name": NAME_LENGTH, "tag": NAME_LENGTH + 2, "category": NAME_LENGTH, "info": INFO_LENGTH}
    for field, most in longest.items():
        if isinstance(texts.get(field), str) and len(texts[field]) > most:
            raise ConceptError(f"{where}, entry {tag[:80]!r}: its {field} has more than {most} characters")


def _member(members: Mapping[str, str], where: str, tag: str, image: Any) -> str:
    """The name in the archive of a photo that an entry of the database names."""
    if not isinstance(image, str):
        raise ConceptError(f"{where}, entry {tag!r}: image must be a path, not {image!r}")
    inside = posixpath.join(posixpath.dirname(where), plain(image))
    name = next(
        (members[one] for one in map(posixpath.normpath, (inside, plain(image))) if one in members), None
    )
    if name is None:
        raise ConceptError(f"{where}, entry {tag!r}: the photo {image!r} is not in the zip file")
    return name


def _stored_once(archive: zipfile.ZipFile, name: str, folder: Path, known: dict[str, Path]) -> Path:
    """A photo of an archive, checked and stored in `folder`; several entries may share it."""
    if name not in known:
        photo = open_upload(_content(archive, name), posixpath.basename(plain(name)))
        known[name] = store_photo(photo, folder / "photos")
    return known[name]


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive; `zipfile` unpacks no more than the size that was checked."""
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise UploadError(f"{name}: has more than {MAX_BYTES >> 20} MB: shrink it")
    return archive.read(name)
