"""``repic demo viewer|live``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.cli.options import (
    Parser,
    add_command,
    add_commands,
    add_flags,
    add_system_flags,
    chosen,
    load_chosen,
    named_file,
)
from repic_core.cli.server import add_server_flags, check_server_flags, server_captioner

EXAMPLES = 8  # that the live page offers at most


def add_demo(parser: Parser) -> None:
    commands = add_commands(parser)
    example = "repic demo viewer --captions mine.json --database photos/database.json"
    viewer = add_command(commands, "viewer", _viewer, "look at captions that were made before", example)
    add_flags(viewer, "--root", default=".", help="what paths are relative to (default: here)")
    viewer.add_argument(
        "--captions",
        nargs="+",
        metavar="[NAME=]FILE",
        help="caption files (default: those of the authors' repository, given as --root)",
    )
    add_flags(viewer, "--database")
    viewer.add_argument(
        "--concepts", type=int, choices=(2, 4), default=4, help="which of the authors' captions (default: 4)"
    )

    example = "repic demo live --model assets/toy-base --database photos/database.json"
    live = add_command(commands, "live", _live, "caption photos in the browser", example)
    add_flags(live, "--model", "--adapter")
    live.add_argument("--compare-model", metavar="M", help="a second model, whose captions are shown beside")
    live.add_argument(
        "--compare-adapter", metavar="A", help="an adapter for it (or for the first model once more)"
    )
    add_flags(live, "--database", help="a concept database that every visitor is given")
    add_flags(live, "--root")
    live.add_argument("--examples", metavar="FILE", help="caption file whose photos are offered to try")
    live.add_argument(
        "--shelves",
        metavar="FOLDER",
        help="where visitors' own concepts are kept (default: shelves beside the database)",
    )
    add_system_flags(live)
    add_flags(live, "--max-pixels", "--min-pixels", "--retrieve", "--side", "--device")
    add_server_flags(live)
    for command in (viewer, live):
        command.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860")


def _viewer(options: argparse.Namespace) -> None:
    from repic_core.demo import launch, viewer
    from repic_core.evaluation.published import SETS, published_files

    if options.captions:
        if not options.database:
            raise ValueError("--captions needs --database")
        pairs = [(name, Path(path)) for name, path in map(named_file, options.captions)]
        files = dict(pairs)
        if len(files) < len(pairs):
            raise ValueError(
                f"two caption files are called {pairs[0][0]}: write NAME=FILE, such as ours={pairs[0][1]}"
            )
        database, note = options.database, ""
    else:
        files, database = published_files(options.root, options.concepts)
        note = SETS[f"{options.concepts}-concepts"].note
    app = viewer.build_viewer(files, options.database or database, options.root, note)
    launch(app, server_port=options.port)


def _live(options: argparse.Namespace) -> None:
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.demo import launch, live

    check_server_flags(options, "adapter", "compare_adapter", "retrieve")
    database, shelves = None, None
    if options.database:
        database = ConceptDatabase.load(options.database, options.root)
        shelves = options.shelves or Path(options.database).parent / "shelves"
    models = _models(options)
    find = _finder(options, next(iter(models.values())), database) if options.retrieve else None
    app = live.build_live(models, database, _examples(options), find=find, shelves=shelves)
    launch(app, server_port=options.port)


def _models(options: argparse.Namespace) -> dict[str, Any]:
    """The one or two captioners of the page, by name."""
    from repic_core.captioner.kept_references import PrefixCaptioner

    found = chosen(options, "evaluation")
    wanted = [(found.model, options.adapter)]
    if options.compare_model or options.compare_adapter:
        wanted.append((options.compare_model or found.model, options.compare_adapter))
    names = [Path(adapter or model).name for model, adapter in wanted]
    if len(set(names)) < len(names):
        names = [f"{place}. {name}" for place, name in enumerate(names, 1)]
    models = {}
    for name, (model, adapter) in zip(names, wanted, strict=True):
        one = chosen(argparse.Namespace(**{**vars(options), "model": model}), "evaluation")
        if options.server:
            models[name] = server_captioner(options, replace(one, reference_style="tag"))
            continue
        loaded = load_chosen(one, adapter, options.device)
        models[name] = PrefixCaptioner(*loaded, system=one.system)
    return models


def _finder(options: argparse.Namespace, first: Any, database: Any) -> Any:
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.demo.finder import Finder
    from repic_core.retrieval.embedders import TowerEmbedder
    from repic_core.retrieval.regions import regions_for

    embedder = TowerEmbedder(first.model, first.processor, chosen(options).side)
    return Finder(database or ConceptDatabase(), embedder, regions_for(first.model), options.retrieve)


def _examples(options: argparse.Namespace) -> list[tuple[Path, list[str]]]:
    """The first photos of the caption file, each once, with the concepts of its first row."""
    from repic_core.captioner.caption_files import load_captions
    from repic_core.io.paths import find_file

    if not options.examples:
        return []
    root = Path(options.root or Path(options.database or options.examples).parent)
    records = load_captions(options.examples)
    examples = {find_file(root, record.query): list(record.tags) for record in records[::-1]}
    return list(examples.items())[::-1][:EXAMPLES]
