"""How well a model does the two tasks other than captions on held-out rows: OCT (same object?) and VLT (where?).

The model is asked as in training (`prompts.task_messages`) and answers greedily. `locate` finds concepts by VLT.
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
from repic_core.models.boxes import iou, stated_box, to_original_frame
from repic_core.models.families import FAMILIES
from repic_core.models.parts import eval_mode
from repic_core.prompts import VLT_QUESTION, task_messages
from repic_core.rewards import IOU_THRESHOLD, oct_reward
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

    Answers are judged as by the strict rewards: a clear yes or no, and exactly one box (otherwise the IoU is 0).
    Rows of the same images are drawn together for the intervals.

    Args:
        rows: of the methods ``yes_no`` and ``iou``; solutions of ``iou`` are in the frame that the model sees.
        root: the folder that the rows' image paths are relative to.

    Returns:
        ``{"oct", "vlt_iou", "vlt_hit"}`` as `Interval` (None if there are no such rows), and ``"n"``, the number of
        rows of each method, ``{"yes_no": int, "iou": int}``.

    Raises:
        ValueError: there are no rows, a row is of another method, or an image can't be read (names it).
    """
    if not rows:
        raise ValueError("rows: there are none to score")
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
    """IoU of the box in an answer with the solution's; 0 if the answer has no box, or more than one.

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
    """The greedy answer to each row, in order, in eval mode; images are paths relative to `root`, or PIL images."""
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
        shown = images if any(images) else None  # the processor takes no batch without any photo
        inputs = processor(text=texts, images=shown, padding=True, return_tensors="pt").to(model.device)
        with eval_mode(model), torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)
        new = out[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in answers]


def locate(
    model: Any, processor: Any, photo: Any, concepts: Sequence[Concept]
) -> list[tuple[float, float, float, float] | None]:
    """The box in which the model sees each concept in `photo` (path or PIL image), in the photo's pixels.

    The model is asked as in VLT, by the concept's info (or its name, if it has no info), about the photo alone.
    References are not shown, so the info must distinguish the concept. None if the answer is not one box.

    Raises:
        ValueError: the photo can't be read, or a text holds a control token.
    """
    photo = open_image(photo)
    asked = [VLT_QUESTION.format(description=concept.info or concept.name) for concept in concepts]
    rows = [TrainingExample((photo,), text, [0, 0, 1, 1], VLT) for text in asked]
    frame, boxes = FAMILIES[model.config.model_type].frame, []
    for answer in answer_rows(model, processor, rows):
        box = stated_box(answer)
        if box is not None:
            box = to_original_frame(box, photo.size, frame, processor.image_processor)
        proper = box is not None and box[0] < box[2] and box[1] < box[3]
        boxes.append(tuple(box) if proper else None)
    return boxes


def _interval(pairs: Sequence[tuple[tuple[str, ...], float]]) -> Interval | None:
    return mean_interval([value for _, value in pairs], [images for images, _ in pairs]) if pairs else None
