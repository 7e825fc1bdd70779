"""``python -m repic_core.toyworld pretrain``: reproduce the shipped base (CPU: about an hour on two cores)."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
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
    pretrain.add_argument("--steps", type=int, default=4500, help="steps of the second phase")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    args = parser.parse_args()

    import torch

    from repic_core.toyworld.pretrain import pretrain as run

    if args.threads:
        torch.set_num_threads(args.threads)
    run(args.out, args.work, args.vision_steps, args.steps, args.seed)


if __name__ == "__main__":
    main()
