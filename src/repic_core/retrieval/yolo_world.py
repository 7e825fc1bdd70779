"""Upstream's regions: the boxes of YOLO-World (`detector.py`, lines 36-51), by the package `ultralytics`.

The package is an extra and under the AGPL-3.0, unlike this kit: who offers a service with it must offer its source.
Its weights are a pickle, which can run code when it is loaded: take the file from its makers. The kit downloads
neither; the package itself fetches its text encoder (CLIP ViT-B/32) when classes are first set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.io.extras import need
from repic_core.retrieval.regions import DETECTION_THRESHOLD, Box, box_inside

WEIGHTS = "yolov8x-worldv2.pt"  # upstream's (`detector.py`, line 38)


class YoloWorld:
    """YOLO-World, asked for a database's categories; called with a photo, it gives their boxes, best first, or
    none.

    Args:
        weights: a file, such as `WEIGHTS`.
        labels: the categories of all concepts (`caption_eval_multi_2.py`, lines 91-92).
        device: as torch names it.

    Raises:
        MissingExtra: `ultralytics` is not installed.
        ValueError: there is no such file, or no concept has a category.
    """

    def __init__(self, weights: str | Path, labels: Sequence[str], device: str = "cpu") -> None:
        need("ultralytics", extra="yolo-world")
        if not Path(weights).is_file():
            raise ValueError(
                f"{weights}: no such file: take {WEIGHTS} from github.com/ultralytics/assets/releases "
                "and give its path (nothing is downloaded by itself)"
            )
        labels = sorted(set(labels) - {""})
        if not labels:
            raise ValueError("a detector needs labels: give the concepts a category")
        from ultralytics import YOLOWorld

        self._model, self._device = YOLOWorld(str(weights)), device
        self._model.set_classes(labels)

    def __call__(self, photo: Any) -> list[Box]:
        options = {"conf": DETECTION_THRESHOLD, "device": self._device, "save": False, "verbose": False}
        found = self._model.predict(source=photo, **options)[0].boxes.xyxy.tolist()
        return [box_inside(box, photo) for box in found]
