"""Where the kit's own files are (``assets/...``, ``runs/...``), from whichever folder it is used."""

from __future__ import annotations

import os
from pathlib import Path


def kit_root() -> Path | None:
    """The checkout of the kit: the nearest folder upwards with ``pyproject.toml``, ``notebooks`` and ``assets``.

    It is looked for from this file, then from the working directory. None where there is none, as for an installed
    package.
    """
    for start in (Path(__file__).resolve().parent, Path.cwd()):
        for folder in (start, *start.parents):
            whole = all((folder / part).is_dir() for part in ("notebooks", "assets"))
            if whole and (folder / "pyproject.toml").is_file():
                return folder
    return None


def kit_path(path: str | os.PathLike[str]) -> Path:
    """`path` if something is there, from the working directory; else what is there in the checkout; else `path`.

    So a path of the kit, such as ``assets/toy-base``, means the same from any folder, and one that a person types
    is relative to where they are.
    """
    given, root = Path(path).expanduser(), kit_root()
    if given.exists() or root is None or not (root / given).exists():
        return Path(path)
    return root / given
