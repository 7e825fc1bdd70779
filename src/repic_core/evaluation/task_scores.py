"""How well a model does the two tasks beside captions on held-out rows: OCT (same object?) and VLT (where?).

The model is asked as in training (`prompts.task_messages`) and answers greedily. `locate` uses the second skill.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.data.rows import TrainingExample
from repic_core.evaluation.intervals import Interval, mean_interval
from repic_core.io.images import open_image
from repic_core.models.boxes import iou, to_original_frame
from repic_core.models.families import FAMILIES
from repic_core.prompts import VLT_QUESTION, task_messages
from repic_core.rewards import IOU_THRESHOLD, oct_reward, stated_box
from repic_core.tasks import OCT, TASKS, VLT


def score_tasks(
    model: Any,
    processor: Any,
    rows: Sequence[TrainingExample],
    root: str | Path = ".",
    batch_size: int = 8,
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """OCT accuracy, VLT mean IoU and VLT share of boxes with an IoU of at least 0.5, with 95% intervals.

    An answer counts as under the strict rewards: a clear yes or no, exactly one box (else its IoU is 0). Rows
    of the same images are drawn together for the intervals.

    Args:
        rows: of the methods ``yes_no`` and ``iou``; solutions of ``iou`` in the frame that the model sees.
        root: the folder that the rows' image paths are relative to.

    Returns:
        ``{"oct", "vlt_iou", "vlt_hit"}`` as `Interval` (None where there is no such row), and ``"n"``, the
        number of rows of each method, ``{"yes_no": int, "iou": int}``.

    Raises:
        ValueError: there is no row, a row of another method, or an image that can't be read (named).
    """
    if not rows:
        raise ValueError("rows: there is none to score")
    for row in rows:
        if row.method not in (OCT, VLT):
            name = TASKS[row.method].label if row.method in TASKS else row.method
            raise ValueError(
                f"rows: one is of {name} ({row.method}), but only yes_no and iou are scored here"
            )
    answers = answer_rows(model, processor, rows, root, batch_size, max_new_tokens)
    pairs = list(zip(rows, answers, strict=True))
    right = [(row.images, oct_reward(text, row.solution)) for row, text in pairs if row.method == OCT]
    overlaps = [(row.images, box_overlap(text, row.solution)) for row, text in pairs if row.method == VLT]
    hits = [(images, float(value >= IOU_THRESHOLD)) for images, value in overlaps]
    scores = {"oct": _interval(right), "vlt_iou": _interval(overlaps), "vlt_hit": _interval(hits)}
    return {**scores, "n": {OCT: len(right), VLT: len(overlaps)}}


def box_overlap(answer: str, solution: Sequence[float]) -> float:
    """IoU of the one box in an answer with the solution's; 0 where there is none or several.

    >>> box_overlap("[0, 0, 10, 10]", [5, 0, 15, 10]), box_overlap("[0, 0, 9, 9] [0, 0, 9, 9]", [0, 0, 9, 9])
    (0.3333333333333333, 0.0)
    """
    box = stated_box(answer)
    return 0.0 if box is None else iou(box, solution)


def answer_rows(
    model: Any,
    processor: Any,
    rows: Sequence[TrainingExample],
    root: str | Path = ".",
    batch_size: int = 8,
    max_new_tokens: int = 64,
) -> list[str]:
    """The greedy answer to each row, in order; images are paths relative to `root`, or PIL images."""
    import torch

    rng, answers = random.Random(0), []
    options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    for start in range(0, len(rows), batch_size):
        texts, images = [], []
        for row in rows[start : start + batch_size]:
            messages = task_messages(row.images, row.problem, row.method, rng)
            texts.append(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
            paths = [Path(root) / image if isinstance(image, str) else image for image in row.images]
            images.append([open_image(path) for path in paths])
        inputs = processor(text=texts, images=images, padding=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)
        new = out[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in answers]


def locate(
    model: Any, processor: Any, photo: Any, concepts: Sequence[Concept]
) -> list[tuple[float, float, float, float] | None]:
    """Where the model says that each concept is in `photo` (path or PIL image), as boxes in its pixels.

    It is asked as in VLT, by the concept's info (its name where there is none), on the photo alone: references are
    not shown, so an info must tell the concept apart. None where the answer is not one box.

    Raises:
        ValueError: a photo that can't be read, or a control token in a text.
    """
    photo = open_image(photo)
    asked = [VLT_QUESTION.format(description=concept.info or concept.name) for concept in concepts]
    rows = [TrainingExample((photo,), text, [0, 0, 1, 1], VLT) for text in asked]
    frame, boxes = FAMILIES[model.config.model_type].frame, []
    for answer in answer_rows(model, processor, rows):
        box = stated_box(answer)
        whole = box and to_original_frame(box, photo.size, frame, processor.image_processor)
        proper = whole and whole[0] < whole[2] and whole[1] < whole[3]
        boxes.append(tuple(whole) if proper else None)
    return boxes


def _interval(pairs: Sequence[tuple[tuple[str, ...], float]]) -> Interval | None:
    return mean_interval([value for _, value in pairs], [images for images, _ in pairs]) if pairs else None
