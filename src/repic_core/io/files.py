"""JSON is read with clear messages; files are written atomically: a reader sees the old one or the new one."""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

BOM = "\ufeff"
# By byte order mark; that of UTF-32 begins as that of UTF-16 does.
CODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_json(path: Path, error: type[Exception], **options: Any) -> Any:
    """What a JSON file holds; `options` go to ``json.loads``.

    Raises:
        error: the file is missing, is not text or is not JSON (perhaps cut off); names the file and the line.
    """
    return parse_json(read_text(path, error, "a JSON file"), str(path), error, **options)


def parse_json(text: str, name: str, error: type[Exception], **options: Any) -> Any:
    """What a JSON text holds; `options` go to ``json.loads``. `error` names the file `name` and the line."""
    try:
        return _loads(text, **options)
    except json.JSONDecodeError as fault:
        where = f"line {fault.lineno}: {fault.msg}"
        raise error(f"{name}: not valid JSON ({where}): was it cut off? write it again") from None


def read_yaml(path: Path, error: type[Exception], what: str = "lines of `key: value`") -> dict[str, Any]:
    """The ``key: value`` lines of a YAML file.

    Args:
        what: what the file has to hold, for the message.

    Raises:
        error: the file is missing, is not text, is not YAML or holds anything else; names the file.
    """
    import yaml

    try:
        values = yaml.safe_load(read_text(path, error, "a YAML file"))
    except yaml.YAMLError as fault:
        raise error(f"{path}: not valid YAML: {' '.join(str(fault).split())}") from None
    if not isinstance(values, dict):
        raise error(f"{path}: must hold {what}")
    return values


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
    text = read_text(path, error, "a JSON or JSONL file")
    if _in_lines(path):
        yield from _json_lines(path, text, error, what)
        return
    try:
        records = _loads(text)
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
        if not line.strip(f"{BOM} \t\r"):
            continue
        try:
            record = _loads(line)
        except json.JSONDecodeError as fault:
            hint = "was it cut off?"
            if text.lstrip().startswith("["):
                hint += f" or, if it is one list of {what}, name it .json"
            raise error(f"{path}, line {number}: not valid JSON ({fault.msg}): {hint}") from None
        yield f"{path}, line {number}", record


def _in_lines(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".jsonl"


def _loads(text: str, **options: Any) -> Any:
    """``json.loads`` past byte order marks (joined files have several); every fault is a ``JSONDecodeError``."""
    text = text.lstrip(BOM)
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise json.JSONDecodeError("too deeply nested", text, 0) from None
    except ValueError as fault:
        if type(fault) is not ValueError:  # also what a hook of `options` raises
            raise
        raise json.JSONDecodeError(str(fault), text, 0) from None  # a number of thousands of digits


def read_text(path: Path, error: type[Exception], kind: str = "a text file") -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which is left out.

    Args:
        kind: what the file should be, for the message.

    Raises:
        error: the file is missing or is not such text; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as fault:  # it is missing, or a folder, or may not be read
        raise error(f"{path}: can't be read ({fault.strerror}): give {kind}") from None
    return decode_text(data, str(path), error)


def decode_text(data: bytes, name: str, error: type[Exception]) -> str:
    """As `read_text`, of the content of a file called `name`."""
    coding = next((coding for mark, coding in CODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        # Lines end in any of the three ways, as `open` reads them.
        return data.decode(coding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as fault:
        coding = coding.removesuffix("-sig").upper()
        hint = "save it as UTF-8" if fault.end < len(data) else "was it cut off?"
        where = f"{fault.reason} at byte {fault.start}"
        raise error(f"{name}: not {coding} text ({where}): {hint}") from None


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
    if not _in_lines(path):
        return write_json_atomic(path, records, indent=1)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    return write_text_atomic(path, "".join(lines))
