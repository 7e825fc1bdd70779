"""One GPU, a node, eight nodes; two thousand rows or two hundred thousand: ``repic plan --scale``.

Every number is a plan, not a measurement. What is not in `plan` is counted here: the bytes that a GPU sends in an
optimizer step, and the photos a second that its processes must decode so that it never waits.
"""

from __future__ import annotations

from typing import Any

from repic_core.io.tables import markdown
from repic_core.planning.dry_run import build, trained
from repic_core.planning.plan import GIB, planned
from repic_core.planning.seconds import optimizer_steps
from repic_core.planning.settings import Settings, resolve

# (GPUs, recipe). `7b-1gpu-80gb` on several GPUs is DDP, with a whole group of completions on each.
SETUPS = (
    (1, "7b-1gpu-80gb"),
    (8, "paper-7b-8gpu"),
    (8, "7b-1gpu-80gb"),
    (64, "7b-1gpu-80gb"),
    (64, "7b-multinode"),
)
ROWS = (2_000, 20_000, 200_000)
# A photo of 1000 x 1000 pixels (JPEG, quality 90), decoded and turned upright by one core of an AMD EPYC.
DECODED = 80


def scale_table(card: str = "h100") -> list[dict[str, Any]]:
    """A row for each number of GPUs of `SETUPS` and of rows of `ROWS`, for 4 references of 512 pixels.

    ``hours`` of the run, ``gib`` of each GPU, ``network`` bytes that each GPU sends in an optimizer step,
    ``photos`` a second over all GPUs, and ``cores`` that decode so many.
    """
    table = []
    for gpus, recipe in SETUPS:
        settings = resolve(recipe, {}, gpus=gpus, card=card)
        found = planned(settings)
        seconds = sum(found["seconds"].values())
        photos, network = photos_a_step(settings) / seconds, network_bytes(settings)
        for rows in ROWS:
            steps = optimizer_steps(settings.trainer, settings.step, rows)
            table.append(
                {
                    "gpus": gpus,
                    "rows": rows,
                    "recipe": recipe,
                    "sharding": found["sharding"],
                    "steps": steps,
                    "hours": steps * seconds / 3600,
                    "gib": found["peak"] / GIB,
                    "network": network,
                    "photos": photos,
                    "cores": photos / DECODED,
                }
            )
    return table


def photos_a_step(settings: Settings) -> float:
    """Photos that all processes open in an optimizer step: those of each prompt once in each of its rollouts."""
    step, passes = settings.step, settings.trainer.gradient_accumulation_steps
    rollouts = passes / step.rounds / step.iterations
    return step.gpus * rollouts * step.rollout_prompts * settings.images


def network_bytes(settings: Settings) -> int:
    """Bytes that one GPU sends in an optimizer step.

    An all-reduce over n GPUs sends 2 (n - 1) / n times its data in a ring (Patarasuk and Yuan 2009), an all-gather
    or a reduce-scatter half of that. DDP reduces the gradients of what is trained; ZeRO-2 scatters them in bf16
    and gathers the parameters after the update. FSDP2 gathers all weights in each forward and each backward pass.
    """
    step, n = settings.step, settings.step.gpus
    model = build(settings.config, settings.tune, bf16=True)
    gradients = sum(2 * p.numel() if step.sharding == "zero2" else p.nbytes for p in trained(model))
    weights = sum(p.nbytes for p in model.parameters())
    passes = settings.trainer.gradient_accumulation_steps
    if step.sharding == "fsdp2":
        forwards = (step.reference + step.old_policy) / step.iterations + 1
        gathers = passes * (forwards + 1 + step.checkpointing)
        return int((gathers * weights + passes * gradients) * (n - 1) / n)
    return int(2 * gradients * (n - 1) / n)


def report(table: list[dict[str, Any]], card: str) -> str:
    """The table as Markdown."""
    head = [f"GPUs ({card})", "rows", "recipe", "steps", "hours", "GiB a GPU"]
    head += ["network a step", "photos a second", "cores"]
    rows = [
        [
            f"{row['gpus']}",
            f"{row['rows']:,}",
            f"`{row['recipe']}`",
            f"{row['steps']:,}",
            f"{row['hours']:,.1f}",
            f"{row['gib']:.1f}",
            f"{row['network'] / 1e9:,.2f} GB" if row["network"] else "none",
            f"{row['photos']:,.1f}",
            f"{row['cores']:.2f}",
        ]
        for row in table
    ]
    return markdown(head, rows)
