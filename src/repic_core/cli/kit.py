"""``repic notebooks`` and ``repic benchmark``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from repic_core.cli.options import TOY_BASE, Parser, add_flags, at_least, describe
from repic_core.cli.output import note, print_json


def add_notebooks(parser: Parser) -> None:
    describe(parser, _notebooks, "repic notebooks --profile tiny", "the same command begins again")
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
    from repic_core.notebooks import EVALUATION, NotebookError, parse_value, results_table, run_all

    if options.lab:
        return _lab(options.notebooks)
    run_dir = Path(options.run_dir or Path("runs") / options.profile)
    parameters = {name: parse_value(value) for name, value in options.parameters}

    def echo(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    start = time.monotonic()
    try:
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


def _lab(folder: str) -> int:
    from repic_core.notebooks import find_notebooks

    if find_spec("jupyterlab") is None:
        raise ImportError("JupyterLab is not installed: pip install jupyterlab")
    find_notebooks(folder)
    return subprocess.call([sys.executable, "-m", "jupyterlab", folder])


def add_benchmark(parser: Parser) -> None:
    from repic_core.benchmarks.presets import PRESETS

    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    step = commands.add_parser(
        "training-step", help="a GRPO step: TRL against the shared prefix", description="Time a GRPO step."
    )
    describe(step, _training_step, "repic benchmark training-step --preset cpu")
    step.add_argument("--repeats", type=at_least(1), default=3, metavar="N", help="default: %(default)s")
    for name in ("prompts", "generations", "completion", "references"):
        step.add_argument(f"--{name}", type=at_least(1), metavar="N", help="default: the preset's")
    step.add_argument(
        "--figure",
        metavar="FILE",
        help="instead: cost by references and group size, as a figure (.png, .pdf)",
    )

    kept = commands.add_parser(
        "kept-references",
        help="captions: references computed once",
        description="Time captions whose references were seen before.",
    )
    describe(kept, _kept_references, "repic benchmark kept-references --preset cpu")
    kept.add_argument("--repeats", type=at_least(1), default=5, metavar="N", help="default: %(default)s")
    kept.add_argument("--references", type=at_least(1), default=4, metavar="N", help="default: %(default)s")
    kept.add_argument(
        "--tokens", type=at_least(1), default=64, metavar="N", help="of a caption (default: 64)"
    )
    for command in (step, kept):
        command.add_argument("--preset", choices=PRESETS, default="cpu", help="default: %(default)s")

    index = commands.add_parser(
        "large-index",
        help="retrieval among up to a million photos",
        description="Build, search and edit indexes of made-up vectors.",
    )
    describe(index, _large_index, "repic benchmark large-index --sizes 1000 100000")
    index.add_argument(
        "--sizes", type=at_least(1), nargs="+", metavar="N", help="default: 1000 100000 1000000"
    )
    index.add_argument("--kinds", nargs="+", metavar="K", help="spread, categories (default: both)")

    page = commands.add_parser(
        "page-load",
        help="the live page with many visitors",
        description="Open the live page and visit it, in many threads (Linux only).",
    )
    describe(page, _page_load, "repic benchmark page-load --clients 20 --minutes 4")
    page.add_argument("--clients", type=at_least(1), default=20, metavar="N", help="default: %(default)s")
    page.add_argument("--minutes", type=float, default=4, metavar="M", help="default: %(default)s")
    add_flags(page, "--model", default=TOY_BASE, help="default: %(default)s")
    add_flags(page, "--adapter")

    drift = commands.add_parser(
        "merge-drift",
        help="what merging an adapter loses",
        description="Print what merging an adapter in bfloat16 loses: layers of 7B's sizes, and the toy.",
    )
    describe(drift, _merge_drift, "repic benchmark merge-drift")
    add_flags(drift, "--base")
    add_flags(drift, "--adapter", help="the toy's adapter, such as runs/tiny/models/grpo")
    drift.add_argument("--data", metavar="FOLDER", help="held-out toys, such as runs/tiny/data/test")
    for command in (step, kept, index):
        command.add_argument("--out", metavar="FILE", help="also write all that was measured, as JSON")
        add_flags(command, "--json")


def _answer(options: argparse.Namespace, found: Any, text: str) -> None:
    from repic_core.io.files import write_json_atomic

    if options.json:
        print_json(found)
    else:
        print(text)
    if options.out:
        write_json_atomic(options.out, found)


def _training_step(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import training_step

    if options.figure:
        from repic_core.display.charts import cost_figure

        points = training_step.sweep(options.preset, options.repeats, lambda line: note(options, line))
        cost_figure(points, options.figure)
        _answer(options, points, options.figure)
        return
    names = ("prompts", "generations", "completion", "references")
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    found = training_step.run(options.preset, options.repeats, **changes)
    _answer(options, found, training_step.report(found))


def _kept_references(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import kept_references

    found = kept_references.run(options.preset, options.repeats, options.references, options.tokens)
    _answer(options, found, kept_references.report(found))


def _large_index(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import large_index

    sizes, kinds = options.sizes or large_index.SIZES, options.kinds or large_index.KINDS
    found = large_index.run(sizes, kinds, lambda line: note(options, line))
    _answer(options, found, large_index.report(found))


def _page_load(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import page_load

    found = page_load.run(options.clients, options.minutes, options.model, options.adapter)
    print(page_load.table(found, options.clients, options.minutes))


def _merge_drift(options: argparse.Namespace) -> None:
    from repic_core.publish import merge_drift

    if bool(options.adapter) != bool(options.data):
        raise ValueError("--adapter and --data go together")
    print(merge_drift.report(options.base, options.adapter, options.data))
