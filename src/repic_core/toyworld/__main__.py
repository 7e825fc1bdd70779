"""``python -m repic_core.toyworld pretrain``: reproduce the shipped base (under an hour on two cores).

``python -m repic_core.toyworld miniature``: the paper's claim in small, all arms and seeds, and its table.

``python -m repic_core.toyworld retrieval``: concepts found in scenes among ever more of them, over seeds.

``python -m repic_core.toyworld ablations``: the recipe without its parts, all arms and seeds, tables and figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    from repic_core.toyworld import ablations
    from repic_core.toyworld.miniature import ARMS

    parser = argparse.ArgumentParser(prog="python -m repic_core.toyworld", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pretrain = commands.add_parser("pretrain", help="train the toy base from nothing")
    pretrain.add_argument("--out", type=Path, default=Path("runs/toy-base"), help="folder for the model")
    pretrain.add_argument(
        "--work", type=Path, default=Path("runs/pretrain"), help="logs and checkpoints; resumes"
    )
    pretrain.add_argument(
        "--vision-steps", type=int, nargs=2, default=(2600, 1800), help="steps of the two vision stages"
    )
    pretrain.add_argument("--steps", type=int, default=5600, help="steps of the second phase")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument(
        "--soft", action="store_true", help="the second base: even one concept named 4 in 5"
    )
    pretrain.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    miniature = commands.add_parser("miniature", help="base, SFT, GRPO and the control on held-out concepts")
    miniature.add_argument("--base", default="assets/toy-base")
    miniature.add_argument("--out", type=Path, default=Path("runs/miniature"), help="resumes what is there")
    miniature.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    miniature.add_argument("--arms", nargs="+", choices=ARMS, default=tuple(ARMS), help="default: all")
    miniature.add_argument("--split", choices=("val", "test"), default="test")
    ablate = commands.add_parser(
        "ablations", help="GRPO without each part of the recipe, on held-out concepts"
    )
    ablate.add_argument("--base", default="assets/toy-base")
    ablate.add_argument("--out", type=Path, default=Path("runs/ablations"), help="resumes what is there")
    ablate.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    ablate.add_argument("--arms", nargs="+", choices=ablations.ARMS, default=tuple(ablations.ARMS))
    ablate.add_argument(
        "--budgets",
        nargs="+",
        choices=ablations.BUDGETS,
        default=tuple(ablations.BUDGETS),
        help="default: all",
    )
    ablate.add_argument("--split", choices=("val", "test"), default="test")
    retrieval = commands.add_parser("retrieval", help="toys found among ever more, strangers refused")
    retrieval.add_argument("--base", default="assets/toy-base")
    retrieval.add_argument("--adapter", default=None, help="for the captions, such as runs/tiny/models/grpo")
    retrieval.add_argument("--out", type=Path, default=Path("runs/retrieval"))
    retrieval.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    skills = commands.add_parser("skills", help="what a toy model can do, held out")
    skills.add_argument("model", nargs="?", default="assets/toy-base")
    skills.add_argument("--split", choices=("val", "test"), default="test")
    skills.add_argument("--n", type=int, default=200)
    args = parser.parse_args()

    if args.command == "pretrain":
        import torch

        from repic_core.toyworld.pretrain import pretrain as run_pretrain

        if args.threads:
            torch.set_num_threads(args.threads)
        run_pretrain(args.out, args.work, args.vision_steps, args.steps, args.seed, args.soft)
    elif args.command == "miniature":
        from repic_core.toyworld.miniature import markdown, run

        print(markdown(run(args.base, args.out, args.seeds, args.split, args.arms)))
    elif args.command == "ablations":
        from repic_core.toyworld.ablation_figure import ablation_figure

        for name in args.budgets:
            budget, out = ablations.BUDGETS[name], args.out / name
            table = ablations.run(args.base, out, budget, args.seeds, args.split, args.arms)
            print(f"\n{name}: {budget}\n\n{ablations.markdown(table)}\n")
            ablation_figure(table, args.out / f"ablations_{name}")
    elif args.command == "retrieval":
        from repic_core.toyworld import retrieval as finding

        print(finding.markdown(finding.run(args.base, args.out, args.adapter, args.seeds)))
    else:
        from repic_core.models.loading import load_model
        from repic_core.toyworld.skills import measure_skills

        for skill, value in measure_skills(*load_model(args.model), args.split, args.n).items():
            print(f"{skill:16} {value:.3f}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # a model or a folder that can't be used: its message is enough
        raise SystemExit(f"repic_core.toyworld: {error}") from None
