"""Bytes on a GPU in each phase of a step.

In go a built model, its settings and the dry run; out come bytes by phase and term. What stays between the phases
is counted here, the rest is the dry run's.
"""

from __future__ import annotations

import re
from typing import Any

from repic_core.models.parts import conditional_model
from repic_core.planning.dry_run import FEATURES, GRADIENTS, PHOTOS, trained
from repic_core.planning.settings import Settings, Step
from repic_core.training.recipe import LORA_TARGETS, TuneArguments

# QLoRA (arXiv 2305.14314): 4 bits; a constant of 8 bits for each 64 weights, and of 32 for each 256 of those
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)


def weight_bytes(model: Any, tune: TuneArguments) -> dict[str, int]:
    """Bytes of the whole model on one GPU: its weights (and buffers), those in 4 bits, and the adapter."""
    adapter = sum(p.nbytes for p in trained(model)) if tune.tune == "lora" else 0
    tensors = [*model.parameters(), *model.buffers()]
    found = {"weights": sum(t.nbytes for t in tensors) - adapter, "adapter": adapter}
    if not tune.load_in_4bit:
        return found
    quantised = _quantised(model)
    found["weights"] -= sum(p.nbytes for p in quantised)
    return {"weights in 4 bits": int(sum(p.numel() for p in quantised) * FOUR_BITS)} | found


def static_bytes(model: Any, weights: dict[str, int], optim: str, step: Step) -> dict[str, int]:
    """Bytes on each GPU between the phases: `weights` (from `weight_bytes`), gradients' and the optimizer's.

    ``gradients`` are those of the whole step, held from the first backward pass on. AdamW keeps two moments in the
    dtype of its parameter (torch), or two bytes and the constants of its blocks of 256 (bitsandbytes' 8-bit AdamW).
    """
    gpus = step.gpus
    count = sum(p.numel() for p in trained(model))
    gradients = sum(p.nbytes for p in trained(model))
    moments = int(count * (2 + 8 / 256)) if "8bit" in optim else 2 * gradients
    if step.sharding == "zero2":  # bf16 parameters; fp32 copy and moments divided
        found = dict(weights)
        if found["adapter"]:
            found["adapter"] = 2 * count
        found["AdamW: fp32 copy and moments"] = 12 * count // gpus
        found["reduce buckets"] = 2 * 2 * step.bucket  # of bf16; two with overlap_comm
        gradients = 2 * count // gpus
    elif step.sharding == "fsdp2":
        found = {name: size // gpus for name, size in weights.items()}
        found["gathered layers"] = _gathered(conditional_model(model))
        found["AdamW: moments"] = moments // gpus
        gradients //= gpus
    else:
        found = weights | {"AdamW: moments": moments}
        if gpus > 1:
            found["DDP's buckets of gradients"] = gradients
    return found | {GRADIENTS: gradients}


def phase_bytes(
    settings: Settings, model: Any, weights: dict[str, int], dry: dict[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    """Bytes on each GPU by phase (photos, rollout, reference, policy, optimizer) and term, at each phase's peak.

    Args:
        weights: from `weight_bytes`.
        dry: from `dry_run.peaks`.
    """
    tune, step, optim = settings.tune, settings.step, settings.trainer.optim
    always = static_bytes(model, weights, optim, step)
    gradients = always.pop(GRADIENTS)
    if tune.tune == "full" and step.reference:
        always["reference model's weights"] = always["weights"]
    if tune.load_in_4bit:
        always["one layer's weights out of 4 bits"] = max(p.nbytes for p in _quantised(model))
    found = {phase: always | terms for phase, terms in dry.items()}
    temporaries = _temporaries(model, optim, step.gpu)
    if step.sharding != "none":
        temporaries //= step.gpus
        found["policy"][GRADIENTS] = gradients  # in the pass they are divided as they come
    found["optimizer"] = always | {
        PHOTOS: dry["policy"][PHOTOS],
        FEATURES: dry["policy"][FEATURES],
        GRADIENTS: gradients,
        "AdamW's temporaries": temporaries,
    }
    return {phase: {term: size for term, size in terms.items() if size} for phase, terms in found.items()}


def _quantised(model: Any) -> list[Any]:
    """The weights that bitsandbytes quantises: the linear layers of the language model's blocks."""
    modules = conditional_model(model).named_modules()
    return [module.weight for name, module in modules if re.fullmatch(LORA_TARGETS, name)]


def _gathered(base: Any) -> int:
    """What FSDP2 has whole at a time: the root's own parameters, and two blocks (one in use, one on its way)."""
    layers = base.model.language_model.layers
    block = sum(p.nbytes for p in layers[0].parameters())
    blocks = sum(p.nbytes for p in layers.parameters())
    tower = sum(p.nbytes for p in base.model.visual.blocks.parameters())
    return sum(p.nbytes for p in base.parameters()) - blocks - tower + 2 * block


def _temporaries(model: Any, optim: str, gpu: bool) -> int:
    """Bytes of AdamW's temporaries: the second moments' roots (torch's foreach); a CPU's, one parameter twice."""
    if "fused" in optim or "8bit" in optim:
        return 0
    sizes = [p.nbytes for p in trained(model)]
    return sum(sizes) if gpu else 2 * max(sizes)
