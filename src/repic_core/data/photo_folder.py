"""A concept database, or rows to train on, from a folder of photos::

    photos/bo/1.jpg  photos/bo/2.jpg  photos/bo/info.txt     a folder of photos a concept
    photos/mira.jpg  photos/mira.txt                         or a single photo

The name is that of the folder or of the file. The line of information is in ``info.txt`` in the folder, or in a
text file beside the photo.
"""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.data.builders import (
    PHOTO_SUFFIXES,
    BuildError,
    build_from_folders,
    category_of,
    photo_files,
)
from repic_core.data.rows import moved_rows, write_rows
from repic_core.io.files import read_text
from repic_core.io.images import equal_files
from repic_core.io.paths import shown_entries

logger = logging.getLogger(__name__)


def database_from_folder(folder: str | Path, categories: bool = False) -> ConceptDatabase:
    """The concepts of a folder of photos, in the order of their names; nothing is written.

    Hidden files and folders are passed over; folders without photos and files of other kinds are, too, and a
    warning is logged for them, as for photos that are the same, byte by byte.

    Args:
        categories: guess each category from the name (`builders.category_of`); else it is empty.

    Returns:
        a database whose root is `folder`.

    Raises:
        BuildError: no folder, no photo in it, a photo or a text that can't be read, a name that can't be a tag, or
            two concepts of one name.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise BuildError(
            f"{folder}: no such folder; give one with a folder of photos a concept, or with photos"
        )
    single = photo_files(folder)
    found = [(photo.stem, [photo], photo.with_suffix(".txt"), photo) for photo in single]
    for entry in shown_entries(folder):
        if entry.is_dir():
            photos = photo_files(entry)
            if photos:
                found.append((entry.name, photos, entry / "info.txt", entry))
            else:
                logger.warning("%s: left out, it holds no photo", entry)
        elif entry not in single and entry.suffix.lower() not in (".txt", ".json", ".md"):
            logger.warning("%s: left out, its name does not end in %s", entry, ", ".join(PHOTO_SUFFIXES))
    if not found:
        raise BuildError(f"{folder}: holds no photo, nor a folder with photos ({', '.join(PHOTO_SUFFIXES)})")
    for group in equal_files([photo for _, photos, _, _ in found for photo in photos]):
        logger.warning("%s: the same photo", " and ".join(str(file.relative_to(folder)) for file in group))
    database = ConceptDatabase(root=folder)
    for name, photos, text, entry in sorted(found, key=lambda one: one[0]):
        try:
            images = [str(photo) for photo in photos]
            category = category_of(name) if categories else ""
            name = unicodedata.normalize("NFC", name)  # macOS decomposes letters
            database.add(Concept(name=name, image=images, info=_line(text), category=category))
        except ConceptError as error:
            raise BuildError(f"{entry}: {error}") from None
    return database


def write_photo_rows(out: str | Path, folder: str | Path, seed: int = 0) -> Path:
    """Write OCT and ICT rows of a folder of photos (`builders.build_from_folders`, with collages beside `out`).

    Image paths are relative to the folder of `out`.

    Returns:
        `out`.

    Raises:
        BuildError: as there.
    """
    out = Path(out)
    rows = build_from_folders(folder, seed, infos=folder_infos(folder), collages=out.parent / "collages")
    return write_rows(out, moved_rows(rows, folder, out.parent))


def folder_infos(root: str | Path) -> dict[str, str]:
    """The line of information of each concept folder under `root` that has an ``info.txt``; folder -> line."""
    entries = shown_entries(Path(root)) if Path(root).is_dir() else []
    lines = {entry.name: _line(entry / "info.txt") for entry in entries if entry.is_dir()}
    return {name: line for name, line in lines.items() if line}


def _line(path: Path) -> str:
    """The text of a file on one line; empty where there is no such file."""
    return " ".join(read_text(path, BuildError).split()) if path.is_file() else ""
