"""JSON is read with clear messages; files are written atomically: a reader sees the old one or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def read_json(path: Path, error: type[Exception], **options: Any) -> Any:
    """What a JSON file holds; `options` go to ``json.loads``.

    Raises:
        error: the file is missing, is not text or is not JSON (perhaps cut off); names the file and the line.
    """
    text = _read_text(path, error, "a JSON file")
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as fault:
        where = f"line {fault.lineno}: {fault.msg}"
        raise error(f"{path}: not valid JSON ({where}): was it cut off? write it again") from None


def read_records(path: Path, error: type[Exception], what: str = "rows") -> Iterator[tuple[str, Any]]:
    """Each record of a JSON list or, if the name ends in ``.jsonl``, of JSON Lines.

    Args:
        what: what the records are called in messages.

    Yields:
        (where, record), such as ``("rows.json, row 3", {...})`` or ``("rows.jsonl, line 3", {...})``.

    Raises:
        error: the file is missing, is not text, is not JSON (perhaps cut off) or not a list; names the file and
            the line.
    """
    text = _read_text(path, error, "a JSON or JSONL file")
    if path.suffix == ".jsonl":
        yield from _json_lines(path, text, error, what)
        return
    try:
        records = json.loads(text)
    except json.JSONDecodeError as fault:
        hint = "was it cut off?"
        if fault.msg == "Extra data":  # after the first line
            hint = f"if it holds {what} line by line, name it .jsonl"
        raise error(f"{path}, line {fault.lineno}: not valid JSON ({fault.msg}): {hint}") from None
    if not isinstance(records, list):
        raise error(f"{path}: must hold a list of {what}")
    for number, record in enumerate(records, 1):
        yield f"{path}, row {number}", record


def _json_lines(path: Path, text: str, error: type[Exception], what: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as fault:
            hint = "was it cut off?"
            if text.lstrip().startswith("["):
                hint += f" or, if it is one list of {what}, name it .json"
            raise error(f"{path}, line {number}: not valid JSON ({fault.msg}): {hint}") from None
        yield f"{path}, line {number}", record


def _read_text(path: Path, error: type[Exception], kind: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as fault:  # it is missing, or a folder, or may not be read
        raise error(f"{path}: can't be read ({fault.strerror}): give {kind}") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text ({fault.reason} at byte {fault.start})") from None


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """Context manager that gives a temporary file beside `path` to write to.

    At the end the file is flushed to disk and replaces `path`. On an error it is deleted, and `path` is as before.
    """
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
    """Write `text` to `path` in UTF-8, completely or not at all; returns the path.

    Half of a surrogate pair (from a file name that is not UTF-8, say) is written as JSON escapes it: ``\\udce4``.
    """
    with replaced(path) as file:
        file.write(text.encode(errors="backslashreplace"))
    return Path(path)


def write_json_atomic(path: str | Path, value: Any, indent: int | None = 2) -> Path:
    """Write `value` to `path` as JSON with readable Unicode, completely or not at all; returns the path."""
    return write_text_atomic(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_records(path: str | Path, records: Sequence[Any]) -> Path:
    """Write what `read_records` reads: JSON Lines if the name ends in ``.jsonl``, else one JSON list."""
    if Path(path).suffix != ".jsonl":
        return write_json_atomic(path, records, indent=1)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    return write_text_atomic(path, "".join(lines))
