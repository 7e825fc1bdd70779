"""What the notebooks of the repository begin with, and how they are run and opened.

>>> from repic_core.notebooks import open_run
>>> run = open_run("03_inference", "runs/mine")  # doctest: +SKIP
"""

from __future__ import annotations

from repic_core.notebooks.run_folder import Missing, Run, given_path, open_run

__all__ = ["Missing", "Run", "given_path", "open_run"]
