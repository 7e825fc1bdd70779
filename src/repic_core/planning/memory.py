"""Bytes on a GPU in each phase of a step: torch's count of what is stored, and a dry run of the rest."""

from __future__ import annotations

from typing import Any

BUCKET = 500_000_000  # elements of DeepSpeed's reduce bucket, its default; two with overlap_comm
# QLoRA (arXiv 2305.14314): 4 bits; a constant of 8 bits for each 64 weights, and of 32 for each 256 of those
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)


def static_bytes(
    model: Any, tune: Any, optim: str, gpus: int = 1, sharding: str = "none", bucket: int = BUCKET
) -> dict[str, int]:
    """Bytes on each GPU between the phases: weights, what is trained, gradients' and the optimizer's.

    ``gradients`` are those of the whole step, there from the first backward pass on. AdamW keeps two moments in the
    dtype of its parameter (torch), or two bytes and the constants of its blocks of 256 (bitsandbytes' 8-bit AdamW).
    """
    from repic_core.planning.dry_run import conditional_model

    base = conditional_model(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    adapter = sum(p.nbytes for p in trained) if tune.tune == "lora" else 0
    weights = sum(p.nbytes for p in model.parameters()) - adapter + sum(b.nbytes for b in model.buffers())
    found: dict[str, int] = {}
    if getattr(tune, "load_in_4bit", False):
        quantised = _language_linears(base)
        weights -= sum(p.nbytes for p in quantised)
        found["weights in 4 bits"] = int(sum(p.numel() for p in quantised) * FOUR_BITS)
    found |= {"weights": weights, "adapter": adapter}
    gradients = sum(p.nbytes for p in trained)
    count = sum(p.numel() for p in trained)
    states = int(count * (2 + 8 / 256)) if "8bit" in optim else 2 * gradients
    if sharding == "zero2":  # bf16 parameters; fp32 copy and moments divided
        if adapter:
            found["adapter"] = 2 * count
        found["AdamW: fp32 copy and moments"] = 12 * count // gpus
        gradients = 2 * count // gpus
        found["reduce buckets"] = 2 * 2 * bucket
    elif sharding == "fsdp2":
        gathered = _gathered(base)
        found = {name: size // gpus for name, size in found.items()}
        found |= {"gathered layers": gathered, "AdamW: moments": states // gpus}
        gradients //= gpus
    else:
        found["AdamW: moments"] = states
        if gpus > 1:
            found["DDP's buckets of gradients"] = gradients
    return {name: size for name, size in found.items() if size} | {"gradients": gradients}


def _language_linears(base: Any) -> list[Any]:
    """The weights that bitsandbytes quantises: the linear layers of the language model's blocks."""
    from repic_core.training.recipe import LORA_TARGETS

    names = LORA_TARGETS.rsplit("(", 1)[1].rstrip(")").split("|")
    found = base.model.language_model.named_parameters()
    return [p for name, p in found if any(part in names for part in name.split(".")) and p.ndim == 2
            and "lora_" not in name]  # fmt: skip


def _gathered(base: Any) -> int:
    """What FSDP2 has whole at a time: the root's own parameters, and two blocks (one in use, one on its way)."""
    layers = base.model.language_model.layers
    block = sum(p.nbytes for p in layers[0].parameters())
    blocks = sum(p.nbytes for layer in layers for p in layer.parameters())
    tower = sum(p.nbytes for block in base.model.visual.blocks for p in block.parameters())
    return sum(p.nbytes for p in base.parameters()) - blocks - tower + 2 * block


def optimizer_work(model: Any, optim: str, gpu: bool) -> int:
    """Bytes of AdamW's temporaries: the second moments' roots (torch's foreach); a CPU's, one parameter twice."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if "fused" in optim or "8bit" in optim:
        return 0
    return sum(p.nbytes for p in trained) if gpu else 2 * max(p.nbytes for p in trained)


def phase_terms(model: Any, tune: Any, step: Any, optim: str, **sharding: Any) -> dict[str, dict[str, int]]:
    """Bytes by phase (photos, rollout, reference, policy, optimizer) and term, at each phase's peak."""
    from repic_core.planning import dry_run

    static = static_bytes(model, tune, optim, **sharding)
    gradients = static.pop("gradients")
    if tune.tune == "full" and step.reference:
        static["reference model's weights"] = static["weights"]
    work = optimizer_work(model, optim, step.gpu) // (
        sharding.get("gpus", 1) if sharding.get("sharding", "none") != "none" else 1
    )
    if getattr(tune, "load_in_4bit", False):
        static["one layer's weights out of 4 bits"] = max(
            p.nbytes for p in _language_linears(dry_run.conditional_model(model))
        )
    found = {name: static | terms for name, terms in dry_run.peaks(model, step).items()}
    if sharding.get("sharding", "none") != "none":  # in the pass they are divided as they come
        found["policy"][dry_run.GRADIENTS] = gradients
    kept = {name: found["policy"].get(name, 0) for name in (dry_run.PHOTOS, dry_run.FEATURES)}
    found["optimizer"] = static | kept | {"gradients": gradients, "AdamW's temporaries": work}
    return {name: {term: size for term, size in terms.items() if size} for name, terms in found.items()}


def peak_bytes(config: Any, tune: Any, step: Any, optim: str, **sharding: Any) -> dict[str, int]:
    """Peak bytes of each phase, and of the step."""
    from repic_core.planning.dry_run import build

    model = build(config, tune, step.bf16 and step.gpu, getattr(tune, "load_in_4bit", False))
    terms = phase_terms(model, tune, step, optim, **sharding)
    peaks = {name: sum(sizes.values()) for name, sizes in terms.items()}
    return peaks | {"step": max(peaks.values())}
