"""``repic benchmark training-step|captions|kept-references|large-index|page-load|merge-drift|gpu``."""

from __future__ import annotations

import argparse
from typing import Any

from repic_core.cli.options import TOY_BASE, Parser, add_command, add_commands, add_flags, at_least
from repic_core.cli.output import note, print_json

DEFAULT = "default: %(default)s"
OF_PRESET = ("prompts", "generations", "completion", "references")  # what flags replace


def add_benchmark(parser: Parser) -> None:
    commands = add_commands(parser)
    _add_training_step(commands)
    _add_captions(commands)
    _add_kept_references(commands)
    _add_large_index(commands)
    _add_page_load(commands)
    _add_merge_drift(commands)
    _add_gpu(commands)


def _add_training_step(commands: Any) -> None:
    line = "time a GRPO step: TRL's own against the shared prefix"
    example = "repic benchmark training-step --preset cpu"
    parser = add_command(commands, "training-step", _training_step, line, example)
    _add_preset(parser, repeats=3)
    for name in OF_PRESET:
        parser.add_argument(f"--{name}", type=at_least(1), metavar="N", help="default: the preset's")
    line = "instead: cost by references and group size, as a figure (.png, .pdf)"
    parser.add_argument("--figure", metavar="FILE", help=line)
    _add_answer(parser)


def _add_captions(commands: Any) -> None:
    from repic_core.benchmarks.captions import ROWS

    line = "captions a second: each row on its own, each photo once, kept references, a server"
    parser = add_command(commands, "captions", _captions, line, "repic benchmark captions --preset cpu")
    _add_preset(parser, repeats=3)
    for name, default, of in (
        ("rows", ROWS, "about four photos"),
        ("references", 4, "of a row"),
        ("tokens", 64, "of a caption"),
        ("batch-size", 8, "rows captioned together"),
    ):
        parser.add_argument(
            f"--{name}", type=at_least(1), default=default, metavar="N", help=f"{of} ({DEFAULT})"
        )
    parser.add_argument("--server", metavar="URL", help="also measure this server of the preset's model")
    add_flags(parser, "--model", help="the server's name of the model, such as assets/toy-base")
    _add_answer(parser)


def _add_kept_references(commands: Any) -> None:
    line = "time captions whose references were seen before"
    example = "repic benchmark kept-references --preset cpu"
    parser = add_command(commands, "kept-references", _kept_references, line, example)
    _add_preset(parser, repeats=5)
    parser.add_argument("--references", type=at_least(1), default=4, metavar="N", help=DEFAULT)
    parser.add_argument(
        "--tokens", type=at_least(1), default=64, metavar="N", help=f"of a caption ({DEFAULT})"
    )
    _add_answer(parser)


def _add_large_index(commands: Any) -> None:
    from repic_core.benchmarks.large_index import KINDS, SIZES

    line = "build, search and edit an index of up to a million made-up photos"
    example = "repic benchmark large-index --sizes 1000 100000"
    parser = add_command(commands, "large-index", _large_index, line, example)
    sizes = " ".join(map(str, SIZES))
    parser.add_argument(
        "--sizes", type=at_least(1), nargs="+", default=SIZES, metavar="N", help=f"default: {sizes}"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="K", help=", ".join(KINDS)
    )
    _add_answer(parser)


def _add_page_load(commands: Any) -> None:
    line = "visit the live page in many threads (Linux only)"
    example = "repic benchmark page-load --clients 20 --minutes 4"
    parser = add_command(commands, "page-load", _page_load, line, example)
    parser.add_argument("--clients", type=at_least(1), default=20, metavar="N", help=DEFAULT)
    parser.add_argument("--minutes", type=float, default=4, metavar="M", help=DEFAULT)
    add_flags(parser, "--model", default=TOY_BASE, help=DEFAULT)
    add_flags(parser, "--adapter")


def _add_merge_drift(commands: Any) -> None:
    line = "what merging an adapter in bfloat16 loses: layers of 7B's sizes, and the toy"
    parser = add_command(commands, "merge-drift", _merge_drift, line, "repic benchmark merge-drift")
    add_flags(parser, "--base")
    add_flags(parser, "--adapter", help="the toy's adapter, such as runs/tiny/models/grpo")
    parser.add_argument("--data", metavar="FOLDER", help="held-out toys, such as runs/tiny/data/test")


def _add_gpu(commands: Any) -> None:
    from repic_core.benchmarks.presets import PRESETS

    line = "all that waits for a GPU, in under 25 minutes: steps, attention, plan, captions, half precision, 4 bits"
    resumes = "the same command continues from the parts that are done"
    parser = add_command(commands, "gpu", _gpu, line, "repic benchmark gpu --out assets/results", resumes)
    out = "for gpu.json and gpu.md (default: assets/results; on a CPU runs/gpu-on-cpu)"
    parser.add_argument("--out", metavar="FOLDER", help=out)
    parser.add_argument("--preset", choices=PRESETS, help="for all parts, such as cpu to try them on a CPU")
    parser.add_argument("--fresh", action="store_true", help="repeat the parts that are done")
    parser.add_argument("--quick", action="store_true", help="a trial with small prompts; measures nothing")


def _add_preset(parser: argparse.ArgumentParser, repeats: int) -> None:
    from repic_core.benchmarks.presets import PRESETS

    parser.add_argument("--preset", choices=PRESETS, default="cpu", help=DEFAULT)
    parser.add_argument("--repeats", type=at_least(1), default=repeats, metavar="N", help=DEFAULT)


def _add_answer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", help="also write all that was measured, as JSON")
    add_flags(parser, "--json")


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
    changes = {name: getattr(options, name) for name in OF_PRESET if getattr(options, name) is not None}
    found = training_step.run(options.preset, options.repeats, **changes)
    _answer(options, found, training_step.report(found))


def _captions(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import captions

    if bool(options.server) != bool(options.model):
        raise ValueError("--server and --model go together")
    sizes = options.rows, options.references, options.tokens, options.batch_size
    found = captions.run(options.preset, options.repeats, *sizes, options.server, options.model)
    _answer(options, found, captions.report(found))


def _kept_references(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import kept_references

    found = kept_references.run(options.preset, options.repeats, options.references, options.tokens)
    _answer(options, found, kept_references.report(found))


def _large_index(options: argparse.Namespace) -> None:
    from repic_core.benchmarks import large_index

    found = large_index.run(options.sizes, options.kinds, lambda line: note(options, line))
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


def _gpu(options: argparse.Namespace) -> None:
    import torch

    from repic_core.benchmarks import gpu

    cuda = torch.cuda.is_available()
    if not options.preset and not cuda:
        raise ValueError("no GPU is seen here; --preset cpu tries all parts on this machine's CPU")
    out = options.out or ("assets/results" if cuda else "runs/gpu-on-cpu")
    gpu.run(out, options.preset, options.fresh, options.quick, lambda line: note(options, line))
    print(f"{out}/gpu.md")
