"""Files that several programs write: one at a time, and a change by another is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT = 60  # seconds


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Context manager in which no other process or thread holds the lock of the file `path`, which may be missing.

    It may be entered again by the thread that holds it. The lock is the operating system's (`filelock`): it ends
    with its process, also with one that is killed. A file ``.NAME.lock`` marks it meanwhile.

    Raises:
        TimeoutError: another holds it for `WAIT` seconds; names the file.
    """
    from filelock import FileLock, Timeout

    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = path.with_name(f".{path.name}.lock")
    lock = FileLock(marker, timeout=WAIT, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise TimeoutError(
            f"{path}: another program has been writing it for {WAIT} seconds: end it, or try again later"
        ) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # by the holder: who waits for a marker that is gone makes a new one
            marker.unlink(missing_ok=True)
        lock.release()


def content_hash(path: str | Path) -> str | None:
    """The SHA-256 of a file's bytes; None if there is no such file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
