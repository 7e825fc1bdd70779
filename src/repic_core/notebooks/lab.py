"""Open copies of the notebooks in JupyterLab, so that those of the repository stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from repic_core.io.kit import kit_root
from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.outputs import read_notebook, recorded_source, source_hash, write_notebook
from repic_core.notebooks.run_folder import default_run_dir
from repic_core.notebooks.runner import find_notebooks


def copy_notebooks(folder: str | Path, copies: str | Path, echo: Callable[[str], None] = print) -> list[Path]:
    """Copy the notebooks of `folder` into `copies`, but never over somebody's edits; returns the copies.

    A copy whose source nobody has edited is replaced when its notebook's source has changed since. A copy that was
    edited is kept, and a line through `echo` says so. Outputs are no edits: while the source is the same, a copy is
    left alone.

    Raises:
        NotebookError: there is no notebook, or one can't be read.
    """
    made = []
    for path in find_notebooks(folder):
        copy = Path(copies) / path.name
        made.append(copy)
        book = read_notebook(path)
        wanted = source_hash(book)
        if copy.exists():
            mine = read_notebook(copy)
            if source_hash(mine) == wanted:
                continue
            if source_hash(mine) != recorded_source(mine):
                if recorded_source(mine) != wanted:
                    echo(f"{copy}: kept with your edits; {path} has changed since (rename yours to get it)")
                continue
        write_notebook(book, copy)
    return made


def open_lab(folder: str | Path, echo: Callable[[str], None] = print) -> int:
    """Open copies of the notebooks of `folder`, under ``runs/lab``, in JupyterLab, which shows the whole checkout.

    Returns:
        Jupyter's exit status, when it is closed.

    Raises:
        NotebookError: there is no notebook, or no JupyterLab.
    """
    if find_spec("jupyterlab") is None:
        raise NotebookError("JupyterLab is not installed: pip install jupyterlab")
    copies = default_run_dir("lab")
    copy_notebooks(folder, copies, echo)
    root = kit_root() or Path.cwd()
    echo(f"copies of the notebooks: {copies}; what you change there stays there")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command += [f"--LabApp.default_url=/lab/tree/{copies.relative_to(root).as_posix()}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # as in most containers; Jupyter refuses unless told
        command += ["--allow-root"]
    return subprocess.call(command)
