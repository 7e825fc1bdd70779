"""Pictures of the toy world: sprites of shape x colour x pattern, reference photos and scenes.

Images are RGB uint8 arrays (height, width, 3). Boxes are ``(x1, y1, x2, y2)`` in pixels of the scene,
origin at the top left, the end exclusive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

# Pixels; multiples of 16, so that the processor keeps images as they are.
REFERENCE_SIZE, SCENE_SIZE = 32, 96
# Sizes of sprites in pixels.
REFERENCE_SPRITES, SCENE_SPRITES = (24, 26, 28, 30), (30, 33, 36, 39, 42)

SHAPES = ("ball", "box", "tent", "star", "gem", "heart", "cross", "moon", "ring", "cat", "tree", "fish")
COLORS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 50),
    "green": (40, 160, 60),
    "cyan": (70, 210, 220),
    "blue": (40, 70, 215),
    "purple": (140, 50, 190),
    "pink": (245, 140, 190),
    "brown": (125, 75, 40),
    "gray": (150, 150, 150),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "split")
# Colours of the upper and of the lower half.
BACKGROUNDS = {
    "green meadow": ((190, 220, 240), (150, 205, 130)),
    "sandy beach": ((170, 205, 235), (232, 214, 165)),
    "blue sea": ((200, 225, 245), (110, 160, 215)),
    "night sky": ((40, 40, 75), (60, 55, 70)),
    "snowy hill": ((205, 215, 225), (240, 244, 250)),
    "stone street": ((150, 140, 135), (115, 113, 110)),
}
PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Toy:
    """One identity: what a reference photo shows."""

    shape: str
    color: str
    pattern: str

    @property
    def description(self) -> str:
        return f"a {self.pattern} {self.color} {self.shape}"


IDENTITIES = tuple(Toy(s, c, p) for s in SHAPES for c in COLORS for p in PATTERNS)


def _mask(shape: str, n: int) -> Any:
    from PIL import Image, ImageDraw

    image = Image.new("L", (n, n), 0)
    draw = ImageDraw.Draw(image)

    def ellipse(a: float, b: float, c: float, d: float, fill: int = 255) -> None:
        draw.ellipse([a * n, b * n, c * n, d * n], fill=fill)

    def polygon(*points: tuple[float, float]) -> None:
        draw.polygon([(x * n, y * n) for x, y in points], fill=255)

    def rectangle(a: float, b: float, c: float, d: float) -> None:
        draw.rectangle([a * n, b * n, c * n, d * n], fill=255)

    if shape == "ball":
        ellipse(0.04, 0.04, 0.96, 0.96)
    elif shape == "box":
        rectangle(0.08, 0.08, 0.92, 0.92)
    elif shape == "tent":
        polygon((0.5, 0.04), (0.97, 0.95), (0.03, 0.95))
    elif shape == "star":
        corners = []
        for i in range(10):
            radius, angle = 0.5 if i % 2 == 0 else 0.21, i * math.pi / 5
            corners.append((0.5 + radius * math.sin(angle), 0.52 - radius * math.cos(angle)))
        polygon(*corners)
    elif shape == "gem":
        polygon((0.5, 0.02), (0.9, 0.5), (0.5, 0.98), (0.1, 0.5))
    elif shape == "heart":
        ellipse(0.04, 0.08, 0.53, 0.57)
        ellipse(0.47, 0.08, 0.96, 0.57)
        polygon((0.07, 0.43), (0.93, 0.43), (0.5, 0.97))
    elif shape == "cross":
        rectangle(0.34, 0.04, 0.66, 0.96)
        rectangle(0.04, 0.34, 0.96, 0.66)
    elif shape == "moon":
        ellipse(0.04, 0.04, 0.96, 0.96)
        ellipse(0.38, 0.0, 1.1, 0.8, fill=0)
    elif shape == "ring":
        ellipse(0.04, 0.04, 0.96, 0.96)
        ellipse(0.32, 0.32, 0.68, 0.68, fill=0)
    elif shape == "cat":
        ellipse(0.08, 0.22, 0.92, 0.98)
        polygon((0.1, 0.02), (0.45, 0.3), (0.1, 0.6))
        polygon((0.9, 0.02), (0.55, 0.3), (0.9, 0.6))
    elif shape == "tree":
        rectangle(0.4, 0.6, 0.6, 0.98)
        ellipse(0.12, 0.02, 0.88, 0.7)
    elif shape == "fish":
        ellipse(0.02, 0.25, 0.75, 0.75)
        polygon((0.62, 0.5), (0.98, 0.15), (0.98, 0.85))
    return image


@cache
def _layers(shape: str, pattern: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Opacity and share of the second colour, float32 (size, size, 1) in [0, 1]; both are drawn four times as large
    and averaged."""
    from PIL import Image, ImageDraw

    n = size * 4
    marks = Image.new("L", (n, n), 0)
    draw = ImageDraw.Draw(marks)
    if pattern == "striped":
        for i in range(4):
            draw.rectangle([0, n * (0.13 + 0.25 * i), n, n * (0.24 + 0.25 * i)], fill=255)
    elif pattern == "dotted":
        for i in range(4):
            for j in range(4):
                x, y, r = n * (0.14 + 0.24 * i), n * (0.14 + 0.24 * j), 0.075 * n
                draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
    elif pattern == "checked":
        for i in range(4):
            for j in range(4):
                if (i + j) % 2:
                    draw.rectangle([n * i / 4, n * j / 4, n * (i + 1) / 4, n * (j + 1) / 4], fill=255)
    elif pattern == "split":
        draw.rectangle([n * 0.5, 0, n, n], fill=255)
    small = [layer.resize((size, size), Image.BOX) for layer in (_mask(shape, n), marks)]
    alpha, share = (np.asarray(layer, np.float32)[..., None] / 255 for layer in small)
    return alpha, share


def toy_colors(toy: Toy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The main colour of a toy and that of its marks: paler for dark toys, darker for pale ones."""
    color = COLORS[toy.color]
    dark = sum(color) < 480
    return color, tuple(int(255 - (255 - v) * 0.25) if dark else int(v * 0.35) for v in color)


def _background(size: int, upper: Any, lower: Any, rng: np.random.Generator) -> np.ndarray:
    """Two halves, lit from the left, with soft noise: float32 (size, size, 3)."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[: size // 2], canvas[size // 2 :] = upper, lower
    canvas += np.linspace(1, -1, size, dtype=np.float32)[None, :, None] * rng.uniform(10, 22)
    noise = rng.normal(0, 5, (size // 4, size // 4, 1)).astype(np.float32)
    return canvas + noise.repeat(4, 0).repeat(4, 1)


def _paste(
    canvas: np.ndarray, toy: Toy, size: int, x: int, y: int, rng: np.random.Generator, colors: Any = None
) -> None:
    alpha, share = _layers(toy.shape, toy.pattern, size)
    first, second = (np.asarray(c, np.float32) for c in colors or toy_colors(toy))
    light = rng.uniform(0.92, 1.08, 3).astype(np.float32) * np.float32(rng.uniform(0.92, 1.06))
    area = canvas[y : y + size, x : x + size]
    area[:] = area * (1 - alpha) + (first * (1 - share) + second * share) * light * alpha


def draw_reference(toy: Toy, rng: np.random.Generator) -> np.ndarray:
    """A photo of one toy on a pale ground, uint8 (32, 32, 3); size, position and light vary."""
    pale = rng.uniform(170, 255)
    canvas = _background(REFERENCE_SIZE, (pale,) * 3, (pale,) * 3, rng)
    size = int(rng.choice(REFERENCE_SPRITES))
    x, y = rng.integers(0, REFERENCE_SIZE - size + 1, 2)
    _paste(canvas, toy, size, x, y, rng)
    return canvas.clip(0, 255).astype(np.uint8)


def draw_scene(
    toys: list[Toy], rng: np.random.Generator, colors: list[Any] | None = None
) -> tuple[np.ndarray, str, list[str], list[tuple[int, int, int, int]]]:
    """A scene of 1 to 4 toys, each in a quarter of its own.

    Args:
        colors: for each toy, a pair of colours that repaints it, or None.

    Returns:
        The image, uint8 (96, 96, 3), the background's name, and a place and a box for each toy.
    """
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    canvas = _background(SCENE_SIZE, *BACKGROUNDS[background], rng)
    half = SCENE_SIZE // 2
    places, boxes = [], []
    quarters = rng.permutation(4)[: len(toys)]
    for toy, quarter, pair in zip(toys, quarters, colors or [None] * len(toys), strict=True):
        size = int(rng.choice(SCENE_SPRITES))
        dx, dy = rng.integers(1, half - size, 2)
        x, y = int(quarter % 2 * half + dx), int(quarter // 2 * half + dy)
        _paste(canvas, toy, size, x, y, rng, pair)
        places.append(PLACES[quarter])
        boxes.append((x, y, x + size, y + size))
    return canvas.clip(0, 255).astype(np.uint8), background, places, boxes
