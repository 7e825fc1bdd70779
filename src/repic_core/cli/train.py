"""``repic train grpo|sft`` and ``repic reproduce``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from repic_core.cli.options import SHARED, TOY_BASE, Parser, add_command, add_commands, add_flags, describe
from repic_core.cli.output import print_json, prints_hidden

# Flags that are explained here.
OWN = ("config", "rows", "model", "image_root", "output_dir", "resume", "overwrite")

RESUMES = "with --resume the same command continues from the last checkpoint"


def add_train(parser: Parser) -> None:
    from repic_core.training.recipe import recipe_names

    commands = add_commands(parser)
    kinds = {
        "grpo": ("post-train with GRPO on rewards that are checked", _grpo, "toy", "GRPOConfig"),
        "sft": ("fine-tune on captions: rows whose solution is a caption", _sft, "toy_sft", "SFTConfig"),
    }
    for name, (line, run, recipe, trainer) in kinds.items():
        more = (
            f"The recipe says everything else. Any value of it, and any of TRL's {trainer}, is\n"
            "replaced by --name value, such as --max-steps 100 or --learning-rate 1e-5."
        )
        where = f"--model {TOY_BASE} --rows rows.jsonl --output-dir runs/mine"
        example = f"repic train {name} --config {recipe} {where}"
        command = add_command(commands, name, run, line, example, RESUMES, more)
        command.set_defaults(trainers=[])
        command.add_argument(
            "--config", metavar="RECIPE", help=f"{', '.join(recipe_names())}, or a YAML file"
        )
        add_flags(command, "--rows")
        command.add_argument(
            "--model", metavar="M", help="a name on the hub or a folder (default: the recipe's)"
        )
        command.add_argument("--image-root", "--image_root", **SHARED["--image-root"])
        command.add_argument(
            "--output-dir", "--output_dir", metavar="FOLDER", help="gets the result and checkpoints"
        )
        command.add_argument(
            "--resume",
            nargs="?",
            const="true",
            metavar="true",
            help="continue from the last checkpoint in it",
        )
        command.add_argument(
            "--overwrite", nargs="?", const="true", metavar="true", help="replace another run in it"
        )


def add_reproduce(parser: Parser) -> None:
    describe(parser, _reproduce, "repic reproduce runs/mine/run.json --out runs/again")
    parser.add_argument("record", metavar="RUN.JSON", help="the record of the run, beside its weights")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new folder for the repeated run")
    add_flags(parser, "--rows", help="the rows (default: where the record says)")
    add_flags(parser, "--image-root", help="what image paths are relative to (default: as the record says)")
    add_flags(parser, "--model", help="the model (default: what the record says)")
    parser.add_argument("--anyway", action="store_true", help="also with other data or another model")
    add_flags(parser, "--json")


def _grpo(options: argparse.Namespace) -> None:
    from repic_core.training import grpo

    _train(options, grpo.command)


def _sft(options: argparse.Namespace) -> None:
    from repic_core.training import sft

    _train(options, sft.command)


def _train(options: argparse.Namespace, command: Callable[..., Any]) -> None:
    """Pass the options on, as the trainer spells them, and print the folder of the result."""
    from repic_core.training.failures import TrainingError

    given = [(f"--{name}", getattr(options, name)) for name in OWN]
    arguments = [part for flag, value in given if value is not None for part in (flag, value)]
    arguments += ["--disable_tqdm", "true"] if options.quiet else []
    try:
        with prints_hidden(options.quiet):
            folder = command([*arguments, *options.trainers], options.prog)
    except TrainingError as error:
        raise ValueError(str(error)) from error
    print(folder)


def _reproduce(options: argparse.Namespace) -> int:
    """0 where the weights are the same to the bit, else 1."""
    from repic_core.training.failures import TrainingError
    from repic_core.training.reproduce import repeat

    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        print(line)

    source = (options.record, options.out, options.rows, options.image_root, options.model)
    try:
        with prints_hidden(options.quiet or options.json):
            same = repeat(*source, anyway=options.anyway, tell=tell)
    except TrainingError as error:
        raise ValueError(str(error)) from error
    if options.json:
        print_json({"same": same, "said": told})
    elif options.quiet:
        print("the same weights" if same else "other weights")
    return 0 if same else 1
