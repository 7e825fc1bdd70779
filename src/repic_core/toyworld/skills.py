"""What the toy base can do on held-out toys: recognise, answer yes or no, find boxes, name in captions."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from repic_core.models.boxes import iou
from repic_core.models.parts import eval_mode
from repic_core.toyworld.encoder import Encoder
from repic_core.toyworld.lessons import LESSONS, Lesson
from repic_core.toyworld.recognition import pixel_values

HARD = 0.3  # how often the next drawing of a sample is a sibling, if not always


def answers(
    model: Any, processor: Any, lessons: list[Lesson], max_new_tokens: int = 112, batch: int = 64
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
    return iou([int(value) for value in found.groups()], json.loads(truth))


def measure_skills(
    model: Any, processor: Any, split: str = "test", n: int = 200, seed: int = 0
) -> dict[str, float]:
    """Shares of right answers (boxes: mean IoU; captions: F1 of names), each over `n` new samples of `split`.

    "who 4" and "place 4" are one question with four references; those of "who 4 siblings" are of one subgroup, such
    as four birds. "caption k" has `k` references, of which 1 to `k` are shown; "caption 4 all" shows all four,
    "caption 4 siblings" two of four siblings. Infos are generic, so that drawings can be told apart only by sight.
    """
    table: dict[str, float] = {}
    cases = [("who", 2), ("who", 4), ("who", 7), ("place", 4), ("place", 7), ("oct", 1), ("vlt", 4)]
    for name, k, hard in [(*case, HARD) for case in cases] + [("who", 4, 1.0), ("who", 7, 1.0)]:
        rng = np.random.default_rng([seed, 40, k, len(name)])
        options = {"split": split, "hard": hard}
        if name != "oct":
            options["generic"] = 1.0
        lessons = [LESSONS[name](k, rng, **options) for _ in range(n)]
        said = answers(model, processor, lessons)
        right = [x.turns[0][1] for x in lessons]
        score = [box_iou(s, r) if name == "vlt" else float(s == r) for s, r in zip(said, right, strict=True)]
        table[f"{name} {k}{' siblings' if hard == 1 else ''}"] = float(np.mean(score))
    sets = [
        (1, 1, HARD),
        (2, None, HARD),
        (4, None, HARD),
        (7, None, HARD),
        (4, 4, HARD),
        (7, 7, HARD),
        (4, 2, 1.0),
    ]
    for k, shown, hard in sets:
        rng = np.random.default_rng([seed, 41, k, shown or 0])
        options = {"split": split, "generic": 1.0, "n_shown": shown, "hard": hard}
        lessons = [LESSONS["cap"](k, rng, None, **options) for _ in range(n)]
        hits = named = real = 0
        for lesson, text in zip(lessons, answers(model, processor, lessons), strict=True):
            truth, said = re.findall(r"<\w+>", lesson.turns[0][1]), re.findall(r"<\w+>", text)
            hits += len(set(truth) & set(said))
            named, real = named + len(said), real + len(truth)
        kind = " siblings" if hard == 1 else " all" if shown == k > 1 else ""
        table[f"caption {k}{kind}"] = 2 * hits / max(1, named + real)
    return {key: round(value, 3) for key, value in table.items()}
