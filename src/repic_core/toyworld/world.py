"""The toy concept world: identities and names in three disjoint splits, and samples drawn from them.

A sample is what a person would give to the kit: concepts with a reference photo each, and a scene that shows some
of them. A hash assigns identities and names to train, val or test, so that the kit never trains on what is held
out, whatever the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from repic_core.toyworld.draw import (
    COLORS,
    IDENTITIES,
    PATTERNS,
    PLACES,
    SHAPES,
    Toy,
    draw_reference,
    draw_scene,
)
from repic_core.toyworld.drawings import split_of

# "no" is left out: it is an answer of its own.
SYLLABLES = tuple(c + v for c in "bdfgjklmnprstvwz" for v in "aeiou" if c + v != "no")
GENERIC_INFO = "a little toy"


@cache
def identities(split: str) -> tuple[Toy, ...]:
    return tuple(toy for toy in IDENTITIES if split_of(toy.description) == split)


def new_name(rng: np.random.Generator, split: str) -> str:
    """A random name of two or three syllables that belongs to `split`."""
    while True:
        count = 2 if rng.random() < 0.6 else 3
        name = "".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=count))
        if split_of(name) == split:
            return name


def pick_toys(k: int, rng: np.random.Generator, split: str, hard: float = 0.3) -> list[Toy]:
    """`k` different toys of `split`. With probability `hard`, each after the first is a hard distractor, which
    differs from an earlier toy in a single attribute."""
    pool = identities(split)
    toys = [pool[rng.integers(len(pool))]]
    while len(toys) < k:
        toy = pool[rng.integers(len(pool))]
        if rng.random() < hard:
            near = toys[rng.integers(len(toys))]
            change = rng.integers(3)
            toy = Toy(
                SHAPES[rng.integers(len(SHAPES))] if change == 0 else near.shape,
                list(COLORS)[rng.integers(len(COLORS))] if change == 1 else near.color,
                PATTERNS[rng.integers(len(PATTERNS))] if change == 2 else near.pattern,
            )
            if split_of(toy.description) != split:
                continue
        if toy not in toys:
            toys.append(toy)
    return toys


def make_info(toy: Toy, rng: np.random.Generator, generic: float) -> str:
    """The `info` line: with probability `generic` it says nothing particular, so that only sight can tell;
    otherwise it is a full or partial description."""
    if rng.random() < generic:
        return GENERIC_INFO
    words = (f"{toy.color} toy", f"{toy.shape} toy", f"{toy.pattern} toy", f"{toy.color} {toy.shape}")
    partial = [f"a {word}" for word in words]
    return toy.description if rng.random() < 0.5 else partial[rng.integers(4)]


@dataclass
class Sample:
    """References (toys, names, infos, photos) and a scene in which `shown` (indices, reading order) appear."""

    toys: list[Toy]
    names: list[str]
    infos: list[str]
    photos: list[np.ndarray]
    scene: np.ndarray
    background: str
    shown: list[int]
    # For each of `shown`, its place and its box in pixels of the scene.
    places: list[str]
    boxes: list[tuple[int, int, int, int]]

    def caption(self, named: list[bool] | None = None, vague: list[bool] | None = None) -> str:
        """The scene's caption in reading order. An object that is not `named` is described, or called "a toy" if
        it is `vague`. By default every object is named."""
        parts = []
        for i, (index, place) in enumerate(zip(self.shown, self.places, strict=True)):
            what = f"<{self.names[index]}>"
            if named is not None and not named[i]:
                what = "a toy" if vague and vague[i] else self.toys[index].description
            parts.append(f", at the {place} is {what}")
        return f"On a {self.background}{''.join(parts)}."


def make_sample(
    k: int,
    rng: np.random.Generator,
    split: str,
    n_shown: int | None = None,
    generic: float = 1.0,
    hard: float = 0.3,
) -> Sample:
    """A sample with `k` references, of which `n_shown` (by default 1 to `k` at random) are in the scene."""
    toys = pick_toys(k, rng, split, hard)
    names: list[str] = []
    while len(names) < k:
        name = new_name(rng, split)
        if name not in names:
            names.append(name)
    shown = rng.permutation(k)[: n_shown or rng.integers(1, k + 1)].tolist()
    scene, background, places, boxes = draw_scene([toys[i] for i in shown], rng)
    order = sorted(range(len(shown)), key=lambda i: PLACES.index(places[i]))
    return Sample(
        toys=toys,
        names=names,
        infos=[make_info(toy, rng, generic) for toy in toys],
        photos=[draw_reference(toy, rng) for toy in toys],
        scene=scene,
        background=background,
        shown=[shown[i] for i in order],
        places=[places[i] for i in order],
        boxes=[boxes[i] for i in order],
    )
