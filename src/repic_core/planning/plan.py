"""Memory and time of a training before it is run: ``repic plan --recipe paper --card a40``.

Bytes come from a dry run of the step (`dry_run`: the real code on tensors without data) and from torch's own count
of parameters (`memory`); seconds are an estimate (`seconds`). ``--measure`` compares the bytes with a real
step of a preset of the benchmark (`plan_check`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

GIB = 2**30
# dense bf16 TFLOP/s with fp32 accumulation, GB/s, GiB that torch sees. Rates: NVIDIA's datasheets "A40", "A100
# Tensor Core GPU" (80GB SXM), "H100 Tensor Core GPU" and "H200 Tensor Core GPU" (SXM; given with sparsity, halved),
# and the whitepapers "Ada GPU Architecture" and "Ampere GA102" (appendix A).
CARDS: dict[str, tuple[str, float, float, float]] = {
    "a40": ("A40 48GB", 149.7, 696, 44.4),
    "a100": ("A100 80GB", 312, 2039, 79.2),
    "h100": ("H100 80GB", 989.4, 3350, 79.2),
    "h200": ("H200 141GB", 989.4, 4800, 139.8),
    "rtx4090": ("RTX 4090 24GB", 165.2, 1008, 23.6),
    "rtx3090": ("RTX 3090 24GB", 71, 936, 23.6),
}
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
        card: one of `CARDS`.
        rows: training rows, for the number of steps where the recipe counts epochs.
        advise: if it does not fit, try what to change.
        overrides: single values of the recipe.

    Returns:
        parameters, trainable, ``bytes`` by phase and term, ``peak``, ``fits``, ``work`` (tokens and FLOPs) and
        ``seconds`` by phase of an optimizer step, ``steps``, ``advice`` as (change, peak, fits).

    Raises:
        ValueError: an unknown recipe, model, card or sharding, or a number that can't be; says which.
    """
    from repic_core.models.sizes import sized_config
    from repic_core.planning import memory as step_bytes
    from repic_core.planning import seconds as step_time
    from repic_core.planning.dry_run import build, conditional_model
    from repic_core.training.recipe import recipe_values

    values = recipe_values(recipe) | overrides
    if card not in CARDS:
        raise ValueError(f"card: {card!r} is not one of {', '.join(CARDS)}")
    for name, number, least in (
        ("references", references, 0),
        ("gpus", gpus, 1),
        ("completion", completion, 1),
    ):
        if number is not None and number < least:
            raise ValueError(f"{name}: {number} must be at least {least}")
    sharding = sharding or _sharding_of(values)
    if sharding not in ("none", "zero2", "fsdp2"):
        raise ValueError(f"sharding: {sharding!r} is not one of none, zero2, fsdp2")
    name = model or values.get("model") or "Qwen/Qwen2.5-VL-7B-Instruct"
    tune, trainer, step = _step(recipe, overrides, sized_config(name), references, side, completion)
    whole = sharding == "none"
    step = dataclasses.replace(step, accumulates=step.accumulates and whole, shared_features=whole)
    quantised = getattr(tune, "load_in_4bit", False)
    built = build(sized_config(name), tune, True, quantised)  # `load_model` takes bf16 on a GPU
    base = conditional_model(built)
    found: dict[str, Any] = {
        "recipe": str(recipe), "model": str(name), "card": CARDS[card][0], "gpus": gpus, "sharding": sharding,
        "parameters": sum(p.numel() for n, p in built.named_parameters() if "lora_" not in n),
        "trainable": sum(p.numel() for p in built.parameters() if p.requires_grad),
        "prompt": step.prompt, "photos": step.photos, "generations": trainer.num_generations,
        "completion": step.completion,
    }  # fmt: skip
    passes = trainer.gradient_accumulation_steps
    found["work"] = step_time.work(built, step, passes, references + 1, tune.tune == "full")
    divide = {"gpus": gpus, "sharding": sharding, "bucket": _bucket(values)}
    static = step_bytes.static_bytes(built, tune, trainer.optim)
    weights = sum(size for term, size in static.items() if term.startswith(("weights", "adapter")))
    weights -= sum(p.nbytes for p in base.model.visual.parameters())
    found["seconds"] = step_time.seconds(built, step, passes, found["work"], weights, CARDS[card])
    found["bytes"] = step_bytes.phase_terms(built, tune, step, trainer.optim, **divide)
    if trainer.use_vllm and trainer.vllm_mode == "colocate":
        for terms in found["bytes"].values():
            terms["vLLM's share"] = int(trainer.vllm_gpu_memory_utilization * CARDS[card][3] * GIB)
    found["peak"] = max(sum(terms.values()) for terms in found["bytes"].values())
    found["fits"] = found["peak"] <= (CARDS[card][3] - RESERVE) * GIB
    found["steps"] = _steps(trainer, gpus, rows)
    found["advice"] = []
    if advise and not found["fits"]:
        setting = {
            "references": references,
            "completion": completion,
            "gpus": gpus,
            "card": card,
            "rows": rows,
        }
        setting |= {"model": name, "sharding": sharding}
        found["advice"] = _advice(recipe, setting, overrides, trainer, quantised, side)
    return found


def _step(
    recipe: Any, overrides: dict[str, Any], config: Any, references: int, side: int, completion: int | None
) -> tuple[Any, Any, Any]:
    """The recipe's (`TuneArguments`, `GRPOConfig`) and one GPU's `Step`."""
    from trl import GRPOConfig

    from repic_core.planning.dry_run import Step
    from repic_core.planning.prompt_tokens import photo_tokens, text_tokens
    from repic_core.training.recipe import read_recipe, recipe_values

    values = recipe_values(recipe) | overrides
    # what needs the card or the launcher to be there; read here from the values
    away = {"bf16": False, "deepspeed": None, "fsdp": None, "fsdp_config": None, "output_dir": "plan"}
    tune, trainer = read_recipe(recipe, GRPOConfig, overrides | away)
    group, batch = trainer.num_generations, trainer.per_device_train_batch_size
    together = min(group, batch) if tune.shared_prefix else 1
    image = photo_tokens(config, side, tune.max_pixels) * (references + 1)
    sharded = values.get("fsdp_config") or {}
    return tune, trainer, Step(
        prompts=max(1, batch // together),
        prompt=text_tokens(references) + image,
        photos=image,
        generations=together,
        completion=completion or trainer.max_completion_length,
        rounds=max(1, trainer.steps_per_generation or 1),
        group=group if tune.shared_prefix else 1,
        bf16=bool(values.get("bf16")),
        checkpointing=bool(trainer.gradient_checkpointing or sharded.get("activation_checkpointing")),
        reference=trainer.beta != 0,
        rollout=not trainer.use_vllm,
        accumulates=trainer.gradient_accumulation_steps > 1,
    )  # fmt: skip


def _sharding_of(values: dict[str, Any]) -> str:
    if values.get("fsdp"):
        return "fsdp2"
    stage = ((values.get("deepspeed") or {}).get("zero_optimization") or {}).get("stage", 0)
    if stage not in (0, 2):
        raise ValueError(f"deepspeed: stage {stage} is not planned here; give sharding none, zero2 or fsdp2")
    return "zero2" if stage == 2 else "none"


def _bucket(values: dict[str, Any]) -> int:
    from repic_core.planning.memory import BUCKET

    size = ((values.get("deepspeed") or {}).get("zero_optimization") or {}).get("reduce_bucket_size")
    return int(size) if isinstance(size, int | float) else BUCKET


def _steps(trainer: Any, gpus: int, rows: int | None) -> int | None:
    """Optimizer steps of the whole run, or None where the number of rows decides and is not known."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    if rows is None:
        return None
    batch = gpus * trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    return -(-int(trainer.num_train_epochs * rows * trainer.num_generations) // batch)


def _advice(
    recipe: Any, setting: dict[str, Any], overrides: dict[str, Any], trainer: Any, quantised: bool, side: int
) -> list[tuple[str, int, bool]]:
    """Changes, each on top of those before, until it fits: (what, peak bytes, fits)."""
    tried, now = [], dict(overrides)
    changes: list[tuple[str, dict[str, Any], int]] = []
    if (trainer.steps_per_generation or 1) > 1 and not trainer.use_vllm:
        changes.append(("steps_per_generation: 1", {"steps_per_generation": 1}, side))
    if not trainer.gradient_checkpointing:
        changes.append(("gradient_checkpointing: true", {"gradient_checkpointing": True}, side))
    batch, passes = trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps
    if batch > 1 and batch % 2 == 0:
        half = {"per_device_train_batch_size": batch // 2, "gradient_accumulation_steps": 2 * passes}
        changes.append((", ".join(f"{name}: {value}" for name, value in half.items()), half, side))
    smaller = max(1, side * 2 // 3)
    changes.append((f"photos of {smaller} pixels", {}, smaller))
    if not quantised:
        four = {"tune": "lora", "load_in_4bit": True, "optim": "paged_adamw_8bit"}
        changes.append(("load_in_4bit: true, optim: paged_adamw_8bit", four, smaller))
    for what, values, photo in changes:
        now |= values
        found = plan(recipe, side=photo, advise=False, **(setting | now))
        tried.append((what, found["peak"], found["fits"]))
        if found["fits"]:
            break
    return tried


def report(found: dict[str, Any]) -> str:
    """A plan as Markdown: what the model is, GiB by phase and term, the verdict, seconds."""
    from repic_core.planning.seconds import BANDWIDTH, COMPUTE

    phases = list(found["bytes"])
    terms = list(dict.fromkeys(term for one in found["bytes"].values() for term in one))

    def gib(size: int | None) -> str:
        return "" if not size else f"{size / GIB:.2f}" if size >= GIB / 200 else "<0.01"

    usable = next(one for one in CARDS.values() if one[0] == found["card"])[3]
    lines = [
        f"{found['recipe']}: {found['model']}, {found['parameters']:,} parameters, {found['trainable']:,} trained; "
        f"a prompt of {found['prompt']} tokens ({found['photos']} of photos), {found['generations']} completions "
        f"of {found['completion']}; {found['gpus']} GPU(s), sharding {found['sharding']}",
        "",
        "| GiB on each GPU | " + " | ".join(phases) + " |",
        "|---" * (len(phases) + 1) + "|",
        *(f"| {t} | " + " | ".join(gib(found["bytes"][p].get(t)) for p in phases) + " |" for t in terms),
        "| **peak** | " + " | ".join(f"**{gib(sum(found['bytes'][p].values()))}**" for p in phases) + " |",
        "",
        f"fits on {found['card']}: {'yes' if found['fits'] else 'no'}, {found['peak'] / GIB:.1f} of {usable:.1f} "
        f"GiB ({RESERVE:g} GiB is kept for CUDA itself)",
        *(
            f"- then with {what}: {peak / GIB:.1f} GiB, {'fits' if fits else 'does not fit'}"
            for what, peak, fits in found["advice"]
        ),
        "",
        "| an optimizer step, estimated | tokens a GPU | TFLOPs a GPU | seconds |",
        "|---|---|---|---|",
        *(
            f"| {name} | {one['tokens']:,.0f} | {one['flops'] / 1e12:,.0f} | {found['seconds'][name]:.1f} |"
            for name, one in found["work"].items()
        ),
    ]
    total, steps = sum(found["seconds"].values()), found["steps"]
    hours = f"{(steps or 1000) * total / 3600:.1f} hours for {steps or 'each 1000'} steps"
    return "\n".join(
        [
            *lines,
            "",
            f"about {total:.0f} s a step, {hours}: an estimate at {COMPUTE:.0%} of the card's bf16 rate and, in "
            f"decoding, {BANDWIDTH:.0%} of its bandwidth; without rewards, data, communication and kernel launches"
            + ("" if "rollout" in found["work"] else "; captions are made by vLLM, which is not counted"),
        ]
    )
