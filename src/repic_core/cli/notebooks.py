"""``repic notebooks``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from repic_core.cli.options import Parser, describe


def add_notebooks(parser: Parser) -> None:
    describe(parser, _notebooks, "repic notebooks --profile tiny")
    parser.add_argument("--lab", action="store_true", help="open them in JupyterLab instead of running them")
    parser.add_argument(
        "--profile",
        choices=("tiny", "paper"),
        default="tiny",
        help="tiny: the toy world on a CPU; paper: the published models on a GPU (default: tiny)",
    )
    parser.add_argument("--run-dir", metavar="FOLDER", help="gets all that is made (default: runs/PROFILE)")
    parser.add_argument("--notebooks", default="notebooks", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of every notebook, such as: -p official_root ../RePIC -p quick True",
    )


def _notebooks(options: argparse.Namespace) -> int:
    from repic_core.notebooks import EVALUATION, NotebookError, open_lab, parse_value, results_table, run_all

    run_dir = Path(options.run_dir or Path("runs") / options.profile)
    parameters = {name: parse_value(value) for name, value in options.parameters}

    def echo(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    start = time.monotonic()
    try:
        if options.lab:
            return open_lab(options.notebooks)
        run_all(options.notebooks, run_dir, {"profile": options.profile, **parameters}, echo)
        table = results_table(run_dir / EVALUATION / "results.json")
    except NotebookError as error:  # several lines: the cell's beginning is among them
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2
    echo(f"\nall done in {time.monotonic() - start:.0f} s\n")
    echo(f"executed notebooks  {run_dir / 'notebooks'}")
    for kind, pattern in (("figures", "*/figures/*.png"), ("results", "*/results.json")):
        for path in sorted(run_dir.glob(pattern)):
            echo(f"{kind:<18}  {path}")
    if "\n" in table:  # the `paper` profile has no toy table
        echo("\nbefore and after post-training, names in captions of held-out concepts:\n")
        print(table)
    return 0
