"""What the toy base can do on held-out toys: recognise, answer yes or no, find boxes, name in captions."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from repic_core.models.parts import eval_mode
from repic_core.toyworld.encoder import Encoder
from repic_core.toyworld.lessons import LESSONS, Lesson
from repic_core.toyworld.recognition import pixel_values


def answers(
    model: Any, processor: Any, lessons: list[Lesson], max_new_tokens: int = 64, batch: int = 64
) -> list[str]:
    """Greedy answers to the first turn of each lesson."""
    import torch

    encoder, texts = Encoder(processor), []
    for start in range(0, len(lessons), batch):
        some = lessons[start : start + batch]
        images = [lesson.images[: lesson.turns[0][0].count("<image>")] for lesson in some]
        prompts = [encoder.user_turn(x.turns[0][0], own) for x, own in zip(some, images, strict=True)]
        inputs = processor.tokenizer(prompts, padding=True, return_tensors="pt")
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == encoder.image_token).long()
        pixels = pixel_values(processor.image_processor, [image for own in images for image in own])
        with eval_mode(model), torch.no_grad():
            out = model.generate(**inputs, **pixels, max_new_tokens=max_new_tokens, do_sample=False)
        texts += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def box_iou(answer: str, truth: str) -> float:
    """IoU of the box in an answer with the true one (end-exclusive pixels); 0 if there is no box."""
    found = re.fullmatch(r"\[(\d+), (\d+), (\d+), (\d+)\]", answer)
    if not found:
        return 0.0
    a, b = [int(v) for v in found.groups()], json.loads(truth)
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, wide) * max(0, high)
    area = [max(0, x[2] - x[0]) * max(0, x[3] - x[1]) for x in (a, b)]
    return both / (sum(area) - both) if both else 0.0


def measure_skills(
    model: Any, processor: Any, split: str = "test", n: int = 200, seed: int = 0
) -> dict[str, float]:
    """Shares of right answers (boxes: mean IoU; captions: F1 of names), each over `n` new samples of `split`.

    "who 4" and "place 4" are one question with four references. "caption k" has `k` references, of which 1 to `k`
    are shown; "caption 4 all" shows all four. Infos are generic, so that toys can be told apart only by sight.
    """
    table: dict[str, float] = {}
    cases = [("who", 2), ("who", 4), ("place", 2), ("place", 4), ("oct", 1), ("vlt", 4), ("describe", 4)]
    for name, k in cases:
        rng = np.random.default_rng([seed, 40, k, len(name)])
        options = {"split": split}
        if name != "oct":
            options["generic"] = 1.0
        lessons = [LESSONS[name](k, rng, **options) for _ in range(n)]
        said = answers(model, processor, lessons)
        right = [x.turns[0][1] for x in lessons]
        score = [box_iou(s, r) if name == "vlt" else float(s == r) for s, r in zip(said, right, strict=True)]
        table[f"{name} {k}"] = float(np.mean(score))
    for k, shown in ((1, 1), (2, None), (3, None), (4, None), (4, 4)):
        rng = np.random.default_rng([seed, 41, k, shown or 0])
        lessons = [LESSONS["cap"](k, rng, None, split=split, generic=1.0, n_shown=shown) for _ in range(n)]
        hits = named = real = 0
        for lesson, text in zip(lessons, answers(model, processor, lessons), strict=True):
            truth, said = re.findall(r"<\w+>", lesson.turns[0][1]), re.findall(r"<\w+>", text)
            hits += len(set(truth) & set(said))
            named, real = named + len(said), real + len(truth)
        table[f"caption {k}{' all' if shown == 4 else ''}"] = 2 * hits / max(1, named + real)
    return {key: round(value, 3) for key, value in table.items()}
