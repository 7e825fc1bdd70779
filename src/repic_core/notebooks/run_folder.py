"""A notebook's place in a run's folder: its figures, its numbers, and what other notebooks made before.

<run_dir>/data/            from notebook 01
<run_dir>/models/          from notebook 02
<run_dir>/<notebook>/      figures/ and results.json
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repic_core.io.files import write_json_atomic
from repic_core.io.kit import kit_path, kit_root
from repic_core.models.known_warnings import quiet_libraries
from repic_core.notebooks.notes import show_notes

DEFAULT_RUN = "tiny"  # what the notebooks' own parameters make, and `bash setup.sh demo`


class _MessageOnly:
    """An error of which IPython shows the message, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Missing(_MessageOnly, FileNotFoundError):
    """What a notebook needs is not there; the message says what makes it."""


class Held(_MessageOnly, ValueError):
    """A folder holds a run that would be replaced; the message says what to set."""


@dataclass
class Run:
    """What one notebook reads and writes.

    Attributes:
        root: the run's folder, which all notebooks of a run share.
        folder: the notebook's own folder in it.
        results: the numbers of the notebook, which `save` writes.
    """

    name: str
    root: Path
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def need(self, path: str, by: str, given: str | os.PathLike[str] = "") -> Path:
        """What the user gave, or else the file or folder `path` of the run.

        Args:
            path: relative to the run's folder, such as ``data/test``.
            by: the notebook or command that makes it.
            given: a parameter; "" for the run's own.

        Raises:
            Missing: it is not there.
        """
        if os.fspath(given):
            return given_path(given)
        found = self.root / path
        if not found.exists():
            what = by if " " in by else f"notebook {by}"
            raise Missing(f"{found} is missing: run {what} first, or give a path of your own")
        return found

    def free(self, folder: Path, resume: bool = False, overwrite: bool = False) -> Path:
        """`folder`, for a training to write to.

        Raises:
            Held: it holds a run that is neither to be continued nor to be replaced.
        """
        from repic_core.training.checkpoints import check_free

        if not overwrite:
            try:
                check_free(folder, resume)
            except ValueError as error:
                raise Held(str(error)) from None
        return folder

    def save(self) -> None:
        """Write `results` to ``results.json`` in the notebook's folder."""
        write_json_atomic(self.folder / "results.json", self.results)


def given_path(path: str | os.PathLike[str]) -> Path:
    """A path that the user gave: from the working directory, or of the kit.

    Raises:
        Missing: nothing is there.
    """
    found = kit_path(path).expanduser()
    if not found.exists():
        raise Missing(f"{path}: no such file or folder (from {Path.cwd()})")
    return found


def open_run(name: str, run_dir: str | os.PathLike[str] = "") -> Run:
    """The first line of a notebook: its folders are made, and libraries' known warnings are hidden.

    Args:
        name: the notebook's, such as ``03_inference``.
        run_dir: from the working directory; "" for ``runs/tiny`` in the checkout (outside of one, here).
    """
    quiet_libraries()
    show_notes()
    run = Run(name, default_run_dir() if not os.fspath(run_dir) else Path(run_dir).expanduser().resolve())
    run.figures.mkdir(parents=True, exist_ok=True)
    return run


def default_run_dir(name: str = DEFAULT_RUN) -> Path:
    """``runs/<name>`` in the checkout, or in the working directory where there is no checkout."""
    return (kit_root() or Path.cwd()) / "runs" / name
