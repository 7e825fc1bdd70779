"""Look at captions (``viewer --root RePIC``) or make them (``live --model NAME --database FILE``)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from repic_core.models.loading import PAPER_MAX_PIXELS
from repic_core.retrieval.embedders import TOWER_SIDE

EXAMPLES = 8  # that the live page offers at most


def _viewer(options: argparse.Namespace) -> None:
    from repic_core.demo import launch, viewer
    from repic_core.evaluation.published import published_files

    if options.captions:
        if not options.database:
            raise ValueError("--captions needs --database")
        named = (text.rpartition("=") for text in options.captions)
        pairs = [(name or Path(path).stem, Path(path)) for name, _, path in named]
        files = dict(pairs)
        if len(files) < len(pairs):
            raise ValueError(
                f"two caption files are called {pairs[0][0]}: write NAME=FILE, such as ours={pairs[0][1]}"
            )
        database = options.database
    else:
        files, database = published_files(options.root, options.concepts)
    launch(viewer.build_viewer(files, options.database or database, options.root), server_port=options.port)


def _live(options: argparse.Namespace) -> None:
    from repic_core.captioner.caption_files import load_captions
    from repic_core.captioner.kept_references import PrefixCaptioner
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.demo import launch, live
    from repic_core.demo.finder import Finder
    from repic_core.models.loading import load_model
    from repic_core.retrieval.embedders import TowerEmbedder
    from repic_core.retrieval.regions import tiles

    database, shelves = None, None
    if options.database:
        database = ConceptDatabase.load(options.database, options.root)
        shelves = options.shelves or Path(options.database).parent / "shelves"
    system = None if options.system == "none" else options.system

    def captioner(model: str, adapter: str | None) -> PrefixCaptioner:
        loaded = load_model(model, adapter=adapter, max_pixels=options.max_pixels or None)
        return PrefixCaptioner(*loaded, system=system)

    wanted = [(options.model, options.adapter)]
    if options.compare_model or options.compare_adapter:
        wanted.append((options.compare_model or options.model, options.compare_adapter))
    names = [Path(adapter or model).name for model, adapter in wanted]
    if len(set(names)) < len(names):
        names = [f"{place}. {name}" for place, name in enumerate(names, 1)]
    models = {name: captioner(*one) for name, one in zip(names, wanted, strict=True)}
    find = None
    if options.retrieve:
        first = next(iter(models.values()))
        embedder = TowerEmbedder(first.model, first.processor, options.side)
        find = Finder(database or ConceptDatabase(), embedder, tiles, options.retrieve)
    examples: dict[Path, list[str]] = {}  # one of each photo
    if options.examples:
        root = Path(options.root or Path(options.database or options.examples).parent)
        records = load_captions(options.examples)
        examples = {root / record.query: list(record.tags) for record in records[::-1]}
    offered = list(examples.items())[::-1][:EXAMPLES]
    app = live.build_live(models, database, offered, find=find, shelves=shelves)
    launch(app, server_port=options.port)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m repic_core.demo", description=__doc__)
    commands = parser.add_subparsers(required=True)
    port = argparse.ArgumentParser(add_help=False)
    port.add_argument("--port", type=int, help="default: the first free one from 7860")

    viewer = commands.add_parser("viewer", parents=[port], help="browse captions that were made before")
    viewer.add_argument(
        "--root", default=".", help="what paths are relative to, such as the authors' repository"
    )
    viewer.add_argument(
        "--captions", nargs="+", metavar="[NAME=]FILE", help="default: those published under --root"
    )
    viewer.add_argument("--database", help="default: the published one under --root")
    viewer.add_argument("--concepts", type=int, choices=(2, 4), default=4, help="which published captions")
    viewer.set_defaults(run=_viewer)

    live = commands.add_parser("live", parents=[port], help="caption photos with a model")
    live.add_argument("--model", required=True, help="name or folder")
    live.add_argument("--adapter", help="folder of a LoRA adapter")
    live.add_argument("--compare-model", help="a second model, whose captions stand beside the first's")
    live.add_argument("--compare-adapter", help="an adapter for it (or for --model once more)")
    live.add_argument(
        "--database",
        help="database.json that every visitor is given; visitors' own concepts are kept beside it",
    )
    live.add_argument(
        "--examples", help="caption file whose photos are offered to try, with the concepts that they show"
    )
    live.add_argument("--root", help="what its image paths are relative to; default: its folder")
    live.add_argument("--shelves", help="where visitors' own concepts are kept; default: shelves beside it")
    live.add_argument(
        "--system",
        default="evaluation",
        help="inference, evaluation, none (the toy base), or the text itself",
    )
    live.add_argument(
        "--max-pixels",
        type=int,
        default=PAPER_MAX_PIXELS,
        help="what photos are shrunk to (default: as published, %(default)s; 0: the processor's own, for the toy)",
    )
    live.add_argument(
        "--retrieve", type=int, default=0, metavar="K", help="offer to find the K nearest concepts in a photo"
    )
    live.add_argument(
        "--side",
        type=int,
        default=TOWER_SIDE,
        help="for it: photos' side in pixels (%(default)s; the toy: 40)",
    )
    live.set_defaults(run=_live)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, OverflowError) as error:  # the last: a port that can't be
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
