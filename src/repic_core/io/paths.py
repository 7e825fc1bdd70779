"""Paths from elsewhere: what a folder shows, and the file that a path means although another system wrote it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

# What systems and tools leave in folders, in lower case; names that begin with a dot are hidden, too.
SYSTEM = {
    "#recycle",
    "$recycle.bin",
    "@eadir",
    "@recycle",
    "@tmp",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "icon\r",
    "lost+found",
    "network trash folder",
    "system volume information",
    "temporary items",
    "thumbs.db",
}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that a system keeps for itself.

    >>> [is_hidden(name) for name in ("._bo.jpg", "Thumbs.db", "@eaDir", "bo.jpg")]
    [True, True, True, False]
    """
    return name.startswith((".", "~$")) or name.lower() in SYSTEM


def shown_entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without what `is_hidden`."""
    return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))


def shown_members(names: Iterable[str]) -> list[str]:
    """The names in an archive of which no part `is_hidden`, in their order."""
    return [name for name in names if not any(map(is_hidden, plain(name).split("/")))]


def plain(path: str) -> str:
    """A path with slashes and in composed Unicode (NFC), to compare paths of several systems by."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def find_file(root: str | Path, written: str) -> Path:
    """The file or folder under `root` that a path in a file means.

    That is ``root / written`` if it is there; else what has the same name part by part, where a backslash is a
    slash and composed and decomposed Unicode (macOS) are equal; else ``root / written``, which is not there.
    """
    exact = Path(root) / written
    if "\0" in written or os.path.lexists(exact):
        return exact
    found = Path(root)
    for part in Path(written.replace("\\", "/")).parts:
        if not os.path.lexists(found / part):
            part = _same_name(found, part)
            if part is None:
                return exact
        found /= part
    return found


def _same_name(folder: Path, name: str) -> str | None:
    try:
        return _names(folder, folder.stat().st_mtime_ns).get(plain(name))
    except OSError:
        return None


@lru_cache(maxsize=64)
def _names(folder: Path, changed: int) -> dict[str, str]:
    """The names in a folder by their `plain` form; `changed`, its time, is a key of the cache."""
    return {plain(name): name for name in os.listdir(folder)}
