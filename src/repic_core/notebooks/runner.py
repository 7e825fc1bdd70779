"""Run the notebooks in order through papermill, as ``bash setup.sh demo`` and the notebook tests do.

Every notebook has one cell tagged ``parameters`` with ``run_dir``, and writes its numbers to
``<run_dir>/<notebook>/results.json`` and its figures to ``<run_dir>/<notebook>/figures/``. The executed
copies go to ``<run_dir>/notebooks/``.

    repic notebooks
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.parameters import check_names, parameter_names


def find_notebooks(folder: str | Path) -> list[Path]:
    """The numbered notebooks of `folder`, in order.

    Raises:
        NotebookError: there is none.
    """
    notebooks = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise NotebookError(
            f"{folder}: no notebook named like 01_*.ipynb; give the folder of the kit's notebooks (--notebooks)"
        )
    return notebooks


def run_notebook(path: str | Path, run_dir: str | Path, parameters: Mapping[str, Any]) -> Path:
    """Execute one notebook into ``<run_dir>/notebooks/`` and return the executed copy.

    The kernel starts in the working directory, so that paths in `parameters` are relative to it.

    Raises:
        NotebookError: a parameter that the notebook does not have; a cell failed or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    path, run_dir = Path(path), Path(run_dir).resolve()
    check_names(parameters, [path])
    executed = run_dir / "notebooks" / path.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            path,
            executed,
            parameters={**parameters, "run_dir": str(run_dir)},
            cwd=Path.cwd(),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=600,  # seconds; 60 are too few where other programs have all cores
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


def run_all(
    folder: str | Path, run_dir: str | Path, parameters: Mapping[str, Any], echo: Any = print
) -> list[Path]:
    """Run every notebook of `folder`, each with those of `parameters` that it has; one line through `echo` as each
    begins and one as it ends, with its seconds.

    Raises:
        NotebookError: a parameter that no notebook has; or at the first notebook that fails.
    """
    notebooks = find_notebooks(folder)
    check_names(parameters, notebooks)
    executed = []
    for number, path in enumerate(notebooks, start=1):
        where = f"[{number}/{len(notebooks)}] {path.stem}"
        echo(f"{where} ...")
        start = time.monotonic()
        own = {name: parameters[name] for name in parameter_names(path) if name in parameters}
        executed.append(run_notebook(path, run_dir, own))
        echo(f"{where} done in {time.monotonic() - start:.0f} s")
    return executed
