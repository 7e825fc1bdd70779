"""An index on disk: ``concepts.json``, and the file of vectors that it names. Several processes may use it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from repic_core.io.files import read_json, write_json_atomic
from repic_core.io.locks import locked
from repic_core.retrieval.faiss_index import IndexFileError, read_faiss, write_faiss

NAME = "concepts.json"
OWN = "vectors-" + 8 * "[0-9a-f]" + ".faiss"  # what `write_index` calls its files


def write_index(folder: Path, about: dict[str, Any], vectors: Any) -> None:
    """Write ``concepts.json`` with `about` and the name of the file of `vectors` (a faiss index, or None).

    Of several processes that write at once the last one's index is kept. An interrupted write leaves the old index,
    and perhaps another file of vectors, which the next write deletes.
    """
    name = None if vectors is None else f"vectors-{secrets.token_hex(4)}.faiss"
    with locked(folder / NAME):
        if name is not None:
            write_faiss(vectors, folder / name)
        write_json_atomic(folder / NAME, {**about, "vectors": name}, indent=None)
        for file in folder.glob(OWN):  # nobody else is writing one
            if file.name != name:
                file.unlink(missing_ok=True)


def read_index(folder: Path) -> tuple[dict[str, Any], Any]:
    """What `write_index` wrote: `about`, and the faiss index or None.

    Raises:
        IndexFileError: a file is missing or broken.
    """
    path = folder / NAME
    about = read_json(path, IndexFileError)
    while True:
        try:
            name = about["vectors"]
            return about, None if name is None else read_faiss(path.with_name(Path(name).name))
        except (TypeError, KeyError):
            raise IndexFileError(f"{path}: not a saved concept index: delete the folder") from None
        except IndexFileError:
            now = read_json(path, IndexFileError)
            if now == about:
                raise
            about = now  # another process has saved it meanwhile
