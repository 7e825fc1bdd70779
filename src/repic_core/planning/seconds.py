"""An estimate of a step's seconds on a card.

In go a model's counts and a `Step`; out come tokens, FLOPs and seconds by phase. FLOPs are counted as in Kaplan et
al. (arXiv 2001.08361, section 2.1): two for each weight and token in a forward pass, and those of attention by the
pairs of tokens that see each other. A backward pass through frozen weights costs as much as a forward pass, through
trained ones twice that; checkpointing adds a forward pass.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from repic_core.models.parts import conditional_model
from repic_core.planning.settings import Card, Step

COMPUTE, BANDWIDTH = 0.35, 0.5  # assumed shares of a card's rates that passes and decoding reach


def counts(model: Any) -> dict[str, int]:
    """Weights that a token is multiplied with (language model's blocks, head, tower), and attention's sizes."""
    base = conditional_model(model)
    text, vision, tower = base.config.get_text_config(), base.config.vision_config, base.model.visual
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    language = sum(p.numel() for p in base.model.language_model.parameters())
    # of Qwen2.5-VL's tower the blocks without windows; a window's pairs are left out
    full_blocks = getattr(vision, "fullatt_block_indexes", None) or tower.blocks
    return {
        "language": language - base.get_input_embeddings().weight.numel(),
        "head": base.get_output_embeddings().weight.numel(),
        "tower": sum(p.numel() for p in tower.parameters()),
        "tower bytes": sum(p.nbytes for p in tower.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        # FLOPs for each pair of tokens, and of patches
        "attention": 4 * text.num_hidden_layers * text.num_attention_heads * head,
        "tower attention": 4 * tower.blocks[0].attn.qkv.in_features * len(full_blocks),
        # values for each token, and patches for each image token
        "cache": 2 * text.num_hidden_layers * text.num_key_value_heads * head,
        "merge": vision.spatial_merge_size**2,
    }


def work(n: dict[str, int], step: Step, passes: int, images: int, full: bool) -> dict[str, dict[str, float]]:
    """Tokens and FLOPs of one GPU in an optimizer step, by phase; of the rollout also those of its prefill.

    What is used in several iterations (the rollout, and the passes that follow it at once) counts in each of them
    by its share.

    Args:
        n: from `counts`.
        passes: micro-batches an optimizer step, each of `step`'s prompts.
        images: photos of a prompt.
        full: the language model itself is trained.
    """
    prompts, p, g, c = passes * step.prompts, step.prompt, step.generations, step.completion
    said = prompts * g * c
    packed = prompts * (p - 1) + said
    pairs = prompts * (p * p / 2 + g * c * (p + c / 2))
    forward = 2 * n["language"] * packed + 2 * n["head"] * said + n["attention"] * pairs
    backward = 2 * forward if full else forward + 2 * n["trained"] * packed
    rollouts, once = prompts * g // (step.group or g), 1 / step.iterations
    patches = _encoded(step, rollouts, prompts, full) * step.photos * n["merge"]
    tower = 2 * n["tower"] * patches
    if images:
        tower += n["tower attention"] * patches * (step.photos * n["merge"] / images)

    found = {"photos": {"tokens": patches, "flops": tower}}
    if step.rollout:
        prefill = 2 * n["language"] * rollouts * (p - 1) + n["attention"] * rollouts * p * p / 2
        decoding = (2 * (n["language"] + n["head"]) + n["attention"] * (p + c / 2)) * said
        found["rollout"] = {
            "tokens": (rollouts * (p - 1) + said) * once,
            "flops": (prefill + decoding) * once,
            "prefill_flops": prefill * once,
        }
    for phase, there in (("old policy", step.old_policy), ("reference", step.reference)):
        if there:
            found[phase] = {"tokens": packed * once, "flops": forward * once}
    forwards = 2 if step.checkpointing else 1
    found["policy"] = {"tokens": packed, "flops": forward * forwards + backward}
    return found


def _encoded(step: Step, rollouts: int, prompts: int, full: bool) -> float:
    """How many prompts' photos the vision tower goes through in an optimizer step, recomputed and backward passes
    included.

    Args:
        rollouts, prompts: of the step's rollouts, and of its policy passes.
    """
    if step.photos_once:
        return rollouts / step.iterations
    # With an adapter, checkpointing lets gradients reach the frozen tower: it is recomputed, and passed backwards.
    policy = 3 if step.checkpointing and not full else 1
    before = step.rollout * rollouts + (step.old_policy + step.reference) * prompts
    return before / step.iterations + policy * prompts


def seconds(
    n: dict[str, int], step: Step, passes: int, found: dict[str, dict[str, float]], weights: int, card: Card
) -> dict[str, float]:
    """Seconds of each phase, estimated: passes are bound by FLOPs, decoding by reading `weights` and the cache.

    Args:
        found: from `work`.
        weights: bytes.
    """
    rate, reading = card.tflops * 1e12 * COMPUTE, card.bandwidth * 1e9 * BANDWIDTH
    spent = {phase: one["flops"] / rate for phase, one in found.items()}
    if step.rollout:
        rows = step.prompts * step.rounds * step.generations
        cached = n["cache"] * 2 * rows * (step.prompt + step.completion / 2)  # bf16
        rollouts = passes / step.rounds / step.iterations
        decoding = rollouts * step.completion * (weights + cached) / reading
        spent["rollout"] = found["rollout"]["prefill_flops"] / rate + decoding
    return spent


def optimizer_steps(trainer: Any, step: Step, rows: int | None) -> int | None:
    """Optimizer steps of a whole run of `trainer` (a `GRPOConfig`); None where the unknown `rows` decide.

    An epoch goes through the rows in whole rollouts (TRL leaves the rest out), each `iterations` times.
    """
    if trainer.max_steps > 0:
        return trainer.max_steps
    if rows is None:
        return None
    together = step.gpus * trainer.per_device_train_batch_size * step.rounds // trainer.num_generations
    passes = rows // max(1, together) * step.rounds * step.iterations
    return ceil(trainer.num_train_epochs * max(1, ceil(passes / trainer.gradient_accumulation_steps)))
