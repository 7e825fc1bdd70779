"""What a command prints beside its result: notes, progress, warnings; nothing of it with ``--quiet``."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

# Read by tqdm, huggingface_hub and datasets when they are imported.
NO_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


@contextmanager
def notes_shown(quiet: bool) -> Iterator[None]:
    """Context manager that shows warnings and notes as plain lines on stderr, or with `quiet` none of them."""
    from repic_core.models.known_warnings import hide_known_warnings

    logger, adapters = (logging.getLogger(name) for name in ("repic_core", "repic_core.models.adapters"))
    shown = logging.StreamHandler(sys.stderr)  # how many layers an adapter changes
    level, environment = logger.level, {name: os.environ.get(name) for name in NO_BARS}
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        hide_known_warnings()
        if not quiet:
            adapters.addHandler(shown)
            adapters.setLevel(logging.INFO)
        if quiet:
            warnings.simplefilter("ignore")
            logger.setLevel(logging.ERROR)
            os.environ.update(dict.fromkeys(NO_BARS, "1"))
        try:
            yield
        finally:
            logger.setLevel(level)
            adapters.removeHandler(shown)
            adapters.setLevel(logging.NOTSET)
            if quiet:
                for name, value in environment.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


@contextmanager
def prints_hidden(hidden: bool) -> Iterator[None]:
    """Context manager in which, if `hidden`, nothing is printed to stdout: of work that prints how far it is."""
    if not hidden:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def note(options: Any, text: str) -> None:
    """A line on stderr, not with ``--quiet``."""
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The answer of a command with ``--json``."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
