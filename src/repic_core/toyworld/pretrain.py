"""Reproduce the toy base: ``repic toyworld pretrain``.

There are two phases, seeded and resumable: first the vision tower learns who is who (`recognition`), then the rest
of the model learns the lessons of `lessons`. In the time that a CPU allows, the model does not learn on its own to
choose among several references. So auxiliary losses help it to match. They are for this base only; the kit's
training has none of them:

- *photo*: one attention head has to attend, from the tokens of a name in a reference's text, to the reference's
  photo;
- *look*: two heads of the next layer (*looks* for who it is, *spots* for where) have to attend, from the positions
  that predict what a thing is called or the coordinates of its box, to the visual token at its centre;
- *asks*: another head of the first of these layers has to attend, from there, to the words of the question that say
  what is asked for;
- *name*: one head of the next layer has to attend, from the position that predicts a syllable of a name, to the
  same syllable in the text of the right reference; from the answer "yes" about two photos it has to attend to the
  first of them, from "no" to the first token of all (*apart*);
- *probe*: one linear map, dropped afterwards, has to give the same vector at both ends of a name pointer, another
  one for other identities in the batch.

Coordinates have a Gaussian of 1.5 pixels as their target, not a single right value, and begin with embeddings that
are alike for near numbers.
"""

from __future__ import annotations

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.io.files import replaced
from repic_core.models.vision import use_batched_vision
from repic_core.toyworld.encoder import Encoder
from repic_core.toyworld.lessons import HABIT, LESSONS, Lesson
from repic_core.toyworld.model import HIDDEN, make_model, make_processor
from repic_core.toyworld.recognition import (
    REFERENCE_GRID,
    make_heads,
    measure_recognition,
    prepared,
    train_tower,
)

# The layer and head of each pointer, and the number of tokens that it points to.
POINTERS = {
    "photos": (1, 2, REFERENCE_GRID**2),
    "asks": (1, 1, 1),
    "looks": (2, 1, 1),
    "spots": (2, 3, 1),
    "names": (3, 0, 1),
    "apart": (3, 0, 1),
}
TEMPERATURE = 0.1
# Share of the steps in which matching is learnt.
SKILL_SHARE = 0.36
# Weights of the tasks, by the number of references: first matching with few references, then everything.
SKILL_MIX = {
    ("who", 2): 16,
    ("who", 3): 12,
    ("place", 2): 12,
    ("place", 3): 12,
    ("cap", 1): 4,
    ("cap", 2): 12,
    ("cap", 3): 8,
    ("describe", 4): 10,
    ("oct", 3): 8,
    ("vlt", 3): 10,
}
FULL_MIX = {
    ("who", 4): 5,
    ("who", 7): 4,
    ("place", 3): 4,
    ("place", 5): 8,
    ("place", 7): 6,
    ("cap", 1): 6,
    ("cap", 2): 8,
    ("cap", 3): 8,
    ("cap", 4): 10,
    ("cap", 5): 6,
    ("cap", 6): 5,
    ("cap", 7): 6,
    ("describe", 7): 8,
    ("oct", 4): 7,
    ("vlt", 3): 6,
    ("vlt", 6): 6,
}


def make_lessons(progress: float, rng: np.random.Generator, n: int) -> tuple[str, list[Lesson]]:
    """A task and `n` of its lessons, for a point of the training (0 to 1): first matching, then everything."""
    skill = progress < SKILL_SHARE
    mix = SKILL_MIX if skill else FULL_MIX
    weights = np.array(list(mix.values())) / sum(mix.values())
    name, k = list(mix)[rng.choice(len(mix), p=weights)]
    options: dict[str, Any] = {"split": "train", "generic": 0.7, "hard": 0.1 if skill else 0.3}
    if name == "cap":
        options["habit"] = None if skill else HABIT
    return f"{name} {k}", [LESSONS[name](k, rng, **options) for _ in range(n)]


def _batch_of_step(step: int, encoder: Encoder, steps: int, seed: int, n: int) -> tuple[str, dict[str, Any]]:
    task, lessons = make_lessons(step / steps, np.random.default_rng([seed, 3, step]), n)
    return task, encoder.batch(lessons)


def _prepare_pointers(model: Any, heads: Any) -> None:
    """Start the pointers' heads with what the tower has learnt (`make_heads`).

    *photos* and *looks* pass on the directions by which identities differ, *spots* those that tell where a thing is
    and how far it reaches. *names* attends by the directions of identities, in the dimensions that rotary positions
    turn slowly, and passes on what it finds, which is a name.
    """
    import torch

    def directions(*names: str) -> Any:
        return torch.linalg.svd(torch.cat([heads[name].weight.float() for name in names]))[2]

    identity, place = directions("embed"), directions("cell", "box", "centre")
    layers = model.model.language_model.layers
    d = layers[0].self_attn.head_dim
    slow = torch.cat([torch.arange(d // 4, d // 2), torch.arange(3 * d // 4, d)])
    random = torch.randn(HIDDEN, d, generator=torch.Generator().manual_seed(0))
    passed = {"photos": identity[:d], "looks": identity[:d], "spots": place[:d]}
    passed["names"] = torch.linalg.qr(random)[0].t()
    with torch.no_grad():
        for name, rows in passed.items():
            layer, head, _ = POINTERS[name]
            attention, own = layers[layer].self_attn, slice(head * d, (head + 1) * d)
            if name == "names":
                for projection in (attention.q_proj, attention.k_proj):
                    projection.weight[own] = 0
                    projection.weight[head * d + slow] = 0.5 * identity[: len(slow)]
            attention.v_proj.weight[own], attention.o_proj.weight[:, own] = rows, 2 * rows.t()
            attention.v_proj.bias[own] = 0


def _prepare_numbers(model: Any, numbers: Any) -> None:
    """Give the tokens `numbers` (value, 2) embeddings that are the more alike the nearer their values are."""
    import torch

    embeddings = model.get_input_embeddings().weight
    values = torch.arange(len(numbers))
    near = torch.softmax(-((values - values[:, None]) ** 2) / (2 * 4.0**2), -1)
    with torch.no_grad():
        for column in numbers.unbind(1):
            smooth = near @ embeddings[column]
            embeddings[column] = smooth * embeddings[column].std() / smooth.std()


def lesson_loss(
    model: Any, probe: Any, encoder: Encoder, batch: dict[str, Any], aux: float
) -> tuple[Any, dict[str, float]]:
    """Cross-entropy on answers (names count three times) plus `aux` times pointers and probe; and what to log."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    labels = batch.pop("labels")[:, 1:]
    pointers = {name: batch.pop(name) for name in POINTERS if name != "spots"}
    pointers["spots"] = pointers["looks"]
    look = aux > 0 and any(map(len, pointers.values()))
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
    for name, (layer, head, count) in POINTERS.items():
        if not look or not len(pointers[name]):
            continue
        row, start, end, drawing = pointers[name].unbind(1)
        tokens = end[:, None] + torch.arange(count)
        attended = out.attentions[layer][row[:, None], head, start[:, None], tokens].sum(-1)
        total = total - aux * 0.5 * (attended + 1e-6).log().mean()
        log[name] = attended.mean().item()
        if name == "names":
            hidden = out.hidden_states[layer]
            one, two = (normalize(probe(_normed(hidden[row, at])), dim=-1) for at in (start, end))
            alike = (one @ two.T / TEMPERATURE).log_softmax(-1)
            right = drawing[:, None] == drawing
            probed = -alike.masked_fill(~right, -torch.inf).logsumexp(-1).mean()
            total = total + aux * 0.4 * probed
            log["probe"] = probed.item()
    return total, log


def _normed(hidden: Any) -> Any:
    return hidden * hidden.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()


def pretrain_language(
    model: Any,
    processor: Any,
    heads: Any,
    steps: int,
    out: Path,
    seed: int = 0,
    batch_size: int = 32,
    lr: float = 1.5e-3,
) -> None:
    """Train the whole model in place; logs to ``out/language.jsonl`` and resumes from ``out/language.pt``."""
    import torch

    encoder = Encoder(processor)
    torch.manual_seed(seed)
    probe = torch.nn.Linear(HIDDEN, 64)
    _prepare_pointers(model, heads)
    _prepare_numbers(model, encoder.numbers)
    # The pointer loss reads attentions.
    model.model.language_model.config._attn_implementation = "eager"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name or "merger" in name)
    merger = list(model.model.visual.merger.parameters())
    rest = [p for n, p in model.named_parameters() if "visual" not in n] + list(probe.parameters())
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        {"params": merger, "weight_decay": 0.02, "lr": lr * 0.2},
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
    batches = prepared(
        partial(_batch_of_step, encoder=encoder, steps=steps, seed=seed, n=batch_size), first, steps
    )
    for step, (task, batch) in enumerate(batches, first):
        # The auxiliary losses fade over the last quarter.
        aux = min(1.0, max(0.0, 4 * (1 - step / steps)))
        loss, log = lesson_loss(model, probe, encoder, batch, aux)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seen.setdefault(task, []).append(log)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            line: dict[str, Any] = {"step": step + 1, "minutes": round((time.time() - started) / 60, 1)}
            for task, logs in sorted(seen.items()):
                line[task] = {
                    k: round(float(np.mean([x[k] for x in logs if k in x])), 3)
                    for k in sorted(set().union(*logs))
                }
            print("language", json.dumps(line), flush=True)
            with open(out / "language.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            seen = {}
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}
            with replaced(checkpoint) as file:
                torch.save(state, file)
    model.model.language_model.config._attn_implementation = "sdpa"
    model.eval()


def pretrain(out: Path, work: Path, tower_steps: int, steps: int, seed: int = 0) -> None:
    """Run both phases; `work` keeps logs and checkpoints, `out` gets the model in the ordinary layout."""
    processor = make_processor()
    model = use_batched_vision(make_model(processor, seed))
    heads = make_heads()
    train_tower(model.model.visual, heads, tower_steps, work, seed)
    print("recognition (val):", json.dumps(measure_recognition(model.model.visual, heads, "val")), flush=True)
    pretrain_language(model, processor, heads, steps, work, seed)
    model.requires_grad_(True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    print(f"saved to {out}", flush=True)
