"""``repic toyworld pretrain|miniature|ablations|retrieval|negatives|infos|dialogues|questions|skills``, and what
the base is made of: ``atlas|recognition``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from repic_core.cli.options import TOY_BASE, Parser, add_command, add_commands, add_flags, at_least
from repic_core.cli.output import print_json, prints_hidden

RESUMES = "the same command continues from what is finished"


def add_toyworld(parser: Parser) -> None:
    from repic_core.toyworld import ablations
    from repic_core.toyworld.miniature import ARMS
    from repic_core.toyworld.retrieval import SIZES

    commands = add_commands(parser)
    line, example = (
        "train the toy base from nothing",
        "repic toyworld pretrain --out runs/toy-base",
    )
    pretrain = add_command(commands, "pretrain", _pretrain, line, example, RESUMES)
    pretrain.add_argument(
        "--out", type=Path, default=Path("runs/toy-base"), metavar="FOLDER", help="default: %(default)s"
    )
    pretrain.add_argument(
        "--work",
        type=Path,
        default=Path("runs/pretrain"),
        metavar="FOLDER",
        help="logs and checkpoints (default: %(default)s)",
    )
    pretrain.add_argument(
        "--tower-steps",
        type=at_least(0),
        default=2200,
        metavar="N",
        help="of the vision tower (default: %(default)s)",
    )
    pretrain.add_argument(
        "--steps",
        type=at_least(0),
        default=3000,
        metavar="N",
        help="of the language phase (default: %(default)s)",
    )
    add_flags(pretrain, "--seed")
    pretrain.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's)")

    line, example = (
        "the paper's claim in small: base, SFT, GRPO and the control",
        "repic toyworld miniature --seeds 0 --arms base grpo",
    )
    miniature = add_command(commands, "miniature", _miniature, line, example, RESUMES)
    line, example = (
        "GRPO without each part of the recipe: tables and figures",
        "repic toyworld ablations --budgets short --seeds 0",
    )
    ablate = add_command(commands, "ablations", _ablations, line, example, RESUMES)
    line, example = (
        "toys found in scenes among ever more concepts",
        "repic toyworld retrieval --adapter runs/tiny/models/grpo",
    )
    retrieval = add_command(commands, "retrieval", _retrieval, line, example, RESUMES)
    add_flags(retrieval, "--adapter", help="for the captions, such as runs/tiny/models/grpo")
    retrieval.add_argument(
        "--sizes",
        type=at_least(1),
        nargs="+",
        default=SIZES,
        metavar="N",
        help=f"concepts in the database (default: {' '.join(map(str, SIZES))})",
    )
    line, example = (
        "how hard negatives are that look alike: same object, yes or no?",
        "repic toyworld negatives",
    )
    negatives = add_command(commands, "negatives", _negatives, line, example)
    line, example = ("lines of information that the model writes", "repic toyworld infos --seeds 0")
    infos = add_command(commands, "infos", _infos, line, example)
    line, example = (
        "what is still known in later turns of a conversation",
        "repic toyworld dialogues --adapter runs/tiny/models/grpo",
    )
    dialogues = add_command(commands, "dialogues", _dialogues, line, example)
    add_flags(dialogues, "--adapter", "--base", "--seeds")
    made = {"miniature": miniature, "ablations": ablate, "retrieval": retrieval}
    for name, command in {**made, "negatives": negatives, "infos": infos}.items():
        out = Path("runs") / name
        command.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=f"default: {out}")
        add_flags(command, "--base", "--seeds")
    for command, arms, more in ((miniature, ARMS, {}), (ablate, ablations.ARMS, ablations.MORE_ARMS)):
        command.add_argument(
            "--arms",
            nargs="+",
            choices=[*arms, *more],
            default=list(arms),
            metavar="ARM",
            help=f"{', '.join(arms)} (default: all)" + (f"; besides: {'; '.join(more)}" if more else ""),
        )
    budgets = list(ablations.BUDGETS)
    ablate.add_argument(
        "--budgets",
        nargs="+",
        choices=budgets,
        default=budgets,
        metavar="B",
        help=f"{', '.join(budgets)} (default: all)",
    )

    line, example = (
        "questions about held-out toys, for `repic evaluate --task`",
        "repic toyworld questions --split val --out runs/questions",
    )
    questions = add_command(commands, "questions", _questions, line, example)
    questions.add_argument(
        "--out", type=Path, default=Path("runs/questions"), metavar="FOLDER", help="default: %(default)s"
    )
    questions.add_argument(
        "--n", type=at_least(1), default=150, metavar="N", help="scenes asked about (default: %(default)s)"
    )
    add_flags(questions, "--split", "--seed", "--json")

    line, example = "what a toy model can do, on held-out toys", "repic toyworld skills assets/toy-base"
    skills = add_command(commands, "skills", _skills, line, example)
    skills.add_argument("model", nargs="?", default=TOY_BASE, metavar="MODEL", help="default: %(default)s")
    skills.add_argument(
        "--n", type=at_least(1), default=200, metavar="N", help="samples a skill (default: 200)"
    )
    add_flags(skills, "--json")
    for command in (miniature, ablate, negatives, infos, dialogues, skills):
        add_flags(command, "--split")
    _add_drawn_world(commands)


def _add_drawn_world(commands: Any) -> None:
    line, example = (
        "make the atlas of drawings from Debian's emoji font",
        "repic toyworld atlas --out runs/drawings",
    )
    atlas = add_command(commands, "atlas", _atlas, line, example)
    atlas.add_argument(
        "--out", type=Path, default=Path("assets/drawings"), metavar="FOLDER", help="default: %(default)s"
    )
    atlas.add_argument(
        "--font", type=Path, metavar="FILE", help="default: that of the package fonts-noto-color-emoji"
    )
    atlas.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="emoji-test.txt (default: that of the package unicode-data)",
    )

    line, example = (
        "train a vision tower to recognise drawings, and measure it on held-out ones",
        "repic toyworld recognition --out runs/recognition",
    )
    recognition = add_command(commands, "recognition", _recognition, line, example, RESUMES)
    recognition.add_argument(
        "--out",
        type=Path,
        default=Path("runs/recognition"),
        metavar="FOLDER",
        help="log and checkpoint (default: %(default)s)",
    )
    recognition.add_argument(
        "--steps", type=at_least(1), default=2200, metavar="N", help="default: %(default)s"
    )
    add_flags(recognition, "--seed")
    recognition.add_argument(
        "--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's)"
    )


def _pretrain(options: argparse.Namespace) -> None:
    import torch

    from repic_core.toyworld.pretrain import pretrain

    if options.threads:
        torch.set_num_threads(options.threads)
    with prints_hidden(options.quiet):
        pretrain(options.out, options.work, options.tower_steps, options.steps, options.seed)


def _atlas(options: argparse.Namespace) -> None:
    from repic_core.toyworld.atlas import FONT, NAMES, make_atlas

    n = make_atlas(options.out, options.font or FONT, options.names or NAMES)
    print(f"{options.out}: {n} drawings")


def _recognition(options: argparse.Namespace) -> None:
    import torch

    from repic_core.toyworld.recognition import make_heads, make_tower, measure_recognition, train_tower

    if options.threads:
        torch.set_num_threads(options.threads)
    tower, heads = make_tower(options.seed), make_heads()
    with prints_hidden(options.quiet):
        train_tower(tower, heads, options.steps, options.out, options.seed)
    print("of held-out drawings, recognised by a reference among k, in percent:")
    for name, percent in measure_recognition(tower, heads, "val").items():
        print(f"{name:12} {percent:5.1f}")


def _miniature(options: argparse.Namespace) -> None:
    from repic_core.io import tables
    from repic_core.toyworld.miniature import PAIR_SETS, compared, markdown, run

    with prints_hidden(options.quiet):
        table = run(options.base, options.out, options.seeds, options.split, options.arms)
    print(markdown(table))
    captions, data = options.out / options.split, options.out / "data" / options.split
    if pairs := compared(captions, data, options.arms, options.seeds):
        print("\n" + tables.markdown(["difference of F1", *PAIR_SETS], pairs))


def _ablations(options: argparse.Namespace) -> None:
    from repic_core.toyworld import ablations
    from repic_core.toyworld.ablation_figure import ablation_figure

    for name in options.budgets:
        budget = ablations.BUDGETS[name]
        arms = (options.seeds, options.split, options.arms)
        with prints_hidden(options.quiet):
            table = ablations.run(options.base, options.out / name, budget, *arms)
        print(f"\n{name}: {budget}\n\n{ablations.markdown(table)}\n")
        ablation_figure(table, options.out / f"ablations_{name}")


def _retrieval(options: argparse.Namespace) -> None:
    from repic_core.toyworld.retrieval import markdown, run

    with prints_hidden(options.quiet):
        table = run(options.base, options.out, options.adapter, options.seeds, options.sizes)
    print(markdown(table))


def _infos(options: argparse.Namespace) -> None:
    from repic_core.toyworld.infos import markdown, run

    with prints_hidden(options.quiet):
        table = run(options.base, options.out, options.seeds, options.split)
    print(markdown(table))


def _dialogues(options: argparse.Namespace) -> None:
    from repic_core.toyworld.dialogues import markdown, run

    print(markdown(run(options.base, options.adapter, options.seeds, options.split)))


def _negatives(options: argparse.Namespace) -> None:
    from repic_core.toyworld.negatives import run

    with prints_hidden(options.quiet):
        table = run(options.base, options.out, options.split, options.seeds)
    print(table)


def _questions(options: argparse.Namespace) -> None:
    from repic_core.toyworld.field_questions import write_field_questions

    counts = write_field_questions(options.out, options.split, options.n, options.seed)
    if options.json:
        print_json(counts)
        return
    for name, count in counts.items():
        print(f"{options.out / name}.json: {count} questions")


def _skills(options: argparse.Namespace) -> None:
    from repic_core.models.loading import load_model
    from repic_core.toyworld.skills import measure_skills

    skills = measure_skills(*load_model(options.model), options.split, options.n)
    if options.json:
        print_json(skills)
        return
    for skill, value in skills.items():
        print(f"{skill:16} {value:.3f}")
