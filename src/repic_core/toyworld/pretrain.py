"""Reproduce the toy base: ``repic toyworld pretrain``.

There are two phases, seeded and resumable: first the vision tower learns attributes (`pretrain_vision`), then the
whole model learns the lessons of `lessons`. In the time that a CPU allows, the model does not learn on its own to
choose among several references. So auxiliary losses help it to match. They are for this base only; the kit's
training has none of them:

- *pointer*: one attention head of the third text layer has to attend, from the position that predicts a syllable of
  a name, to the same syllable in the text of the right reference;
- *box pointer* (in the second part): another head of that layer has to attend, from the positions that predict the
  coordinates of a box, to the visual token at the centre of the box;
- *probe*: one linear head, dropped afterwards, reads shape, colour and pattern at both ends of a pointer.

Coordinates have a Gaussian of 1.5 pixels as their target, not a single right value.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.models.vision import use_batched_vision
from repic_core.toyworld.encoder import Encoder
from repic_core.toyworld.lessons import HABIT, LESSONS, SOFT_HABIT, Lesson
from repic_core.toyworld.model import HIDDEN, make_model, make_processor
from repic_core.toyworld.pretrain_vision import ATTRIBUTES, pretrain_vision, save_checkpoint

# The third text layer; its head 0 is the pointer.
POINTER_LAYER = 2
# Share of the steps in which matching is learnt.
SKILL_SHARE = 0.36
# Weights of the tasks: first matching with few references, then everything.
SKILL_MIX = {
    "who2": 16,
    "who3": 16,
    "place2": 12,
    "place3": 12,
    "cap1": 4,
    "cap2": 12,
    "cap3": 6,
    "describe3": 7,
    "oct3": 8,
    "vlt3": 7,
}
FULL_MIX = {
    "who3": 4,
    "who4": 9,
    "place2": 4,
    "place3": 6,
    "place4": 18,
    "cap1": 8,
    "cap2": 12,
    "cap3": 8,
    "cap4": 12,
    "describe4": 5,
    "oct3": 8,
    "vlt3": 8,
    "vlt4": 10,
}


def make_lessons(
    progress: float, rng: np.random.Generator, n: int, soft: bool = False
) -> tuple[str, list[Lesson]]:
    """A task and `n` of its lessons, for a point of the training (0 to 1): first matching, then everything."""
    skill = progress < SKILL_SHARE
    mix = SKILL_MIX if skill else FULL_MIX
    task = str(rng.choice(list(mix), p=np.array(list(mix.values())) / sum(mix.values())))
    name, k = task[:-1], int(task[-1])
    options: dict[str, Any] = {"split": "train", "generic": 0.6, "hard": 0.1 if skill else 0.3}
    if name == "cap" and skill:
        options["habit"] = None
    elif name == "cap":
        options["habit"] = SOFT_HABIT if soft else HABIT
    return task, [LESSONS[name](k, rng, **options) for _ in range(n)]


def _prepare_pointer(model: Any) -> None:
    """Start head 0 of the pointer layer as a copier: it attends by similarity and passes on what it finds."""
    import torch

    attention = model.model.language_model.layers[POINTER_LAYER].self_attn
    d = attention.head_dim
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(HIDDEN, d, generator=torch.Generator().manual_seed(0)))[0]
        attention.v_proj.weight[:d], attention.o_proj.weight[:, :d] = basis.t(), basis * 2
        attention.v_proj.bias[:d] = 0
        alike = (attention.q_proj.weight[:d] + attention.k_proj.weight[:d]) * 0.7
        attention.q_proj.weight[:d], attention.k_proj.weight[:d] = alike, alike


def lesson_loss(
    model: Any, probe: Any, encoder: Encoder, batch: dict[str, Any], aux: float, box_pointer: bool
) -> tuple[Any, dict[str, float]]:
    """Cross-entropy on answers (names count three times) plus `aux` times pointer and probe; and what to log."""
    import torch
    from torch.nn.functional import cross_entropy

    labels, pointers, boxes = batch.pop("labels")[:, 1:], batch.pop("pointers"), batch.pop("box_pointers")
    use_pointer = aux > 0 and len(pointers) > 0
    use_boxes = aux > 0 and box_pointer and len(boxes) > 0
    look = use_pointer or use_boxes
    out = model.model(**batch, use_cache=False, output_attentions=look, output_hidden_states=look)
    mask = labels != -100
    target = labels[mask]
    logits = model.lm_head(out.last_hidden_state[:, :-1][mask]).float()
    loss = cross_entropy(logits, target, reduction="none")
    # For coordinates, the neighbours are nearly right.
    for column in encoder.numbers.unbind(1):
        hit = torch.isin(target, column)
        if hit.any():
            value = (target[hit][:, None] == column).float().argmax(1)
            near = torch.softmax(-((torch.arange(len(column)) - value[:, None]) ** 2) / (2 * 1.5**2), -1)
            loss = loss.masked_scatter(hit, -(near * logits[hit].log_softmax(-1)[:, column]).sum(-1))
    is_name = torch.isin(target, encoder.syllables)
    weight = torch.where(is_name, 3.0, 1.0)
    total = (loss * weight).sum() / weight.sum()
    log = {"loss": loss.mean().item()}
    if is_name.any():
        log["name"] = (logits[is_name].argmax(-1) == target[is_name]).float().mean().item()
    for name, use, pairs, head in (("name", use_pointer, pointers, 0), ("box", use_boxes, boxes, 1)):
        if not use:
            continue
        row, start, end, facts = pairs[:, 0], pairs[:, 1], pairs[:, 2], pairs[:, 3:]
        attended = out.attentions[POINTER_LAYER][row, head, start, end]
        hidden = out.hidden_states[POINTER_LAYER]
        both = torch.cat([hidden[row, start], hidden[row, end]])
        normed = both * both.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()
        read = probe(normed).split([len(a) for a in ATTRIBUTES], -1)
        probed = sum(cross_entropy(r, facts[:, i].repeat(2)) for i, r in enumerate(read))
        total = total + aux * (0.5 * -(attended + 1e-6).log().mean() + 0.4 * probed)
        log[f"{name}_attention"] = attended.mean().item()
        right = [r[: len(pairs)].argmax(-1) == facts[:, i] for i, r in enumerate(read)]
        log[f"{name}_probe"] = torch.stack(right).float().mean().item()
    return total, log


def pretrain_language(
    model: Any,
    processor: Any,
    steps: int,
    out: Path,
    seed: int = 0,
    soft: bool = False,
    batch_size: int = 32,
    lr: float = 1.5e-3,
) -> None:
    """Train the whole model in place; logs to ``out/language.jsonl`` and resumes from ``out/language.pt``."""
    import torch

    encoder = Encoder(processor)
    torch.manual_seed(seed)
    probe = torch.nn.Linear(HIDDEN, sum(len(a) for a in ATTRIBUTES))
    _prepare_pointer(model)
    # The pointer loss reads attentions.
    model.model.language_model.config._attn_implementation = "eager"
    tower = [p for n, p in model.named_parameters() if "visual" in n and "merger" not in n]
    rest = [p for n, p in model.named_parameters() if "visual" not in n or "merger" in n]
    rest += probe.parameters()
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        {"params": tower, "weight_decay": 0.02, "lr": lr * 0.3},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        """A warm-up of 100 steps, then half a cosine down to 3%."""
        fall = 0.97 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))
        return min(1, (step + 1) / 100) * (0.03 + fall)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    checkpoint, first = out / "language.pt", 0
    parts = {"model": model, "probe": probe, "optimizer": optimizer, "schedule": schedule}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["step"]
    model.train()
    started, seen = time.time(), {}
    for step in range(first, steps):
        task, lessons = make_lessons(step / steps, np.random.default_rng([seed, 3, step]), batch_size, soft)
        # The auxiliary losses fade over the last quarter.
        aux = min(1.0, max(0.0, 4 * (1 - step / steps)))
        batch = encoder.batch(lessons)
        loss, log = lesson_loss(model, probe, encoder, batch, aux, box_pointer=step / steps >= SKILL_SHARE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seen.setdefault(task, []).append(log)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            line: dict[str, Any] = {"step": step + 1, "minutes": round((time.time() - started) / 60, 1)}
            for task, logs in sorted(seen.items()):
                line[task] = {k: round(float(np.mean([x[k] for x in logs if k in x])), 3) for k in logs[0]}
            print("language", json.dumps(line), flush=True)
            with open(out / "language.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            seen = {}
            save_checkpoint({**{n: p.state_dict() for n, p in parts.items()}, "step": step + 1}, checkpoint)
    model.model.language_model.config._attn_implementation = "sdpa"
    model.eval()


def pretrain(
    out: Path, work: Path, vision_steps: tuple[int, int], steps: int, seed: int = 0, soft: bool = False
) -> None:
    """Run both phases; `work` keeps logs and checkpoints, `out` gets the model in the ordinary layout."""
    work.mkdir(parents=True, exist_ok=True)
    processor = make_processor()
    model = use_batched_vision(make_model(processor, seed))
    for stage in (1, 2):
        accuracy = pretrain_vision(model, processor, vision_steps[stage - 1], work, seed, stage)
        print(f"vision {stage}, held out (val):", json.dumps(accuracy), flush=True)
    pretrain_language(model, processor, steps, work, seed, soft)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    print(f"saved to {out}", flush=True)
