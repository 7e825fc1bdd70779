"""Reproduce the toy base: ``repic toyworld pretrain``.

Two phases, seeded and resumable: the vision tower on attributes (`pretrain_vision`), then the whole model on
the lessons of `lessons`. Choosing among several references does not appear by itself in the time of a CPU, so
auxiliary losses help the matching skill. They are for this base only, nothing in the kit's training has
them:

- *pointer*: one attention head of the third text layer is asked to attend, from the position that predicts a
  syllable of a name, to the same syllable in the text of the right reference;
- *box pointer* (second part): another head of that layer is asked to attend, from the positions that predict
  a box's coordinates, to the visual token at the box's centre;
- *probe*: one linear head, thrown away afterwards, reads shape, colour and pattern at both ends of a pointer.

Coordinates get a Gaussian of 1.5 pixels instead of a one-hot target.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.models.vision import use_batched_vision
from repic_core.prompts import IMAGE_PLACEHOLDER
from repic_core.toyworld.draw import SCENE_SIZE
from repic_core.toyworld.lessons import HABIT, LESSONS, SOFT_HABIT, Lesson
from repic_core.toyworld.model import HIDDEN, TOKEN, make_model, make_processor, pixel_values
from repic_core.toyworld.pretrain_vision import (
    ATTRIBUTES,
    attribute_indices,
    pretrain_vision,
    save_checkpoint,
)
from repic_core.toyworld.world import SYLLABLES

POINTER_LAYER = 2  # the third text layer; its head 0 is the pointer
SKILL_SHARE = 0.36  # of the steps
# Task mixes: the skill of matching first with few references, then everything.
SKILL_MIX = {
    "who2": 16,
    "who3": 16,
    "place2": 12,
    "place3": 12,
    "cap1": 4,
    "cap2": 12,
    "cap3": 6,
    "describe3": 7,
}
SKILL_MIX |= {"oct3": 8, "vlt3": 7}
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
}
FULL_MIX |= {"describe4": 5, "oct3": 8, "vlt3": 8, "vlt4": 10}


@dataclass
class Encoded:
    """Token ids, labels (-100 outside answers), pointers (from, to, shape, colour, pattern) and box pointers
    (likewise) of one lesson."""

    ids: list[int]
    labels: list[int]
    pointers: list[tuple[int, ...]]
    box_pointers: list[tuple[int, ...]]


class Encoder:
    """Turns lessons into training batches for one processor."""

    def __init__(self, processor: Any) -> None:
        import torch

        self.processor, self.tokenizer = processor, processor.tokenizer
        token = self.tokenizer.convert_tokens_to_ids
        self.image_token, self.pad = token("<|image_pad|>"), self.tokenizer.pad_token_id
        self.open, self.close = self._one(" <"), self._one(">")
        self.attribute_words = {self._one(f" {word}") for group in ATTRIBUTES for word in group}
        self.syllables = torch.tensor(sorted({i for s in SYLLABLES for i in self.encode(f" <{s}>")[1:-1]}))
        numbers = [(self.encode(f"[{n}")[1], self.encode(f", {n}")[1]) for n in range(SCENE_SIZE + 1)]
        self.numbers = torch.tensor(numbers)  # (value, without or with a leading space) -> token

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _one(self, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{text!r} should be one token of the toy tokenizer but is {len(ids)}")
        return ids[0]

    def user_turn(self, problem: str, images: list[np.ndarray]) -> str:
        """The chat template's text of one user turn, each placeholder widened to its image's tokens."""
        pads = iter(images)

        def block(_: re.Match) -> str:
            image = next(pads)
            return (
                f"<|vision_start|>{'<|image_pad|>' * (image.shape[0] * image.shape[1] // 256)}<|vision_end|>"
            )

        problem = re.sub(IMAGE_PLACEHOLDER, block, problem)
        return f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"

    def lesson(self, lesson: Lesson) -> Encoded:
        ids: list[int] = []
        labels: list[int] = []
        boxes: list[tuple[int, ...]] = []
        used = 0
        for turn, (problem, answer) in enumerate(lesson.turns):
            count = problem.count(IMAGE_PLACEHOLDER)
            prompt = self.encode(
                ("\n" if ids else "") + self.user_turn(problem, lesson.images[used : used + count])
            )
            used += count
            reply = self.encode(f"{answer}<|im_end|>")
            if lesson.centres:
                toy, row, column = lesson.centres[turn]
                start = len(ids) + len(prompt)  # the reply's first token
                image = (ids + prompt).index(self.image_token)
                centre = image + row * (SCENE_SIZE // TOKEN) + column
                # "[", x1, ",", y1, ",", x2, ",", y2, "]": coordinates are predicted at "[" and the commas
                facts = attribute_indices(toy)
                boxes += [(start + q, centre, *facts) for q in range(0, len(reply) - 2, 2)]
            ids += prompt + reply
            labels += [i if i in self.attribute_words else -100 for i in prompt] + reply
        return Encoded(ids, labels, self._pointers(ids, labels, lesson), boxes)

    def _pointers(self, ids: list[int], labels: list[int], lesson: Lesson) -> list[tuple[int, ...]]:
        """From each position that predicts a token of an answer's name to that token in the reference text."""
        toys = {tuple(self.encode(f" <{name}>")[1:-1]): toy for name, toy in lesson.targets.items()}
        source: dict[tuple[int, ...], int] = {}
        pointers = []
        for start in (i for i, token in enumerate(ids) if token == self.open):
            end = ids.index(self.close, start)
            name = tuple(ids[start + 1 : end])
            if labels[start] == -100:
                source.setdefault(name, start)
            elif name in source:
                facts = attribute_indices(toys[name])
                pointers += [(start + q, source[name] + 1 + q, *facts) for q in range(end - start)]
        return pointers

    def batch(self, lessons: list[Lesson]) -> dict[str, Any]:
        """Model inputs (right-padded), `labels` (batch, length) and `pointers` (n, 6: row, from, to, facts)."""
        import torch

        rows = [self.lesson(lesson) for lesson in lessons]
        length = max(len(row.ids) for row in rows)

        def padded(lists: list[list[int]], value: int) -> Any:
            return torch.tensor([x + [value] * (length - len(x)) for x in lists])

        ids = padded([row.ids for row in rows], self.pad)
        return {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            "mm_token_type_ids": (ids == self.image_token).long(),
            "labels": padded([row.labels for row in rows], -100),
            "pointers": torch.tensor([(b, *p) for b, row in enumerate(rows) for p in row.pointers]).view(
                -1, 6
            ),
            "box_pointers": torch.tensor([(b, *p) for b, r in enumerate(rows) for p in r.box_pointers]).view(
                -1, 6
            ),
            **pixel_values(self.processor, [image for lesson in lessons for image in lesson.images]),
        }


def make_lessons(
    progress: float, rng: np.random.Generator, n: int, soft: bool = False
) -> tuple[str, list[Lesson]]:
    """One task's batch for a point of the training (0 to 1): first the skill, then all."""
    skill = progress < SKILL_SHARE
    mix = SKILL_MIX if skill else FULL_MIX
    task = str(rng.choice(list(mix), p=np.array(list(mix.values())) / sum(mix.values())))
    name, k = task[:-1], int(task[-1])
    options: dict[str, Any] = {"split": "train", "generic": 0.6, "hard": 0.1 if skill else 0.3}
    if name == "cap":
        options["habit"] = None if skill else SOFT_HABIT if soft else HABIT
    return task, [LESSONS[name](k, rng, **options) for _ in range(n)]


def _prepare_pointer(model: Any) -> None:
    """Head 0 of the pointer layer starts out as a copier: attends by likeness, passes on what it finds."""
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
    """Cross-entropy on answers (names weigh 3) plus `aux` times pointer and probe; and what to log."""
    import torch
    from torch.nn.functional import cross_entropy

    labels, pointers, boxes = batch.pop("labels")[:, 1:], batch.pop("pointers"), batch.pop("box_pointers")
    use_pointer, use_boxes = aux > 0 and len(pointers) > 0, aux > 0 and box_pointer and len(boxes) > 0
    look = use_pointer or use_boxes
    out = model.model(**batch, use_cache=False, output_attentions=look, output_hidden_states=look)
    mask = labels != -100
    target = labels[mask]
    logits = model.lm_head(out.last_hidden_state[:, :-1][mask]).float()
    loss = cross_entropy(logits, target, reduction="none")
    for column in encoder.numbers.unbind(1):  # coordinates: neighbours are nearly right
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
    """Train the whole model in place; logs to ``out/language.jsonl``, resumes from ``out/language.pt``."""
    import torch

    encoder = Encoder(processor)
    torch.manual_seed(seed)
    probe = torch.nn.Linear(HIDDEN, sum(len(a) for a in ATTRIBUTES))
    _prepare_pointer(model)
    model.model.language_model.config._attn_implementation = "eager"  # the pointer loss reads attentions
    tower = [p for n, p in model.named_parameters() if "visual" in n and "merger" not in n]
    rest = [p for n, p in model.named_parameters() if "visual" not in n or "merger" in n] + list(
        probe.parameters()
    )
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        {"params": tower, "weight_decay": 0.02, "lr": lr * 0.3},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1, (s + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1, s / steps)))),
    )
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
        aux = min(1.0, max(0.0, 4 * (1 - step / steps)))  # fades over the last quarter
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
    """Both phases; `work` keeps logs and checkpoints, `out` gets the model in the ordinary layout."""
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
