"""Boxes between the frame of the original photo and the frame that the model sees.

A model answers in the frame of its family (`families.FAMILIES`), so a VLT solution must be given in it (upstream skips this: its boxes are those
of the original file, whatever the processor's resize does):

- ``resized``: Qwen2.5-VL; absolute pixels of the photo as the processor resizes it;
- ``thousandths``: Qwen2-VL and Qwen3-VL; 0 to 1000 of the photo's width and height.

Boxes are ``(x1, y1, x2, y2)``, origin at the top left, end exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def resized_size(width: int, height: int, image_processor: Any) -> tuple[int, int]:
    """(width, height) in pixels of a photo of this size after the processor's resize: multiples of patch x merge
    size, within its limits on pixels."""
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
    """A box in original pixels as the model is to say it: rounded to whole numbers, inside the frame, and at
    least one wide and high.

    Args:
        size: (width, height) of the original photo in pixels.
        frame: ``resized`` (which needs the `image_processor`) or ``thousandths``.

    >>> to_model_frame([10, 20, 60, 80], (200, 400), "thousandths")
    [50, 50, 300, 200]

    Raises:
        ValueError: an unknown frame, or a box that is degenerate or not inside the photo.
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
    """A box as the model said it, in pixels of the original photo (clipped to it): for drawing."""
    width, height = _extent(size, frame, image_processor)
    x1, y1, x2, y2 = box
    xs = [min(max(x * size[0] / width, 0.0), float(size[0])) for x in (x1, x2)]
    ys = [min(max(y * size[1] / height, 0.0), float(size[1])) for y in (y1, y2)]
    return [xs[0], ys[0], xs[1], ys[1]]


def _extent(size: tuple[int, int], frame: str, image_processor: Any) -> tuple[int, int]:
    if frame == "thousandths":
        return 1000, 1000
    if frame != "resized":
        raise ValueError(f"frame {frame!r}: use 'resized' (Qwen2.5-VL) or 'thousandths' (Qwen2-VL, Qwen3-VL)")
    if image_processor is None:
        raise ValueError("the frame 'resized' needs the model's image processor")
    return resized_size(*size, image_processor)
