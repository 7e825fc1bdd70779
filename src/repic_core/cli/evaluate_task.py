"""``repic evaluate --task``: visual questions, text-only questions, recognition."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from repic_core.cli.options import Parser, add_flags, chosen, load_chosen
from repic_core.cli.output import note, print_json
from repic_core.cli.server import server_captioner, tell_tokens

NEEDED = ("questions", "database")


def add_task_flags(parser: Parser) -> None:
    from repic_core.evaluation.field_tasks import PLAIN, WAYS

    task = parser.add_argument_group(
        "instead of the paper's tables, a task in the files of RAP-MLLM and Yo'LLaVA",
        "repic evaluate --task vqa --questions yollava-visual-qa.json --database database.json --root . --model M",
    )
    task.add_argument("--task", choices=WAYS, metavar="T", help=f"{', '.join(WAYS)}")
    task.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="the task's questions; for recognition it may be a folder that holds a folder of photos per concept",
    )
    add_flags(task, "--database", help="the concepts asked about; its photos are relative to --root")
    ways = sorted({way for known in WAYS.values() for way in known})
    task.add_argument(
        "--ask",
        choices=ways,
        metavar="WAY",
        help="plain: as RAP-MLLM asks; open: without the options, read by their words (vqa, text); oct: whether "
        f"the concept's photo and the query show the same object, as in training (recognition) (default: {PLAIN})",
    )


def check_task_flags(options: argparse.Namespace) -> None:
    """Raise `ValueError` if the flags of tasks do not go together."""
    from repic_core.evaluation.field_tasks import WAYS
    from repic_core.evaluation.published import SETS

    if not options.task:
        for name in (*NEEDED, "ask"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} needs --task")
        return
    for name in NEEDED:
        if getattr(options, name) is None:
            raise ValueError(f"--task {options.task} needs --{name}")
    for name, default in (
        ("settings", list(SETS)),
        ("suffix", "none"),
        ("caption_questions", "single"),
        ("retrieval", None),
        ("side", None),
    ):
        if getattr(options, name) != default:
            raise ValueError(
                f"--{name.replace('_', '-')} is for the paper's tables: leave it out with --task"
            )
    if options.ask is not None and options.ask not in WAYS[options.task]:
        raise ValueError(
            f"--ask {options.ask}: for --task {options.task} use {', '.join(WAYS[options.task])}"
        )


def evaluate_task(options: argparse.Namespace, method: str) -> None:
    """Ask and score the task of `options`; `method` names the model in the table."""
    from repic_core.evaluation.field_questions import READERS
    from repic_core.evaluation.field_tables import plain, task_scores, write_task

    questions = READERS[options.task](options.questions)[: options.limit or None]
    answers = options.out / "answers"
    if options.model:
        _ask(options, questions, answers / method)
    scores = task_scores(answers, options.task, questions)
    if not scores:
        note(options, f"{answers}: no answers yet, so the table is empty; --model gives them")
    text = write_task(options.out, options.task, scores, len(questions))
    if options.json:
        print_json(plain(scores))
    else:
        print(text)


def _ask(options: argparse.Namespace, questions: Any, folder: Path) -> None:
    from repic_core.captioner.captioner import Captioner
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.evaluation.field_tables import ask_task
    from repic_core.evaluation.field_tasks import AS_OCT, PLAIN, OctCaptioner, OctEndpointCaptioner, items_of

    database = ConceptDatabase.load(options.database, options.root)
    # The photos of a folder are named from there.
    root = options.questions if options.questions.is_dir() else options.root
    way = options.ask or PLAIN
    items_of(questions, database, root, way)  # what is missing is told before a model is loaded
    found = chosen(options, None)  # the published system prompts ask for captions
    if options.server:
        captioner = server_captioner(options, found, OctEndpointCaptioner if way == AS_OCT else None)
    else:
        model, processor = load_chosen(found, options.adapter, options.device)
        captioner = (OctCaptioner if way == AS_OCT else Captioner)(
            model,
            processor,
            system=found.system,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
        )
    ask_task(captioner, options.task, questions, database, root, way, folder, not options.quiet)
    tell_tokens(options, captioner)
