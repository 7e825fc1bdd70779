"""A stand-in for the packages `ultralytics` and `clip`, which notes its calls and detects what it is told to."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch


def install(monkeypatch: Any) -> SimpleNamespace:
    """Make the stand-in importable; returns its notes: `boxes` to detect, `weights`, `classes`, `options`."""
    notes = SimpleNamespace(boxes=[], weights=None, classes=None, options=None)

    class YOLOWorld:
        def __init__(self, weights):
            notes.weights = weights

        def set_classes(self, classes):
            notes.classes = classes

        def predict(self, **options):
            notes.options = options
            found = torch.tensor(notes.boxes, dtype=torch.float32).reshape(-1, 4)
            return [SimpleNamespace(boxes=SimpleNamespace(xyxy=found))]

    module = SimpleNamespace(YOLOWorld=YOLOWorld, __spec__=SimpleNamespace(name="ultralytics"))
    monkeypatch.setitem(sys.modules, "ultralytics", module)
    monkeypatch.setitem(sys.modules, "clip", SimpleNamespace(__spec__=SimpleNamespace(name="clip")))
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    return notes
