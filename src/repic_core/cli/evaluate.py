"""``repic evaluate`` and ``repic prefer``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repic_core.cli.evaluate_figures import draw_figures, paper_captioner
from repic_core.cli.evaluate_task import add_task_flags, check_task_flags, evaluate_task
from repic_core.cli.options import Parser, add_flags, add_system_flags, chosen, describe
from repic_core.cli.output import note, print_json
from repic_core.cli.server import (
    add_request_flags,
    add_server_flags,
    check_server_flags,
    parameters,
    tell_tokens,
)


def add_evaluate(parser: Parser) -> None:
    from repic_core.evaluation.published import SETS
    from repic_core.prompts import CAPTION_QUESTIONS, QUESTION_SUFFIXES

    describe(
        parser,
        _evaluate,
        "repic evaluate --root ../RePIC --model Yeongtak/RePIC_Qwen2.5VL_7B --method RePIC",
        "the same command continues from here",
    )
    add_flags(
        parser,
        "--root",
        required=True,
        help="a folder laid out like the authors' repository (github.com/oyt9306/RePIC); "
        "with --task, what the paths of photos in questions and database are relative to",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/evaluation"),
        metavar="FOLDER",
        help="gets captions/METHOD/SETTING.json and table.md, .tex, .csv; with --task, "
        "answers/METHOD/TASK.json and TASK.md, .csv, .json (default: %(default)s)",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETS,
        default=list(SETS),
        metavar="S",
        help=f"{', '.join(SETS)} (default: all)",
    )
    parser.add_argument(
        "--figures",
        action="store_true",
        help="instead of the tables, draw the examples of Figures 1, A.1 and A.2, with their published answers",
    )
    add_flags(parser, "--model", help="a name on the hub or a folder (default: none, only make the tables)")
    add_flags(parser, "--adapter")
    parser.add_argument(
        "--method", metavar="NAME", help="in the table (default: the model's or adapter's folder)"
    )
    parser.add_argument(
        "--caption-questions",
        choices=CAPTION_QUESTIONS,
        default="single",
        help="asked in turn: single, which the published captions answer; multi, of the authors' scripts for two"
        " and four concepts; inference, of their notebook (default: %(default)s)",
    )
    suffix = parser.add_mutually_exclusive_group()
    suffix.add_argument(
        "--zero-shot",
        dest="suffix",
        action="store_const",
        const="name",
        default="none",
        help="ask for the name outright, as the authors ask the base: --suffix name",
    )
    suffix.add_argument(
        "--suffix",
        choices=QUESTION_SUFFIXES,
        default="none",
        help="after each question: name, `Output the final answer including its name.`; given-names, `... using its"
        " given names.`, of the published 2-concept captions of zero-shot and SFT (default: %(default)s)",
    )
    parser.add_argument(
        "--retrieval",
        nargs="?",
        const="ours",
        choices=("ours", "published"),
        metavar="HOW",
        help="retrieve the references instead of giving them: ours (default), or published, as the authors do it, "
        "with YOLO-World and CLIP",
    )
    add_flags(parser, "--verify")
    parser.add_argument(
        "--embedder",
        metavar="M",
        help="CLIP, SigLIP or DINO model (default: the model's own vision tower; if published, CLIP ViT-L/14-336)",
    )
    add_flags(parser, "--side")
    parser.add_argument(
        "--detector",
        metavar="M",
        help="zero-shot object detector (default: the whole photo); if published, a file of YOLO-World's weights "
        "(default: yolov8x-worldv2.pt)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="least similarity of a retrieved concept"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="the first N rows of each setting, or questions, only",
    )
    add_system_flags(parser)
    add_flags(parser, "--reference-style", "--max-pixels", "--min-pixels", "--max-new-tokens")
    add_flags(parser, "--batch-size", "--device", "--json")
    add_task_flags(parser)
    add_server_flags(parser)


def _evaluate(options: argparse.Namespace) -> None:
    from repic_core.evaluation.paper_settings import SettingError
    from repic_core.evaluation.paper_tables import HEAD, found_settings, rows_of, with_captions, write_table

    def tell(line: str) -> None:
        note(options, line)

    method = _method(options)
    if options.task:
        evaluate_task(options, method)
        return
    if options.figures:
        draw_figures(options, method)
        return
    captions = options.out / "captions"
    asked = found_settings(
        options.root, options.settings, options.suffix, options.limit, tell, options.caption_questions
    )
    if not asked:
        raise SettingError("no setting can be run")
    if options.model:
        _caption(options, asked, captions / method)
    others = [name for name in with_captions(captions) if name not in options.settings]
    rows = rows_of(captions, asked | found_settings(options.root, others, tell=tell))
    if not rows:
        tell(f"{captions}: no captions yet, so the tables are empty; --model makes them")
    text = write_table(options.out, rows)
    if options.json:
        print_json([dict(zip(HEAD, row, strict=True)) for row in rows])
    else:
        print(text)


def _method(options: argparse.Namespace) -> str:
    """The method's name, after a look at whether the flags go together."""
    check_task_flags(options)
    check_server_flags(options, "adapter", "retrieval")
    if not options.model and (options.adapter or options.retrieval):
        raise ValueError("--adapter and --retrieval need a --model")
    for name in ("embedder", "detector", "threshold", "verify"):
        if getattr(options, name) is not None and not options.retrieval:
            raise ValueError(f"--{name} needs --retrieval")
    if options.method is None:
        return Path(options.adapter or options.model or "none").resolve().name
    if options.method in ("", ".", "..") or set(options.method) & set("/\\"):
        raise ValueError(f"--method {options.method!r}: give the name of a folder, without slashes")
    return options.method


def _caption(options: argparse.Namespace, settings: dict[str, Any], out: Path) -> None:
    from repic_core.evaluation.paper_tables import caption_setting
    from repic_core.retrieval.embedders import PretrainedEmbedder, TowerEmbedder
    from repic_core.retrieval.upstream import CLIP
    from repic_core.retrieval.yolo_world import WEIGHTS, check_yolo_world

    published = options.retrieval == "published"
    if published:
        check_yolo_world(options.detector or WEIGHTS)
    for setting in settings.values():
        if (options.detector or published) and not any(concept.category for concept in setting.database):
            raise ValueError(f"{setting.name}: a detector needs categories, and its database has none")
    captioner = paper_captioner(options, "evaluation")
    embedder: Any = None
    if options.embedder or published:
        embedder = PretrainedEmbedder(options.embedder or CLIP, device=str(captioner.model.device))
    elif options.retrieval:
        side = chosen(options, "evaluation").side
        embedder = TowerEmbedder(captioner.model, captioner.processor, side)
    how = (embedder, options.detector, options.threshold, published, options.verify, not options.quiet)
    for setting in settings.values():
        caption_setting(setting, captioner, out, *how)
    tell_tokens(options, captioner)


def add_prefer(parser: Parser) -> None:
    describe(
        parser,
        _prefer,
        "repic prefer ours.json base.json --root ../RePIC --model gpt-4o --out answers.jsonl",
        "the same command continues from here",
    )
    parser.add_argument("first", metavar="FIRST", help="caption file whose wins are counted")
    parser.add_argument("second", metavar="SECOND", help="caption file of the same photos and concepts")
    add_flags(parser, "--root", required=True, help="what query and image paths are relative to")
    add_flags(parser, "--model", required=True, help="the judge, as the endpoint calls it")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="record of the answers (JSON Lines); continues one"
    )
    add_flags(parser, "--database", help="a concept database, for --references")
    parser.add_argument(
        "--references",
        action="store_true",
        help="show the judge the concepts' photos and lines of information",
    )
    parser.add_argument(
        "--layout",
        choices=("gemini", "gpt"),
        default="gemini",
        help="of the question with references: that of the authors' Gemini or GPT script (default: %(default)s)",
    )
    parser.add_argument("--base-url", metavar="URL", help="the endpoint (default: OpenAI's)")
    parser.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key (default: %(default)s)",
    )
    add_request_flags(parser, "256")
    add_flags(parser, "--json")


def _prefer(options: argparse.Namespace) -> None:
    from repic_core.captioner.caption_files import load_captions
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.evaluation.judges import EndpointJudge, RecordedJudge
    from repic_core.evaluation.preference import prefer, table

    prices = tuple(options.prices)
    where = (options.base_url, options.key_variable)
    endpoint = EndpointJudge(options.model, *where, prices, request=parameters(options.request))
    judge = RecordedJudge(endpoint, options.out)
    database = ConceptDatabase.load(options.database, options.root) if options.database else None
    captions = load_captions(options.first), load_captions(options.second)
    progress = not options.quiet
    asked = {"references": options.references, "layout": options.layout}
    found = prefer(judge, *captions, options.root, database, progress=progress, **asked)
    if found.unparsed:
        answers = 2 * len(found.outcomes)
        note(options, f"{found.unparsed} of {answers} answers choose no caption; their rows count as ties")
    if options.json:
        print_json(asdict(found))
    else:
        print(table(found, f"{Path(options.first).stem} over {Path(options.second).stem}"))
