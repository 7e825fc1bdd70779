"""``repic plan``."""

from __future__ import annotations

import argparse

from repic_core.cli.options import Parser, add_flags, at_least, describe
from repic_core.cli.output import print_json


def add_plan(parser: Parser) -> None:
    from repic_core.planning.settings import CARDS
    from repic_core.training.recipe import recipe_names

    describe(parser, _plan, "repic plan --recipe 7b-1gpu-24gb --card rtx4090")
    recipes = ", ".join(name for name in recipe_names() if "sft" not in name)
    parser.add_argument("--recipe", default="paper", metavar="R", help=f"{recipes}, or a YAML file")
    add_flags(parser, "--model", help="a folder or a published name (default: the recipe's)")
    parser.add_argument("--card", default="h100", metavar="C", help=f"{', '.join(CARDS)} (default: h100)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--sharding", metavar="S", help="none, zero2 or fsdp2 (default: the recipe's)")
    parser.add_argument("--references", type=int, default=4, metavar="N", help="in a prompt (default: 4)")
    parser.add_argument(
        "--side", type=at_least(1), default=512, metavar="N", help="of a photo, in pixels (default: 512)"
    )
    parser.add_argument(
        "--completion", type=int, metavar="N", help="tokens of a caption (default: the recipe's longest)"
    )
    add_flags(
        parser, "--rows", type=int, metavar="N", help="number of training rows, for the number of steps"
    )
    parser.add_argument(
        "--scale", action="store_true", help="instead: a table for 1, 8 and 64 GPUs of --card and more rows"
    )
    measure = parser.add_argument_group("compare with a real step")
    measure.add_argument("--measure", action="store_true", help="run a step of --preset here, and compare")
    measure.add_argument("--preset", default="cpu", metavar="P", help="toy, cpu, 3b-random or 7b-random")
    measure.add_argument("--tune", default="lora", metavar="T", help="lora or full (default: lora)")
    measure.add_argument("--checkpointing", action="store_true", help="recompute activations")
    add_flags(parser, "--json")


def _plan(options: argparse.Namespace) -> None:
    if options.measure:
        from repic_core.benchmarks import plan_check

        measured = plan_check.check(options.preset, options.tune, options.checkpointing)
        if options.json:
            print_json(measured)
        else:
            print(plan_check.report(measured, options.preset))
        return
    if options.scale:
        from repic_core.planning.scale import report, scale_table

        table = scale_table(options.card)
        if options.json:
            print_json(table)
        else:
            print(report(table, options.card))
        return
    from repic_core.planning.plan import plan, report

    found = plan(
        recipe=options.recipe,
        model=options.model,
        references=options.references,
        side=options.side,
        completion=options.completion,
        gpus=options.gpus,
        sharding=options.sharding,
        card=options.card,
        rows=options.rows,
    )
    if options.json:
        print_json(found)
    else:
        print(report(found))
