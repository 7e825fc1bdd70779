"""Run the notebooks in order through papermill, as ``bash setup.sh demo`` and the notebook tests do; open them.

Every notebook has one cell tagged ``parameters`` with ``profile`` and ``run_dir``, and writes its numbers to
``<run_dir>/<notebook>/results.json`` and its figures to ``<run_dir>/<notebook>/figures/``. The executed
copies go to ``<run_dir>/notebooks/``.

    repic notebooks --profile tiny
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from repic_core.io.files import write_json_atomic

EVALUATION = "04_evaluation"


class NotebookError(RuntimeError):
    """A notebook stopped; the message names the notebook, the cell and the error."""


def project_root(start: str | Path = ".") -> Path:
    """The checkout that `start` is in: the nearest folder upwards with ``pyproject.toml`` and ``notebooks/``.

    Jupyter starts a kernel in the notebook's folder, `run_notebook` in the root. Each notebook first changes to the
    root, so that its paths mean the same in both. Outside of a checkout this is `start` itself.
    """
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return start


def find_notebooks(folder: str | Path = "notebooks") -> list[Path]:
    """The numbered notebooks of `folder`, in order.

    Raises:
        NotebookError: there is none, as when called from another folder than the repository's root.
    """
    notebooks = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise NotebookError(
            f"{folder}: no notebook named like 01_*.ipynb; run this from the repository's root"
        )
    return notebooks


def run_notebook(path: str | Path, run_dir: str | Path, parameters: Mapping[str, Any]) -> Path:
    """Execute one notebook into ``<run_dir>/notebooks/`` and return the executed copy.

    The kernel starts in the repository's root (the parent of the notebook's folder) and gets `run_dir`
    (absolute) besides `parameters`.

    Raises:
        NotebookError: a cell failed or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    # It warns of each parameter that only other notebooks have.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    path, run_dir = Path(path), Path(run_dir).resolve()
    executed = run_dir / "notebooks" / path.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            path,
            executed,
            parameters={**parameters, "run_dir": str(run_dir)},
            cwd=path.resolve().parent.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],  # of the kernel, whose warnings are about its sockets
        )
    except ValueError as error:  # nbformat's, of a file that is no notebook
        raise NotebookError(f"{path}: can't be run ({' '.join(str(error).split())[:200]})") from None
    except papermill.PapermillExecutionError as error:
        message = "\n    ".join(error.evalue.strip().splitlines()[:3])
        cell = "\n    ".join(error.source.strip().splitlines()[:3])
        raise NotebookError(
            f"{path}: cell [{error.exec_count}] stopped with {error.ename}: {message}\n"
            f"  the cell begins\n    {cell}\n"
            f"  full traceback: {executed}"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{path}: the kernel died, most often for want of memory; last state: {executed}"
        ) from None
    return executed


def open_lab(folder: str | Path = "notebooks") -> int:
    """Open the notebooks of `folder` in JupyterLab; kernels start in the repository's root, as in `run_notebook`.

    Returns:
        Jupyter's exit status, when it is closed.

    Raises:
        NotebookError: there is no notebook, or no JupyterLab.
    """
    root = find_notebooks(folder)[0].resolve().parent.parent
    if find_spec("jupyterlab") is None:
        raise NotebookError("JupyterLab is not installed: pip install jupyterlab")
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "jupyterlab", str(folder)]
        return subprocess.call(command, env={**os.environ, "JUPYTER_PATH": kernel_path(place, root)})


def kernel_path(place: str | Path, root: str | Path) -> str:
    """Write a Python kernel that starts in `root` into the folder `place`; returns the ``JUPYTER_PATH`` for it.

    (Jupyter itself starts a kernel in the folder of its notebook.)
    """
    start = f"--IPKernelApp.exec_lines=import os; os.chdir({str(root)!r})"
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", start]
    spec = {"argv": launch, "display_name": "Python 3 (RePIC kit)", "language": "python"}
    write_json_atomic(Path(place) / "kernels" / "python3" / "kernel.json", spec)
    return os.pathsep.join(filter(None, [str(place), os.environ.get("JUPYTER_PATH")]))


def results_table(results: str | Path) -> str:
    """The before/after table of a ``results.json``: an arm a row; name precision, recall and F1 in percent.

    The file holds ``{"table": [{"arm": str, "k": int, "precision": p, "recall": r, "f1": f}, ...]}`` with
    `k` the number of concepts in the query image and the three scores in [0, 1]. A score that does not
    exist (null) is printed as a dash.

    Raises:
        NotebookError: the file is missing, or lacks the table or one of its fields.
    """
    try:
        rows = json.loads(Path(results).read_text(encoding="utf-8"))["table"]
        scores = {
            (row["arm"], row["k"]): [row[name] for name in ("precision", "recall", "f1")] for row in rows
        }
    except FileNotFoundError:
        raise NotebookError(f"{results}: not written; run {EVALUATION} first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise NotebookError(
            f"{results}: 'table' with arm, k, precision, recall, f1 expected ({error!r})"
        ) from None
    arms = list(dict.fromkeys(arm for arm, _ in scores))
    ks = sorted({k for _, k in scores})
    lines = [["arm", *(f"{k} concept{'s' * (k != 1)} P/R/F1" for k in ks)]]
    for arm in arms:
        cells = (scores.get((arm, k), [None] * 3) for k in ks)
        lines.append(
            [arm, *("/".join("-" if s is None else f"{100 * s:.1f}" for s in cell) for cell in cells)]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def run_all(
    folder: str | Path, run_dir: str | Path, parameters: Mapping[str, Any], echo: Any = print
) -> list[Path]:
    """Run every notebook of `folder` with the same `parameters`; one line through `echo` as each begins and
    one as it ends, with its seconds. Stops at the first failure (`NotebookError`)."""
    notebooks = find_notebooks(folder)
    executed = []
    for number, path in enumerate(notebooks, start=1):
        where = f"[{number}/{len(notebooks)}] {path.stem}"
        echo(f"{where} ...")
        start = time.monotonic()
        executed.append(run_notebook(path, run_dir, parameters))
        echo(f"{where} done in {time.monotonic() - start:.0f} s")
    return executed


def parse_value(text: str) -> Any:
    """A parameter as YAML reads it where that is a truth value or a number, else the text as it is.

    >>> parse_value("False"), parse_value("8"), parse_value("../RePIC"), parse_value("")
    (False, 8, '../RePIC', '')
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text
