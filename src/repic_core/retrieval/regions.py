"""Regions of a photo in which to look for concepts: boxes of a zero-shot object detector, tiles, or all of it.

Boxes are ``(x1, y1, x2, y2)`` in pixels of the photo, origin at the top left, end exclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repic_core.models.toys import is_toy_model

Box = tuple[int, int, int, int]
DETECTION_THRESHOLD = 0.1  # upstream's confidence (`detector.py`, YOLO-World)


def whole(photo: Any) -> list[Box]:
    """The whole photo as one region."""
    return [(0, 0, photo.width, photo.height)]


def tiles(photo: Any, across: int = 2, overlap: float = 0.0) -> list[Box]:
    """Windows of one size that cover a photo, row by row: for photos of several things, without a detector.

    Args:
        across: windows in a row if they did not overlap.
        overlap: least share of a window, in [0, 1), that the next one repeats.

    >>> from PIL import Image
    >>> tiles(Image.new("RGB", (100, 60)))
    [(0, 0, 50, 30), (50, 0, 100, 30), (0, 30, 50, 60), (50, 30, 100, 60)]
    """
    if not (across >= 1 and 0 <= overlap < 1):
        raise ValueError(f"tiles need across >= 1 and overlap in [0, 1), not {across} and {overlap}")
    wide, high = photo.width / across, photo.height / across
    count = math.ceil((across - 1) / (1 - overlap) - 1e-9) + 1
    steps = [(across - 1) * i / max(1, count - 1) for i in range(count)]
    return [
        (round(x * wide), round(y * high), round((x + 1) * wide), round((y + 1) * high))
        for y in steps
        for x in steps
    ]


def windows(scene: Any) -> list[Box]:
    """Windows of a drawing's size, each half over the next: 5 x 5 of 48 pixels in a scene of the toy world."""
    return tiles(scene, across=3, overlap=0.5)


def regions_for(model: Any) -> Callable[[Any], list[Box]]:
    """Where to look without a detector: `windows` if `model` knows the toy world only, otherwise `tiles`."""
    return windows if is_toy_model(model) else tiles


class Detector:
    """A zero-shot object detector of `transformers` (OWL-ViT, OWLv2, Grounding DINO): a name on the hub or a
    local folder, safetensors only.

    Called with a photo, it gives the boxes of `labels` (a database's categories), best first. If it finds none, it
    gives the whole photo.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        labels: Sequence[str],
        threshold: float = DETECTION_THRESHOLD,
        most: int = 20,
        device: str = "cpu",
    ) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        labels = sorted({label.strip().lower() for label in labels} - {""})
        if not labels:
            raise ValueError("a detector needs labels: give the concepts a category")
        options = {"trust_remote_code": False}
        try:
            self._processor = AutoProcessor.from_pretrained(name_or_path, **options)
            self._model = AutoModelForZeroShotObjectDetection.from_pretrained(
                name_or_path, use_safetensors=True, **options
            )
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:240]
            raise ValueError(f"{name_or_path}: can't be loaded as a zero-shot detector ({reason})") from None
        self._model = self._model.to(device).eval()
        self._labels, self._threshold, self._most = labels, threshold, most

    def __call__(self, photo: Any) -> list[Box]:
        import torch

        inputs = self._processor(images=photo, text=[self._labels], return_tensors="pt").to(
            self._model.device
        )
        with torch.inference_mode():
            out = self._model(**inputs)
        found = self._processor.post_process_grounded_object_detection(
            out, threshold=self._threshold, target_sizes=[(photo.height, photo.width)]
        )[0]
        best = found["scores"].argsort(descending=True)[: self._most]
        boxes = [box_inside(box, photo) for box in found["boxes"][best].tolist()]
        return [box for box in dict.fromkeys(boxes) if box[0] < box[2] and box[1] < box[3]] or whole(photo)


def box_inside(box: Sequence[float], photo: Any) -> Box:
    """A detector's box in whole pixels, without what lies outside the photo."""
    x1, x2 = (round(min(max(x, 0), photo.width)) for x in (box[0], box[2]))
    y1, y2 = (round(min(max(y, 0), photo.height)) for y in (box[1], box[3]))
    return x1, y1, x2, y2
