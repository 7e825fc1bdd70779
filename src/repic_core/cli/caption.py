"""``repic caption``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.cli.options import Parser, add_flags, add_system_flags, chosen, describe
from repic_core.cli.output import note, print_json
from repic_core.cli.server import add_server_flags, check_server_flags, chosen_captioner, tell_tokens

MANY_PHOTOS = 8  # in one prompt


def add_caption(parser: Parser) -> None:
    from repic_core.captioner.caption_files import DEFAULT_QUESTION

    describe(
        parser,
        _caption,
        "repic caption beach.jpg party.jpg --references photos --out captions.json",
        "with --out the same command continues from here",
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photos to caption")
    concepts = parser.add_mutually_exclusive_group(required=True)
    add_flags(concepts, "--database")
    concepts.add_argument(
        "--references",
        metavar="FOLDER",
        help="instead: a folder with a photo, or a folder of photos, for each concept (see `repic concepts init`)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--concepts",
        nargs="+",
        metavar="TAG",
        help="the concepts to look for, such as: bo mira (default: all)",
    )
    add_flags(which, "--retrieve")
    add_flags(parser, "--verify")
    parser.add_argument("--question", default=DEFAULT_QUESTION, metavar="Q", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write a caption file; continues one")
    parser.add_argument(
        "--boxes",
        action="store_true",
        help="also say where each concept is: x1 y1 x2 y2 in pixels of the photo",
    )
    add_flags(parser, "--model", "--adapter", "--max-pixels", "--min-pixels", "--max-new-tokens")
    add_system_flags(parser)
    add_flags(parser, "--reference-style", "--batch-size", "--side", "--root", "--device", "--json")
    add_server_flags(parser)


def _caption(options: argparse.Namespace) -> None:
    from repic_core.captioner.caption_files import CaptionItem
    from repic_core.io.images import image_fault

    check_server_flags(options, "adapter", "retrieve", "boxes")
    if options.verify is not None and not options.retrieve:
        raise ValueError("--verify: confirms retrieved concepts; give --retrieve K as well")
    for photo in options.photos:
        fault = image_fault(Path(photo))
        if fault:
            raise ValueError(f"{photo} {fault}")
    database = _database(options)
    references = database.select(*options.concepts) if options.concepts else list(database)
    shown = sum(len(concept.images) for concept in references)
    if not options.retrieve and shown > MANY_PHOTOS:
        note(options, f"each prompt holds {shown} reference photos; --retrieve K or --concepts takes fewer")
    found = chosen(options)
    captioner = chosen_captioner(options, found)
    given = {photo: references for photo in options.photos}
    if options.retrieve:
        given = _retrieved(options, database, captioner.model, captioner.processor, found.side)
    items = [CaptionItem(photo, given[photo], options.question) for photo in options.photos]
    progress = len(items) > 1 and not options.quiet
    captions = [row[2] for row in captioner.caption_many(items, options.out, progress=progress)]
    boxes: list[dict[str, Any]] = [{} for _ in items]
    if options.boxes:
        boxes = [_boxes(captioner.model, captioner.processor, item) for item in items]
    if options.json:
        print_json(_answers(items, captions, boxes, options.boxes))
    else:
        print(_lines(items, captions, boxes))
    if options.out:
        note(options, f"captions written to {options.out}")
    tell_tokens(options, captioner)


def _database(options: argparse.Namespace) -> Any:
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.data.photo_folder import database_from_folder

    if options.references:
        return database_from_folder(options.references)
    database = ConceptDatabase.load(options.database, options.root)
    if not len(database):
        raise ValueError(f"{options.database}: holds no concept")
    return database


def _retrieved(
    options: argparse.Namespace, database: Any, model: Any, processor: Any, side: int
) -> dict[str, list[Any]]:
    """The concepts that are nearest to regions of each photo and, with ``--verify``, that the model confirms."""
    from repic_core.retrieval.embedders import TowerEmbedder
    from repic_core.retrieval.find import ConceptIndex, find_concepts
    from repic_core.retrieval.regions import regions_for
    from repic_core.retrieval.verify import Verifier

    confirm = None
    if options.verify is not None:
        confirm = Verifier(model, processor, database, options.verify)
    embedder = TowerEmbedder(model, processor, side)
    index = ConceptIndex.build(database, embedder)
    regions = regions_for(model)
    hits = {
        photo: find_concepts(photo, index, embedder, regions, options.retrieve, confirm=confirm)
        for photo in options.photos
    }
    return {photo: database.select(*(hit.tag for hit in found)) for photo, found in hits.items()}


def _boxes(model: Any, processor: Any, item: Any) -> dict[str, list[int] | None]:
    """Where the model says that each reference is, in pixels of the photo; None where it gives no box."""
    from repic_core.evaluation.task_scores import locate

    boxes = locate(model, processor, item.query, item.references)
    tags = [concept.tag for concept in item.references]
    return {tag: box and [round(edge) for edge in box] for tag, box in zip(tags, boxes, strict=True)}


def _answers(
    items: Sequence[Any], captions: Sequence[str], boxes: Sequence[dict[str, Any]], with_boxes: bool
) -> list[dict[str, Any]]:
    found = []
    for item, caption, places in zip(items, captions, boxes, strict=True):
        answer = {"photo": item.query, "caption": caption, "concepts": item.shown, "question": item.question}
        found.append(answer | {"boxes": places} if with_boxes else answer)
    return found


def _lines(items: Sequence[Any], captions: Sequence[str], boxes: Sequence[dict[str, Any]]) -> str:
    """A caption a line, each after its photo if there are several, and below it the boxes."""
    lines = []
    for item, caption, places in zip(items, captions, boxes, strict=True):
        line = " ".join(caption.split())
        lines.append(f"{item.query}\t{line}" if len(items) > 1 else line)
        for tag, box in places.items():
            lines.append(f"  {tag}\t{' '.join(map(str, box)) if box else 'no box'}")
    return "\n".join(lines)
