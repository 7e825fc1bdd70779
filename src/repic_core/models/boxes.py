"""Boxes: as models write them, from the frame of the original photo to the model's frame and back, their overlap.

A model answers in the frame of its family (`families.FAMILIES`), so a VLT solution must be given in that frame.
(Upstream does not convert: its boxes are those of the original file, whatever the processor's resize does.)

- ``resized``: Qwen2.5-VL; absolute pixels of the photo as the processor resizes it;
- ``thousandths``: Qwen2-VL and Qwen3-VL; 0 to 1000 of the photo's width and height.

Boxes are ``(x1, y1, x2, y2)`` with the origin at the top left; x2 and y2 are exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from repic_core.models.answers import as_read

_NUMBER = r"[-+]?\d+(?:\.\d*)?"
_VALUE = rf"\s*[\"']?{_NUMBER}[\"']?\s*"
_POINT = rf"\({_VALUE},{_VALUE}\)"
# Four numbers in brackets, or a row of points.
_STATED = re.compile(
    rf"[\[(]{_VALUE},{_VALUE},{_VALUE},{_VALUE}(?:,\s*)?[\])]|{_POINT}(?:\s*(?:,\s*)?{_POINT})+"
)
_FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)}  # digits, brackets, commas as Chinese text has them


def stated_box(text: str) -> list[float] | None:
    """The one box in an answer; None if there is none, more than one (even twice the same), or an empty one.

    Read are ``[x1, y1, x2, y2]``, also in JSON and with quoted numbers (Qwen2.5-VL, Qwen3-VL), the same in round
    brackets, and ``(x1,y1),(x2,y2)`` with or without its special tokens (Qwen2-VL). Three or more points in a row
    are no box. Reasoning is not part of the answer.

    >>> stated_box("It is at [1, 2, 3, 4.5]."), stated_box("[1, 2, 3, 4] or [5, 6, 7, 8]")
    ([1.0, 2.0, 3.0, 4.5], None)
    >>> stated_box("<|object_ref_start|>the dog<|object_ref_end|><|box_start|>(140,99),(641,571)<|box_end|>")
    [140.0, 99.0, 641.0, 571.0]
    """
    stated = _STATED.findall(as_read(text)[0].translate(_FULL_WIDTH))
    values = [float(value) for value in re.findall(_NUMBER, stated[0])] if len(stated) == 1 else []
    return values if len(values) == 4 and values[0] < values[2] and values[1] < values[3] else None


def resized_size(width: int, height: int, image_processor: Any) -> tuple[int, int]:
    """(width, height) in pixels of a photo of this size after the processor's resize.

    Both are multiples of patch size x merge size, and their product respects the processor's limits on pixels.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    size = dict(image_processor.size)
    high, wide = smart_resize(
        height,
        width,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
    )
    return wide, high


def to_model_frame(
    box: Sequence[float], size: tuple[int, int], frame: str = "resized", image_processor: Any = None
) -> list[int]:
    """A box in original pixels as the model should state it: whole numbers inside the frame, at least 1 x 1.

    Args:
        size: (width, height) of the original photo in pixels.
        frame: ``resized`` (which needs the `image_processor`) or ``thousandths``.

    >>> to_model_frame([10, 20, 60, 80], (200, 400), "thousandths")
    [50, 50, 300, 200]

    Raises:
        ValueError: an unknown frame, or a box that is empty or not inside the photo.
    """
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]):
        raise ValueError(f"the box {list(box)} does not lie in a photo of {size[0]} x {size[1]} pixels")
    width, height = _extent(size, frame, image_processor)
    left, right = (round(x * width / size[0]) for x in (x1, x2))
    top, bottom = (round(y * height / size[1]) for y in (y1, y2))
    left, top = min(left, width - 1), min(top, height - 1)
    return [left, top, max(right, left + 1), max(bottom, top + 1)]


def to_original_frame(
    box: Sequence[float], size: tuple[int, int], frame: str = "resized", image_processor: Any = None
) -> list[float]:
    """A box that the model stated, in pixels of the original photo and clipped to it, for drawing."""
    width, height = _extent(size, frame, image_processor)
    x1, y1, x2, y2 = box
    xs = [min(max(x * size[0] / width, 0.0), float(size[0])) for x in (x1, x2)]
    ys = [min(max(y * size[1] / height, 0.0), float(size[1])) for y in (y1, y2)]
    return [xs[0], ys[0], xs[1], ys[1]]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes; 0 if one is empty.

    >>> iou([0, 0, 10, 10], [5, 0, 15, 10])
    0.3333333333333333
    """
    if not all(box[0] < box[2] and box[1] < box[3] for box in (a, b)):
        return 0.0
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - both)


def paper_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Upstream's IoU: in the overlap, x2 and y2 are one pixel less and inclusive; in the areas they are not.

    >>> paper_iou([0, 0, 10, 10], [0, 0, 10, 10]), paper_iou([0, 0, 10, 1], [0, 0, 10, 1])
    (1.0, 0.0)
    """
    x1, y1 = max(a[0], b[0]), max(a[1], b[1])
    x2, y2 = min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    both = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    areas = sum(max(0, box[2] - box[0]) * max(0, box[3] - box[1]) for box in (a, b))
    return both / max(1, areas - both)


def _extent(size: tuple[int, int], frame: str, image_processor: Any) -> tuple[int, int]:
    if frame == "thousandths":
        return 1000, 1000
    if frame != "resized":
        raise ValueError(f"frame {frame!r}: use 'resized' (Qwen2.5-VL) or 'thousandths' (Qwen2-VL, Qwen3-VL)")
    if image_processor is None:
        raise ValueError("the frame 'resized' needs the model's image processor")
    return resized_size(*size, image_processor)
