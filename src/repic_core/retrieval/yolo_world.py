"""Upstream's regions: the boxes of YOLO-World (`detector.py`, lines 36-51), by the package `ultralytics`.

The package is an extra and under the AGPL-3.0, unlike this kit: who offers a service with it must offer its source.
Its weights are a pickle, which can run code when it is loaded: take the file from its makers. The kit fetches
neither them nor the package `clip`, which reads the categories; that one downloads its own weights (CLIP ViT-B/32)
when it is first used.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.io.extras import MissingExtra, need
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
        MissingExtra, ValueError: as `check_yolo_world`; or no concept has a category.
    """

    def __init__(self, weights: str | Path, labels: Sequence[str], device: str = "cpu") -> None:
        check_yolo_world(weights)
        need("ultralytics", extra="yolo-world")
        labels = sorted(set(labels) - {""})
        if not labels:
            raise ValueError("a detector needs labels: give the concepts a category")
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # else it installs packages by itself
        from ultralytics import YOLOWorld

        self._model, self._device = YOLOWorld(str(weights)), device
        self._model.set_classes(labels)

    def __call__(self, photo: Any) -> list[Box]:
        options = {"conf": DETECTION_THRESHOLD, "device": self._device, "save": False, "verbose": False}
        found = self._model.predict(source=photo, **options)[0].boxes.xyxy.tolist()
        return [box_inside(box, photo) for box in found]


def check_yolo_world(weights: str | Path) -> None:
    """Check that all that `YoloWorld` needs is there, before anything else is loaded.

    Raises:
        MissingExtra: `ultralytics` or `clip` is not installed.
        ValueError: there is no file `weights`.
    """
    need("ultralytics", extra="yolo-world")
    if importlib.util.find_spec("clip") is None:
        raise MissingExtra(
            "YOLO-World reads categories with the package clip, which is not installed and not on PyPI: "
            "pip install git+https://github.com/ultralytics/CLIP.git"
        )
    if not Path(weights).is_file():
        raise ValueError(
            f"{weights}: no such file: take {WEIGHTS} from github.com/ultralytics/assets/releases and give its "
            "path (it is not downloaded by itself)"
        )
