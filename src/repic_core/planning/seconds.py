"""An estimate of a step's seconds on a card, from its tokens, FLOPs and the bytes that decoding reads.

FLOPs are counted as in Kaplan et al. (arXiv 2001.08361, section 2.1): two for each weight and token in a forward
pass, and those of attention by the pairs of tokens that see each other. A backward pass through frozen weights
costs as much as a forward pass, through trained ones twice that; checkpointing adds a forward pass.
"""

from __future__ import annotations

from typing import Any

COMPUTE, BANDWIDTH = 0.35, 0.5  # assumed shares of a card's rates that passes and decoding reach


def counts(model: Any) -> dict[str, int]:
    """Weights that a token is multiplied with: language model's blocks, head, tower; and attention's sizes."""
    from repic_core.planning.dry_run import conditional_model

    base = conditional_model(model)
    text, vision = base.config.get_text_config(), base.config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    language = sum(p.numel() for p in base.model.language_model.parameters())
    language -= base.get_input_embeddings().weight.numel()
    full = getattr(vision, "fullatt_block_indexes", None)
    return {
        "language": language,
        "head": base.get_output_embeddings().weight.numel(),
        "tower": sum(p.numel() for p in base.model.visual.parameters()),
        "attention": 4 * text.num_hidden_layers * text.num_attention_heads * head,
        # of Qwen2.5-VL's tower the blocks without windows; a window's pairs are left out
        "tower_attention": 4 * base.model.visual.blocks[0].attn.qkv.in_features
        * (len(full) if full else len(base.model.visual.blocks)),
        "cache": 2 * text.num_hidden_layers * text.num_key_value_heads * head,
        "merge": vision.spatial_merge_size**2,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }  # fmt: skip


def work(model: Any, step: Any, passes: int, photos_each: int, full: bool) -> dict[str, dict[str, float]]:
    """Tokens and FLOPs of one GPU in an optimizer step, by phase.

    Args:
        passes: micro-batches an optimizer step, each of `step`'s prompts.
        photos_each: photos of a prompt.
        full: the language model itself is trained.
    """
    n = counts(model)
    prompts, p, g, c = passes * step.prompts, step.prompt, step.generations, step.completion
    said = prompts * g * c
    packed = prompts * (p - 1) + said
    pairs = prompts * (p * p / 2 + g * c * (p + c / 2))
    forward = 2 * n["language"] * packed + 2 * n["head"] * said + n["attention"] * pairs
    images = passes * step.prompts * step.generations // (step.group or step.generations)
    patches = images * step.photos * n["merge"]
    tower = 2 * n["tower"] * patches
    if photos_each:
        tower += n["tower_attention"] * patches * (step.photos * n["merge"] / photos_each)
    prefill = 2 * n["language"] * images * (p - 1) + n["attention"] * images * p * p / 2
    decoding = (2 * (n["language"] + n["head"]) + n["attention"] * (p + c / 2)) * said
    backward = forward * (2 if full else 1) + (0 if full else 2 * n["trained"] * packed)
    found = {"photos": {"tokens": patches, "flops": tower}}
    if step.rollout:
        found["rollout"] = {
            "tokens": images * (p - 1) + said,
            "flops": prefill + decoding,
            "prefill_flops": prefill,
        }
    if step.reference:
        found["reference"] = {"tokens": packed, "flops": forward}
    found["policy"] = {
        "tokens": packed,
        "flops": forward * (2 if step.checkpointing else 1) + backward,
    }
    return found


def seconds(
    model: Any, step: Any, passes: int, found: dict[str, dict[str, float]], weights: int, card: Any
) -> dict[str, float]:
    """Seconds of each phase, estimated: passes are bound by FLOPs, decoding by reading `weights` and the cache.

    card: (name, TFLOP/s, GB/s, GiB).
    """
    _, tflops, bandwidth, _ = card
    rate, reading = tflops * 1e12 * COMPUTE, bandwidth * 1e9 * BANDWIDTH
    spent = {name: one["flops"] / rate for name, one in found.items()}
    if step.rollout:
        rows = step.prompts * step.rounds * step.generations
        cached = counts(model)["cache"] * 2 * rows * (step.prompt + step.completion / 2)  # bf16
        decoding = passes / step.rounds * step.completion * (weights + cached) / reading
        spent["rollout"] = found["rollout"]["prefill_flops"] / rate + decoding
    return spent
