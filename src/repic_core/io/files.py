"""JSON read with a clear message; atomic writes: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def read_json(path: Path, error: type[Exception], **options: Any) -> Any:
    """What a JSON file holds; `options` go to ``json.loads``.

    Raises:
        error: no file, no text, no JSON (half a file, say); names the file and, in JSON, the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), **options)
    except json.JSONDecodeError as fault:
        where = f"line {fault.lineno}: {fault.msg}"
        raise error(f"{path}: not valid JSON ({where}): was it cut off? write it again") from None
    except OSError as fault:  # none, a folder, no permission
        raise error(f"{path}: can't be read ({fault.strerror}): give a JSON file") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text ({fault.reason} at byte {fault.start})") from None


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` to write to; at the end it is fsynced and replaces `path`, not on an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk, say
            error.filename = str(path)
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write `text` (UTF-8) as `path`, whole or not at all."""
    with replaced(path) as file:
        file.write(text.encode())
    return Path(path)


def write_json_atomic(path: str | Path, value: Any, indent: int | None = 2) -> Path:
    """`write_text_atomic` of `value` as JSON, Unicode kept readable."""
    return write_text_atomic(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
