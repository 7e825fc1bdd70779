"""The identities of the drawn world: drawings of Noto Emoji, in three disjoint splits.

They are kept in one picture, the atlas, with a record of what is where (``assets/drawings``, made by `atlas`).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# Pixels of a drawing's side, and drawings in a row of the atlas.
SIZE, COLUMNS = 72, 40
ATLAS, RECORD = "drawings.webp", "drawings.json"
FOLDER = Path(__file__).parents[3] / "assets" / "drawings"
# What is said of a drawing that is not named, by the start of its subgroup.
KINDS = {
    "face": "face",
    "cat-face": "cat",
    "monkey-face": "monkey",
    "body": "body part",
    "person": "person",
    "animal-bird": "bird",
    "animal-marine": "sea animal",
    "animal-bug": "bug",
    "animal": "animal",
    "plant-flower": "flower",
    "plant": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-sweet": "sweet",
    "food-marine": "sea animal",
    "food": "dish",
    "drink": "drink",
    "dishware": "kitchen item",
    "place-map": "map",
    "place-geographic": "landscape",
    "place-building": "building",
    "place-religious": "building",
    "place": "sight",
    "transport-water": "boat",
    "transport-air": "aircraft",
    "transport": "vehicle",
    "event": "decoration",
    "award": "award",
    "sport": "sports item",
    "game": "toy",
    "clothing": "thing to wear",
    "musical-instrument": "instrument",
    "tool": "tool",
    "book": "thing to read",
}
OTHER_KIND = "thing"


def kind_of(subgroup: str) -> str:
    """The kind of a subgroup of Unicode's list.

    >>> kind_of("animal-bird"), kind_of("animal-reptile"), kind_of("office")
    ('bird', 'animal', 'thing')
    """
    return next((kind for start, kind in KINDS.items() if subgroup.startswith(start)), OTHER_KIND)


@dataclass(frozen=True)
class Drawing:
    """One identity: what a reference photo shows. `number` is its place in the atlas."""

    number: int
    name: str
    subgroup: str
    family: str
    color: str

    @property
    def kind(self) -> str:
        return kind_of(self.subgroup)

    @property
    def description(self) -> str:
        """What a caption says of a drawing that it does not name.

        >>> Drawing(0, "owl", "animal-bird", "owl", "brown").description
        'a brown bird'
        >>> Drawing(0, "cook", "person-role", "cook", "white").description
        'a person in white'
        """
        if self.kind == "person":
            return f"a person in {self.color}"
        return f"{'an' if self.color == 'orange' else 'a'} {self.color} {self.kind}"


def split_of(text: str) -> str:
    """The split of a family of drawings or of a name: 70% train, 12% val, 18% test."""
    bucket = zlib.crc32(f"repic {text}".encode()) % 100
    if bucket < 70:
        return "train"
    return "val" if bucket < 82 else "test"


@cache
def all_drawings() -> tuple[Drawing, ...]:
    """All identities, in the order of the atlas."""
    rows = json.loads((FOLDER / RECORD).read_text(encoding="utf-8"))["drawings"]
    keys = ("name", "subgroup", "family", "color")
    return tuple(Drawing(i, **{key: row[key] for key in keys}) for i, row in enumerate(rows))


@cache
def identities(split: str) -> tuple[Drawing, ...]:
    """The identities of a split; those of one family are all in the same."""
    return tuple(one for one in all_drawings() if split_of(one.family) == split)


@cache
def siblings(split: str) -> dict[str, tuple[Drawing, ...]]:
    """The identities of a split by subgroup."""
    subgroups = dict.fromkeys(one.subgroup for one in identities(split))
    return {name: tuple(x for x in identities(split) if x.subgroup == name) for name in subgroups}


@cache
def _atlas() -> Any:
    from PIL import Image

    with Image.open(FOLDER / ATLAS) as image:
        return image.convert("RGBA")


@cache
def picture(drawing: Drawing) -> Any:
    """The drawing as an RGBA image (`PIL`) of `SIZE` x `SIZE` pixels."""
    x, y = drawing.number % COLUMNS * SIZE, drawing.number // COLUMNS * SIZE
    return _atlas().crop((x, y, x + SIZE, y + SIZE))


def pick(k: int, rng: np.random.Generator, split: str, hard: float = 0.3) -> list[Drawing]:
    """`k` different drawings of `split`; with probability `hard`, each after the first is a sibling (of the same
    subgroup) of an earlier one, if that has any left."""
    pool = identities(split)
    chosen = [pool[rng.integers(len(pool))]]
    while len(chosen) < k:
        near: tuple[Drawing, ...] = pool
        if rng.random() < hard:
            alike = siblings(split)[chosen[rng.integers(len(chosen))].subgroup]
            near = pool if set(alike) <= set(chosen) else alike
        one = near[rng.integers(len(near))]
        if one not in chosen:
            chosen.append(one)
    return chosen
