"""``repic merge`` and ``repic export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from repic_core.cli.options import Parser, add_flags, add_system_flags, chosen, describe, named_file
from repic_core.cli.output import print_json


def add_merge(parser: Parser) -> None:
    from repic_core.publish.merge import DTYPES

    describe(parser, _merge, "repic merge Qwen/Qwen2.5-VL-7B-Instruct runs/mine merged --dtype float32")
    parser.add_argument("model", metavar="BASE", help="a name on the hub or a folder, not quantised")
    parser.add_argument("adapter", metavar="ADAPTER", help="a folder or a name on the hub")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the merged model")
    parser.add_argument("--dtype", choices=DTYPES, help="of the saved weights (default: the base's)")
    add_flags(parser, "--rows", help="a caption file whose photos are asked again, to verify with")
    add_flags(parser, "--database", help="the concepts of --rows")
    add_flags(
        parser, "--root", help="what the paths of both are relative to (default: the database's folder)"
    )
    add_system_flags(parser)
    add_flags(parser, "--max-new-tokens", default=64)
    add_flags(parser, "--device", "--json")


def _merge(options: argparse.Namespace) -> None:
    from repic_core.publish.merge import MergeError, merge_adapter
    from repic_core.publish.verify import items_of, report_table

    items = None
    if options.rows:
        if not options.database:
            raise MergeError("--rows: needs --database, the concepts that its rows name")
        items = items_of(options.rows, options.database, options.root)
    report = merge_adapter(
        options.model,
        options.adapter,
        options.out,
        options.dtype,
        items,
        chosen(options, "evaluation").system,
        options.max_new_tokens,
        device=options.device,
    )
    if options.json:
        print_json(report)
    else:
        print(report_table(report))


def add_export(parser: Parser) -> None:
    from repic_core.publish.export import FACTS

    describe(
        parser, _export, "repic export runs/mine out --base Qwen/Qwen2.5-VL-7B-Instruct --facts facts.yaml"
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder of an adapter or of a merged model"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder in the hub's layout")
    add_flags(parser, "--base", default=None, help="the adapter's base: a name on the hub or a folder")
    parser.add_argument("--facts", metavar="FILE", help=f"YAML with what the card says: {', '.join(FACTS)}")
    add_flags(parser, "--rows", help="training rows, for the dataset card")
    parser.add_argument(
        "--captions", nargs="+", default=[], metavar="[NAME=]FILE", help="caption files, scored for the card"
    )
    add_flags(parser, "--database", help="the concepts of --captions")
    parser.add_argument("--push", metavar="REPO", help="upload to this hub repository (private)")
    parser.add_argument("--public", action="store_true", help="with --push: make it public")


def _export(options: argparse.Namespace) -> None:
    from repic_core.data.rows import read_rows
    from repic_core.publish.export import evaluation_rows, export, read_facts

    facts = read_facts(options.facts) if options.facts else {}
    if options.captions:
        more = evaluation_rows(dict(map(named_file, options.captions)), options.database)
        facts["evaluation"] = [*(facts.get("evaluation") or []), *more]
    rows = read_rows(options.rows, check_images=False) if options.rows else None
    private = not options.public
    print(export(options.source, options.out, options.base, facts, rows, options.push, private))
