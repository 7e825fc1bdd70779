"""Memory and time of a training before it is run: ``repic plan --recipe paper --card a40``.

A recipe passes through once: `settings` (everything decided), `dry_run` (the model without data, and a step of the
real code on it), `memory` (bytes by phase and term), `seconds` (an estimate), then `report`. ``--measure``
compares the bytes with a real step of a preset of the benchmark (`plan_check`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repic_core.planning.settings import Settings, resolve

GIB = 2**30
RESERVE = 1.0  # GiB for CUDA's context, cuBLAS and the allocator's gaps; assumed


def plan(
    recipe: str | Path = "paper",
    model: str | Path | None = None,
    references: int = 4,
    side: int = 512,
    completion: int | None = None,
    gpus: int = 1,
    sharding: str | None = None,
    card: str = "h100",
    rows: int | None = None,
    advise: bool = True,
    **overrides: Any,
) -> dict[str, Any]:
    """What a GRPO recipe needs on each GPU, and about how long it takes; nothing is loaded or fetched.

    Args:
        recipe: a name in the package, or a YAML file.
        model: a local folder or a published model's name; by default the recipe's own, or Qwen2.5-VL-7B.
        references, side: of each prompt, which has the query beside; photos are squares of `side` pixels.
        completion: tokens of each caption; by default the longest that the recipe allows.
        sharding: ``none`` (one GPU, or DDP), ``zero2`` or ``fsdp2``; by default what the recipe says.
        card: a key of `settings.CARDS`.
        rows: training rows, for the number of steps where the recipe counts epochs.
        advise: if it does not fit, try what to change.
        overrides: single values of the recipe.

    Returns:
        parameters, trainable, ``bytes`` by phase and term, ``peak``, ``fits``, ``work`` (tokens and FLOPs) and
        ``seconds`` by phase of an optimizer step, ``steps``, ``advice`` as (change, peak, fits).

    Raises:
        ValueError: an unknown recipe, model, card or sharding, or a number that can't be; says which.
    """
    wishes = {"model": model, "references": references, "side": side, "completion": completion}
    wishes |= {"gpus": gpus, "sharding": sharding, "card": card}
    settings = resolve(recipe, overrides, **wishes)
    found = planned(settings, rows)
    found["advice"] = []
    if advise and not found["fits"]:
        for what, of_recipe, of_wishes in _changes(settings, side):
            overrides, wishes = overrides | of_recipe, wishes | of_wishes
            changed = planned(resolve(recipe, overrides, **wishes))
            found["advice"].append((what, changed["peak"], changed["fits"]))
            if changed["fits"]:
                break
    return found


def planned(settings: Settings, rows: int | None = None) -> dict[str, Any]:
    """A plan of `settings`, as `plan` returns it but for the advice."""
    from repic_core.planning.dry_run import build, peaks
    from repic_core.planning.memory import phase_bytes, weight_bytes
    from repic_core.planning.seconds import counts, optimizer_steps, seconds, work

    step, trainer, tune, card = settings.step, settings.trainer, settings.tune, settings.card
    passes = trainer.gradient_accumulation_steps
    model = build(settings.config, tune, bf16=True)  # as `load_model` does on a GPU
    n = counts(model)
    weights = weight_bytes(model, tune)
    sizes = phase_bytes(settings, model, weights, peaks(model, step))
    if trainer.use_vllm and trainer.vllm_mode == "colocate":
        for terms in sizes.values():
            terms["vLLM's share"] = int(trainer.vllm_gpu_memory_utilization * card.gib * GIB)
    peak = max(sum(terms.values()) for terms in sizes.values())
    flops = work(n, step, passes, settings.images, tune.tune == "full")
    return {
        "recipe": settings.recipe,
        "model": settings.model,
        "card": card.name,
        "card_gib": card.gib,
        "gpus": step.gpus,
        "sharding": step.sharding,
        "parameters": sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
        "trainable": n["trained"],
        "prompt": step.prompt,
        "photos": step.photos,
        "generations": trainer.num_generations,
        "completion": step.completion,
        "work": flops,
        "seconds": seconds(n, step, passes, flops, sum(weights.values()) - n["tower bytes"], card),
        "bytes": sizes,
        "peak": peak,
        "fits": peak <= (card.gib - RESERVE) * GIB,
        "steps": optimizer_steps(trainer, step, rows),
    }


def _changes(settings: Settings, side: int) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """What to try, each on top of those before: (what, values of the recipe, arguments of `resolve`)."""
    trainer, found = settings.trainer, []
    if (trainer.steps_per_generation or 1) > 1 and not trainer.use_vllm:
        found.append(("steps_per_generation: 1", {"steps_per_generation": 1}, {}))
    if not trainer.gradient_checkpointing:
        found.append(("gradient_checkpointing: true", {"gradient_checkpointing": True}, {}))
    batch, passes = trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps
    if batch > 1 and batch % 2 == 0:
        half = {"per_device_train_batch_size": batch // 2, "gradient_accumulation_steps": 2 * passes}
        found.append((", ".join(f"{name}: {value}" for name, value in half.items()), half, {}))
    smaller = max(1, side * 2 // 3)
    found.append((f"photos of {smaller} pixels", {}, {"side": smaller}))
    if not settings.tune.load_in_4bit:
        four = {"tune": "lora", "load_in_4bit": True, "optim": "paged_adamw_8bit"}
        found.append(("load_in_4bit: true, optim: paged_adamw_8bit", four, {}))
    return found


def report(found: dict[str, Any]) -> str:
    """A plan as Markdown: what the model is, GiB by phase and term, the verdict, seconds."""
    from repic_core.planning.seconds import BANDWIDTH, COMPUTE

    phases = found["bytes"]
    terms = dict.fromkeys(term for sizes in phases.values() for term in sizes)
    total, steps = sum(found["seconds"].values()), found["steps"]
    hours = f"{(steps or 1000) * total / 3600:.1f} hours for {steps or 'each 1000'} steps"

    lines = [
        f"{found['recipe']}: {found['model']}, {found['parameters']:,} parameters, {found['trainable']:,} trained; "
        f"a prompt of {found['prompt']} tokens ({found['photos']} of photos), {found['generations']} completions "
        f"of {found['completion']}; {found['gpus']} GPU(s), sharding {found['sharding']}",
        "",
        _row("GiB on each GPU", phases),
        "|---" * (len(phases) + 1) + "|",
    ]
    lines += [_row(term, [_gib(sizes.get(term, 0)) for sizes in phases.values()]) for term in terms]
    lines += [
        _row("**peak**", [f"**{_gib(sum(sizes.values()))}**" for sizes in phases.values()]),
        "",
        f"fits on {found['card']}: {'yes' if found['fits'] else 'no'}, {found['peak'] / GIB:.1f} of "
        f"{found['card_gib']:.1f} GiB ({RESERVE:g} GiB is kept for CUDA itself)",
    ]
    for what, peak, fits in found["advice"]:
        lines.append(f"- then with {what}: {peak / GIB:.1f} GiB, {'fits' if fits else 'does not fit'}")
    lines += [
        "",
        _row("an optimizer step, estimated", ["tokens a GPU", "TFLOPs a GPU", "seconds"]),
        "|---" * 4 + "|",
    ]
    for phase, one in found["work"].items():
        cells = [f"{one['tokens']:,.0f}", f"{one['flops'] / 1e12:,.0f}", f"{found['seconds'][phase]:.1f}"]
        lines.append(_row(phase, cells))
    lines += [
        "",
        f"about {total:.0f} s a step, {hours}: an estimate at {COMPUTE:.0%} of the card's bf16 rate and, in "
        f"decoding, {BANDWIDTH:.0%} of its bandwidth; without rewards, data, communication and kernel launches",
    ]
    if "rollout" not in found["work"]:
        lines[-1] += "; captions are made by vLLM, which is not counted"
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _gib(size: int) -> str:
    if size == 0:
        return ""
    return f"{size / GIB:.2f}" if size >= GIB / 200 else "<0.01"
