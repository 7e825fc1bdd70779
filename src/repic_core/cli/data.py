"""``repic data build|convert|check``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.cli.options import (
    Parser,
    add_command,
    add_commands,
    add_flags,
    at_least,
    defaults_for,
    load_chosen,
)
from repic_core.cli.output import print_json

TOWER = "tower"  # stands for the vision tower of the model


def add_data(parser: Parser) -> None:
    commands = add_commands(parser)
    more = (
        "A folder with a folder of photos a concept gives OCT (same object?) and ICT (name it in a caption);\n"
        "a file of boxes in COCO's format gives VLT (where is it?). Give one or both. What photos/bo/info.txt\n"
        "says, if it exists, is the line of information on <bo>."
    )
    example = "repic data build --photos photos --out rows.jsonl"
    build = add_command(commands, "build", _build, "make training rows from your photos", example, more=more)
    build.add_argument("--photos", metavar="FOLDER", help="a folder with a folder of photos a concept")
    build.add_argument("--coco", metavar="FILE", help="boxes, a JSON file in COCO's format")
    build.add_argument(
        "--images", metavar="FOLDER", help="the photos of --coco (default: the folder of its file)"
    )
    build.add_argument("--out", type=Path, required=True, metavar="FILE", help="the rows, .jsonl or .json")
    build.add_argument(
        "--collages",
        metavar="FOLDER",
        help="also make rows about several concepts, of collages that are written here (outside --photos)",
    )
    build.add_argument(
        "--references",
        type=at_least(2),
        default=4,
        metavar="N",
        help="concepts in a prompt, at most (default: %(default)s)",
    )
    build.add_argument(
        "--hard-negatives",
        nargs="?",
        const=TOWER,
        metavar="EMBEDDER",
        help="negatives are what looks most alike, not what is of the same category, by a CLIP, SigLIP or DINO "
        "model (default: the vision tower of --model)",
    )
    add_flags(
        build,
        "--model",
        metavar="M",
        help="the model to be trained: boxes of --coco are given in its frame",
    )
    build.add_argument(
        "--published-resize",
        action="store_true",
        help="boxes for a training with `published_resize: true`, which makes the shorter side of photos 1024",
    )
    add_flags(build, "--side", "--max-pixels", "--min-pixels", "--seed", "--json")

    line = "make training rows from conversations of LLaVA, VLM-R1 or RAP-MLLM, and join files"
    more = (
        "FILE is JSON or JSONL, or VLM-R1's YAML list of files. A share is written behind it: FILE:first:1000,\n"
        "FILE:end:1000, FILE:random:1000 or FILE:random:20%. What can't be used is counted, and the first is named."
    )
    example = "repic data convert rap.json:first:1000 mine.jsonl:random:20% --out rows.jsonl"
    convert = add_command(commands, "convert", _convert, line, example, more=more)
    convert.add_argument("files", nargs="+", metavar="FILE", help="conversations or training rows")
    convert.add_argument("--out", type=Path, required=True, metavar="FILE", help="the rows, .jsonl or .json")
    convert.add_argument(
        "--target",
        choices=("grpo", "sft"),
        default="grpo",
        help="grpo: answers that a rule can check; sft: any answer in words (default: %(default)s)",
    )
    add_flags(convert, "--image-root", help="what image paths are relative to (default: each file's folder)")
    add_flags(convert, "--seed", "--json")

    line = "read a file of rows and their photos, and count them"
    check = add_command(commands, "check", _check, line, "repic data check rows.jsonl")
    check.add_argument("rows", metavar="ROWS", help="training rows, JSON or JSONL")
    add_flags(check, "--image-root", "--json")


def _build(options: argparse.Namespace) -> None:
    from repic_core.data.rows import write_rows

    if not options.photos and not options.coco:
        raise ValueError("give --photos, --coco or both")
    if options.hard_negatives and not options.photos:
        raise ValueError("--hard-negatives needs --photos: a file of boxes has no negatives")
    rows = (_of_photos(options) if options.photos else []) + (_of_boxes(options) if options.coco else [])
    write_rows(options.out, rows)
    _tell(options, options.out, rows)


def _of_photos(options: argparse.Namespace) -> list[Any]:
    from repic_core.data.builders import build_from_folders
    from repic_core.data.photo_folder import folder_infos
    from repic_core.data.rows import moved_rows

    rows = build_from_folders(
        options.photos,
        options.seed,
        infos=folder_infos(options.photos),
        references=options.references,
        collages=options.collages,
        embed=_embed(options) if options.hard_negatives else None,
    )
    return moved_rows(rows, options.photos, options.out.parent)


def _embed(options: argparse.Namespace) -> Any:
    """Photos as vectors, by the embedder that was asked for."""
    from repic_core.retrieval.embedders import PretrainedEmbedder, TowerEmbedder

    if options.hard_negatives != TOWER:
        return PretrainedEmbedder(options.hard_negatives).images
    found = defaults_for(options.model)
    model, processor = load_chosen(found, None)
    return TowerEmbedder(model, processor, options.side or found.side).images


def _of_boxes(options: argparse.Namespace) -> list[Any]:
    from transformers import AutoImageProcessor

    from repic_core.data.coco import build_vlt
    from repic_core.data.rows import moved_rows
    from repic_core.models.families import FAMILIES
    from repic_core.models.loading import ModelError, existing, limit_pixels, load_config

    found = defaults_for(options.model)
    name = existing(found.model, "model")
    family = FAMILIES.get(load_config(name).model_type)
    if family is None:
        raise ModelError(f"{name}: boxes are known for {', '.join(one.name for one in FAMILIES.values())}")
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    limit = found.max_pixels if options.max_pixels is None else options.max_pixels
    limit_pixels(processor, options.min_pixels, limit or None)
    images = Path(options.images or Path(options.coco).parent)
    rows = build_vlt(options.coco, images, family.frame, processor, options.published_resize)
    return moved_rows(rows, images, options.out.parent)


def _convert(options: argparse.Namespace) -> None:
    from repic_core.data.conversations import convert
    from repic_core.data.rows import RowError, write_rows
    from repic_core.data.shares import read_shares

    records = read_shares(options.files, options.seed)
    done = convert(records, options.target, options.image_root, options.out.parent)
    left_out = [f"{len(places)} ({reason}), first {places[0]}" for reason, places in done.left_out.items()]
    if not done.rows:
        raise RowError(
            f"none of {len(records)} records becomes a row: {'; '.join(left_out) or 'there are none'}"
        )
    write_rows(options.out, done.rows)
    _tell(options, options.out, done.rows, done.left_out)
    if not options.json:
        print("\n".join(f"left out: {line}" for line in left_out), end="\n" if left_out else "")


def _check(options: argparse.Namespace) -> None:
    from repic_core.data.rows import read_rows

    _tell(options, options.rows, read_rows(options.rows, options.image_root))


def _tell(
    options: argparse.Namespace,
    path: str | Path,
    rows: Sequence[Any],
    left_out: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """How many rows there are, by task; in JSON also how many were left out, by reason."""
    from repic_core.tasks import TASKS

    counts = Counter(row.method for row in rows)
    if options.json:
        told = {"file": str(path), "rows": len(rows), "tasks": {m: counts[m] for m in TASKS if counts[m]}}
        if left_out is not None:
            told["left_out"] = {reason: len(places) for reason, places in left_out.items()}
        print_json(told)
        return
    tasks = ", ".join(f"{counts[method]} {task.label}" for method, task in TASKS.items() if counts[method])
    print(f"{path}: {len(rows)} rows ({tasks})")
