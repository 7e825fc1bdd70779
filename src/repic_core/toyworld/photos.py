"""Photos of the drawn world: references, which show one drawing, and scenes of 1 to 7.

No two views of a drawing are alike. It is mirrored, turned, larger or smaller, in another light, noisy, partly
covered or cut off at the edge, on a cluttered ground.

Images are RGB uint8 arrays (height, width, 3). Boxes are ``(x1, y1, x2, y2)`` in pixels of the scene, origin at the
top left, the end exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repic_core.toyworld.drawings import Drawing, picture

# Sides in pixels; multiples of 16, so that the processor keeps images as they are.
REFERENCE_SIDE, SCENE_SIDE = 48, 144
MOST_SHOWN = 7
# Sides of drawings, smallest and largest: in references, and in scenes by the number of concepts.
REFERENCE_SIDES = (34, 48)
SCENE_SIDES = {1: (40, 64), 2: (38, 60), 3: (36, 56), 4: (36, 52), 5: (34, 48), 6: (33, 44), 7: (32, 42)}
MOST_TURNED = 25  # degrees
# Colours of the upper and of the lower half.
BACKGROUNDS = {
    "green meadow": ((190, 220, 240), (150, 205, 130)),
    "sandy beach": ((170, 205, 235), (232, 214, 165)),
    "blue sea": ((200, 225, 245), (110, 160, 215)),
    "night sky": ((45, 45, 95), (75, 70, 100)),
    "snowy hill": ((185, 200, 220), (225, 230, 238)),
    "stone street": ((150, 140, 135), (115, 113, 110)),
    "red carpet": ((215, 190, 170), (190, 70, 70)),
    "wooden floor": ((235, 225, 205), (165, 115, 75)),
}
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A photo of several drawings: `boxes` has one for each. `depths` are larger for those in front."""

    image: np.ndarray
    background: str
    boxes: tuple[Box, ...]
    depths: tuple[int, ...]


def place_of(box: Sequence[float]) -> str:
    """The ninth of the scene in which the centre of a box is.

    >>> place_of((0, 0, 40, 40)), place_of((60, 50, 90, 90))
    ('top left', 'centre')
    """
    column, row = (int((box[i] + box[i + 2]) / 2 * 3 / SCENE_SIDE) for i in (0, 1))
    return PLACES[min(row, 2)][min(column, 2)]


def draw_reference(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """A photo of one drawing, uint8 (`REFERENCE_SIDE`, `REFERENCE_SIDE`, 3)."""
    pair = rng.uniform(60, 255, 3)
    canvas = _ground(REFERENCE_SIDE, pair, pair * rng.uniform(0.7, 1), rng)
    cut = _cut_out(drawing, int(rng.integers(REFERENCE_SIDES[0], REFERENCE_SIDES[1] + 1)), rng)
    spare = REFERENCE_SIDE - cut.shape[0]
    slack = 5 if rng.random() < 0.3 else 0  # cut off at the edge
    x, y = rng.integers(min(0, spare) - slack, max(0, spare) + slack + 1, 2)
    box = _paste(canvas, cut, int(x), int(y))
    if rng.random() < 0.25:
        _cover(canvas, box, rng)
    return _photo(canvas, rng)


def draw_scene(drawings: Sequence[Drawing], rng: np.random.Generator) -> Scene:
    """A scene of 1 to 7 drawings at free places; they overlap a little.

    Raises:
        ValueError: none, or more than `MOST_SHOWN`.
    """
    if not 1 <= len(drawings) <= MOST_SHOWN:
        raise ValueError(f"{len(drawings)} drawings: a scene shows 1 to {MOST_SHOWN}")
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    upper, lower = (np.array(color, np.float32) for color in BACKGROUNDS[background])
    canvas = _ground(SCENE_SIDE, upper, lower, rng)
    smallest, largest = SCENE_SIDES[len(drawings)]
    cuts = [_cut_out(one, int(rng.integers(smallest, largest + 1)), rng) for one in drawings]
    corners = _corners([cut.shape[0] for cut in cuts], rng)
    depths = rng.permutation(len(drawings)).tolist()
    boxes: list[Any] = [None] * len(drawings)
    for i in sorted(range(len(drawings)), key=depths.__getitem__):
        boxes[i] = _paste(canvas, cuts[i], *corners[i])
        if rng.random() < 0.15:
            _cover(canvas, boxes[i], rng)
    return Scene(_photo(canvas, rng), background, tuple(boxes), tuple(depths))


def _ground(side: int, upper: Any, lower: Any, rng: np.random.Generator) -> np.ndarray:
    """Two halves, lit from one side, with clutter and soft noise: float32 (side, side, 3)."""
    from PIL import Image, ImageDraw

    canvas = np.empty((side, side, 3), np.float32)
    horizon = int(side * rng.uniform(0.35, 0.65))
    canvas[:horizon], canvas[horizon:] = upper, lower
    image = Image.fromarray(canvas.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 3 + side // 12)):
        x, y = rng.integers(0, side, 2).tolist()
        wide, high = rng.integers(3, 4 + side // 5, 2).tolist()
        near = canvas[min(y, side - 1), 0]
        color = tuple(int(v) for v in (near + rng.normal(0, 28, 3)).clip(0, 255))
        shape = (pen.ellipse, pen.rectangle, pen.line)[rng.integers(3)]
        shape((x, y, x + wide, y + high), fill=color)
    canvas = np.asarray(image, np.float32) + rng.normal(0, 6, (side // 4, side // 4, 3)).repeat(4, 0).repeat(
        4, 1
    )
    slope = np.linspace(-1, 1, side, dtype=np.float32) * rng.uniform(-20, 20)
    return (canvas + slope[None, :, None]).astype(np.float32)


def _cut_out(drawing: Drawing, side: int, rng: np.random.Generator) -> np.ndarray:
    """The drawing as it is seen this time, float32 (side, side, 4), opacity in [0, 1] last."""
    from PIL import Image

    image = picture(drawing)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = rng.uniform(-MOST_TURNED, MOST_TURNED)
    image = image.rotate(turned, resample=Image.Resampling.BILINEAR, expand=True)
    seen = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32).copy()
    seen[..., 3] /= 255
    light = rng.uniform(0.95, 1.05, 3) * rng.uniform(0.8, 1.12)
    seen[..., :3] = (seen[..., :3] - 128) * rng.uniform(0.85, 1.1) + 128
    seen[..., :3] *= light
    return seen


def _corners(sides: list[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Top left corners for squares of these sides: at random, such that no two overlap by more than a little."""
    while True:
        corners: list[tuple[int, int]] = []
        for side in sides:
            for _ in range(60):
                slack = side // 6 if rng.random() < 0.15 else 0  # cut off at the edge
                x, y = rng.integers(-slack, SCENE_SIDE - side + slack + 1, 2).tolist()
                if all(_overlap(x, y, side, *other) < 0.18 for other in zip(corners, sides, strict=False)):
                    corners.append((x, y))
                    break
        if len(corners) == len(sides):
            return corners


def _overlap(x: int, y: int, side: int, other: tuple[int, int], other_side: int) -> float:
    """The area that two squares share, over that of the smaller."""
    wide = min(x + side, other[0] + other_side) - max(x, other[0])
    high = min(y + side, other[1] + other_side) - max(y, other[1])
    return max(0, wide) * max(0, high) / min(side, other_side) ** 2


def _paste(canvas: np.ndarray, cut: np.ndarray, x: int, y: int) -> Box:
    """Put a cut-out on the canvas, what lies outside cut off; returns the box of what is seen."""
    side, whole = cut.shape[0], canvas.shape[0]
    left, top, right, bottom = max(0, x), max(0, y), min(whole, x + side), min(whole, y + side)
    seen = cut[top - y : bottom - y, left - x : right - x]
    area, alpha = canvas[top:bottom, left:right], seen[..., 3:]
    area[:] = area * (1 - alpha) + seen[..., :3] * alpha
    solid = seen[..., 3] > 0.3
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        return left, top, right, bottom
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1] + 1), int(top + rows[-1] + 1)


def _cover(canvas: np.ndarray, box: Box, rng: np.random.Generator) -> None:
    """Cover a part of a box, at most a sixth of its area, by a plain rectangle."""
    x1, y1, x2, y2 = box
    wide, high = (max(3, int((end - start) * rng.uniform(0.2, 0.4))) for start, end in ((x1, x2), (y1, y2)))
    x, y = (
        int(rng.integers(x1, max(x1 + 1, x2 - wide + 1))),
        int(rng.integers(y1, max(y1 + 1, y2 - high + 1))),
    )
    canvas[y : y + high, x : x + wide] = rng.uniform(30, 240, 3)


def _photo(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, rng.uniform(1, 7), canvas.shape)
    return (canvas * rng.uniform(0.88, 1.08) + noise).clip(0, 255).astype(np.uint8)
