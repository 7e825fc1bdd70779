"""What notebooks have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.places import ROOT
from repic_core.notebooks.runner import run_notebook

FOLDER = ROOT / "notebooks"


def results(run_dir: Path, name: str) -> dict[str, Any]:
    """The ``results.json`` of a notebook."""
    return json.loads((run_dir / name / "results.json").read_text(encoding="utf-8"))


def run(name: str, run_dir: Path, **parameters: Any) -> dict[str, Any]:
    """Run one notebook into `run_dir` with these parameters; returns its ``results.json``."""
    run_notebook(FOLDER / f"{name}.ipynb", run_dir, parameters)
    return results(run_dir, name)
