"""``repic notebooks``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from repic_core.cli.options import Parser, describe


def add_notebooks(parser: Parser) -> None:
    describe(parser, _notebooks, "repic notebooks --profile quick")
    parser.add_argument(
        "--lab", action="store_true", help="open copies (runs/lab) in JupyterLab instead of running"
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="run in a fresh folder, and write the outputs into the notebooks",
    )
    parser.add_argument(
        "--open", action="store_true", help="then open the page of what was made in a browser"
    )
    parser.add_argument(
        "--profile",
        metavar="P",
        help="a file of parameters (YAML), or quick (a trial) or paper (the published models, on a GPU); "
        "default: the notebooks' own, the toy world on a CPU",
    )
    parser.add_argument("--run-dir", metavar="FOLDER", help="gets all that is made (default: runs/tiny)")
    parser.add_argument("--notebooks", default="notebooks", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebooks that have it, such as: -p official_root ../RePIC",
    )


def _notebooks(options: argparse.Namespace) -> int:
    from repic_core.io.kit import kit_path
    from repic_core.notebooks.errors import NotebookError
    from repic_core.notebooks.lab import open_lab
    from repic_core.notebooks.outputs import render
    from repic_core.notebooks.pages import open_page, write_pages
    from repic_core.notebooks.parameters import parse_value, read_profile
    from repic_core.notebooks.results import EVALUATION, aligned, results_table
    from repic_core.notebooks.run_folder import default_run_dir
    from repic_core.notebooks.runner import run_all

    folder = kit_path(options.notebooks)
    name = Path(options.profile).stem if options.profile else "tiny"
    run_dir = Path(options.run_dir) if options.run_dir else default_run_dir(name)

    def echo(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    start = time.monotonic()
    try:
        if options.lab:
            return open_lab(folder, echo)
        if options.render:
            if options.profile or options.parameters or options.run_dir:
                raise NotebookError(
                    "--render takes the notebooks' own parameters: no --profile, -p or --run-dir"
                )
            render(folder, default_run_dir("render"), echo)
            return 0
        parameters = read_profile(options.profile, folder) if options.profile else {}
        parameters |= {name: parse_value(value) for name, value in options.parameters}
        executed = run_all(folder, run_dir, parameters, echo)
        table = results_table(run_dir / EVALUATION / "results.json")
    except NotebookError as error:  # several lines: the cell's beginning is among them
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2
    echo(f"\nall done in {time.monotonic() - start:.0f} s\n")
    echo(f"executed notebooks  {run_dir / 'notebooks'}")
    for kind, pattern in (("figures", "*/figures/*.png"), ("results", "*/results.json")):
        for path in sorted(run_dir.glob(pattern)):
            echo(f"{kind:<18}  {path}")
    if len(table) > 1:  # without scores of one's own there is no table
        echo("\nbefore and after post-training, names in captions of held-out concepts:\n")
        print(aligned(table))
    index = write_pages(run_dir, executed, table)
    echo(f"\nall of it, to look at: {index}")
    if options.open:
        open_page(index)
    return 0
