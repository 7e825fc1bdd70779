"""Look at captions (``viewer --root RePIC``) or make them (``live --model NAME --database FILE``)."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from repic_core.embedders import TOWER_SIDE
from repic_core.models import PAPER_MAX_PIXELS


def _viewer(options: argparse.Namespace) -> None:
    from repic_core.demo import launch, viewer

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
        files, database = viewer.published_files(options.root, options.concepts)
    launch(viewer.build_viewer(files, options.database or database, options.root), server_port=options.port)


def _live(options: argparse.Namespace) -> None:
    from repic_core.captioner import Captioner
    from repic_core.concepts import ConceptDatabase
    from repic_core.demo import launch, live
    from repic_core.embedders import TowerEmbedder
    from repic_core.models import load_model
    from repic_core.regions import tiles
    from repic_core.retrieval import ConceptIndex, find_concepts

    database = ConceptDatabase.load(options.database, options.root)
    model, processor = load_model(
        options.model, adapter=options.adapter, max_pixels=options.max_pixels or None
    )
    system = None if options.system == "none" else options.system
    captioner = Captioner(model, processor, system=system)
    find = None
    if options.retrieve:
        embedder = TowerEmbedder(model, processor, options.side)
        index = ConceptIndex.build(database, embedder)
        find = partial(find_concepts, index=index, embedder=embedder, regions=tiles, k=options.retrieve)
    launch(live.build_live(captioner, database, find=find), server_port=options.port)


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
    live.add_argument("--database", required=True, help="database.json")
    live.add_argument("--root", help="what its image paths are relative to; default: its folder")
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
