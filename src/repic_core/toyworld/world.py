"""Samples of the drawn world: concepts with names and reference photos, and a scene that shows some of them.

A sample is what a person would give to the kit. Identities and names of the three splits are disjoint (`split_of`),
so that what is held out is never trained on, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repic_core.toyworld.drawings import Drawing, pick, split_of
from repic_core.toyworld.grammar import write_caption
from repic_core.toyworld.photos import MOST_SHOWN, Scene, draw_reference, draw_scene

# "no" is left out: it is an answer of its own.
SYLLABLES = tuple(c + v for c in "bdfgjklmnprstvwz" for v in "aeiou" if c + v != "no")
GENERIC_INFO = "a little drawing"


def new_name(rng: np.random.Generator, split: str) -> str:
    """A random name of two or three syllables that belongs to `split`."""
    while True:
        count = 2 if rng.random() < 0.6 else 3
        name = "".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=count))
        if split_of(name) == split:
            return name


def new_names(k: int, rng: np.random.Generator, split: str) -> list[str]:
    """`k` different names of `split`."""
    names: list[str] = []
    while len(names) < k:
        name = new_name(rng, split)
        if name not in names:
            names.append(name)
    return names


@dataclass
class Sample:
    """`k` concepts (drawings, names, infos, reference photos) and a scene.

    `shown` gives, for each box of the scene, the index of its concept, or None for a stranger, of whom there is no
    reference; `things` gives the drawing.
    """

    drawings: list[Drawing]
    names: list[str]
    infos: list[str]
    photos: list[np.ndarray]
    scene: Scene
    shown: list[int | None]
    things: list[Drawing]

    def called(self, named: Sequence[bool] | None = None) -> list[str]:
        """What a caption calls each thing in the scene: the tag of a concept that is `named` (by default, of every
        concept), otherwise the description."""
        words = []
        for i, (index, thing) in enumerate(zip(self.shown, self.things, strict=True)):
            use = index is not None and (named is None or named[i])
            words.append(f"<{self.names[index]}>" if use else thing.description)
        return words

    def caption(self, rng: np.random.Generator, named: Sequence[bool] | None = None) -> str:
        """A true caption of the scene (`called`)."""
        return write_caption(self.scene, self.called(named), rng)


def make_sample(
    k: int,
    rng: np.random.Generator,
    split: str,
    n_shown: int | None = None,
    generic: float = 1.0,
    hard: float = 0.3,
    strangers: int = 0,
) -> Sample:
    """A sample with `k` references, of which `n_shown` (by default 1 to `k` at random) are in the scene, and with
    `strangers` besides, as far as the scene has room."""
    count = n_shown or int(rng.integers(1, k + 1))
    strangers = min(strangers, MOST_SHOWN - count)
    found = pick(k + strangers, rng, split, hard)
    drawings = found[:k]
    indices: list[int | None] = [*rng.permutation(k)[:count].tolist(), *[None] * strangers]
    things = [drawings[i] for i in indices if i is not None] + found[k:]
    return Sample(
        drawings=drawings,
        names=new_names(k, rng, split),
        infos=[GENERIC_INFO if rng.random() < generic else one.description for one in drawings],
        photos=[draw_reference(one, rng) for one in drawings],
        scene=draw_scene(things, rng),
        shown=indices,
        things=things,
    )
