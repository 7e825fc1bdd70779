"""Conversations that teach the toy base: whom a photo shows, who is where, captions, yes or no, boxes.

A lesson is one row of tokens in the chat format, with everything that the losses of `pretrain` need. Prompts are
the kit's own (`repic_core.prompts`), so that the base understands what the kit asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repic_core.concepts.concept import Concept
from repic_core.prompts import (
    CAPTION_QUESTIONS,
    ICT_SUFFIXES,
    IMAGE_PLACEHOLDER,
    OCT_QUESTION,
    OCT_SUFFIX,
    QUERY_PREFIX,
    VLT_QUESTION,
    VLT_SUFFIX,
    caption_problem,
)
from repic_core.toyworld.draw import Toy, draw_reference
from repic_core.toyworld.model import DESCRIBE_QUESTION, PLACE_QUESTION, TOKEN, WHO_QUESTION
from repic_core.toyworld.world import Sample, make_sample, pick_toys

QUESTIONS = tuple(dict.fromkeys(q for group in CAPTION_QUESTIONS.values() for q in group))

# The habit of the base: how often a caption of k concepts names an object, if it is the first reference and if it
# is another. A single concept is always named; several are mostly described. GRPO has to close this gap.
HABIT = {1: (1.0, 1.0), 2: (0.62, 0.35), 3: (0.6, 0.3), 4: (0.6, 0.25)}
# A second base, which does not always name even a single concept.
SOFT_HABIT = {1: (0.8, 0.8), 2: (0.5, 0.4), 3: (0.45, 0.35), 4: (0.4, 0.3)}


@dataclass
class Lesson:
    """Turns of (problem with ``<image>`` placeholders, answer), and the images in order.

    `targets` maps each name in the answers to its toy, for the pointer and the probe. For answers that are boxes,
    `centres` gives the toy and its visual token (row, column) in the last image.
    """

    turns: list[tuple[str, str]]
    images: list[np.ndarray]
    targets: dict[str, Toy] = field(default_factory=dict)
    centres: list[tuple[Toy, int, int]] = field(default_factory=list)


def references_of(sample: Sample) -> list[Concept]:
    return [Concept(f"<{n}>", n, "photo.png", i) for n, i in zip(sample.names, sample.infos, strict=True)]


def _targets(sample: Sample) -> dict[str, Toy]:
    return dict(zip(sample.names, sample.toys, strict=True))


def caption_lesson(
    k: int, rng: np.random.Generator, habit: dict[int, tuple[float, float]] | None, **options: Any
) -> Lesson:
    """A caption of a scene, with `k` references; without a `habit` every object is named."""
    sample = make_sample(k, rng, **options)
    named = vague = None
    if habit is not None:
        first, other = habit[k]
        named = [bool(rng.random() < (first if index == 0 else other)) for index in sample.shown]
        vague = [bool(rng.random() < 0.3) for _ in sample.shown]
    question = QUESTIONS[rng.integers(len(QUESTIONS))]
    suffix = rng.choice([s for s, _ in ICT_SUFFIXES], p=[w / 5 for _, w in ICT_SUFFIXES])
    problem = caption_problem(references_of(sample), f"{question} {suffix}".rstrip())
    return Lesson([(problem, sample.caption(named, vague))], [*sample.photos, sample.scene], _targets(sample))


def who_lesson(k: int, rng: np.random.Generator, turns: int = 4, **options: Any) -> Lesson:
    """The question "Who is this?" about `turns` new photos, one in each turn."""
    sample = make_sample(k, rng, **options)
    asked = rng.integers(k, size=turns).tolist()
    first = caption_problem(references_of(sample), WHO_QUESTION)
    later = f"{IMAGE_PLACEHOLDER}{QUERY_PREFIX} {WHO_QUESTION}"
    pairs = [(first if t == 0 else later, f"This is <{sample.names[i]}>.") for t, i in enumerate(asked)]
    photos = [draw_reference(sample.toys[i], rng) for i in asked]
    return Lesson(pairs, [*sample.photos, *photos], _targets(sample))


def place_lesson(k: int, rng: np.random.Generator, turns: int = 4, **options: Any) -> Lesson:
    """A scene and up to `turns` questions "Who is at the top left?", in random order."""
    sample = make_sample(k, rng, **options)
    pairs = []
    for t, i in enumerate(rng.permutation(len(sample.shown))[:turns]):
        question = PLACE_QUESTION.format(place=sample.places[i])
        problem = caption_problem(references_of(sample), question) if t == 0 else f"{QUERY_PREFIX} {question}"
        pairs.append((problem, f"This is <{sample.names[sample.shown[i]]}>."))
    return Lesson(pairs, [*sample.photos, sample.scene], _targets(sample))


def describe_lesson(k: int, rng: np.random.Generator, **options: Any) -> Lesson:
    """A scene without references: every object is described."""
    sample = make_sample(k, rng, **options)
    problem = caption_problem([], DESCRIBE_QUESTION)
    return Lesson([(problem, sample.caption([False] * len(sample.shown)))], [sample.scene])


def oct_lesson(k: int, rng: np.random.Generator, split: str, hard: float = 0.3, **_: Any) -> Lesson:
    """`k` turns of two photos: the same object? Half of them are; others often differ in one attribute only."""
    problem = f"{IMAGE_PLACEHOLDER * 2}{OCT_QUESTION} {OCT_SUFFIX}"
    turns, images = [], []
    for _ in range(k):
        one, two = pick_toys(2, rng, split, max(hard, 0.4))
        same = bool(rng.random() < 0.5)
        images += [draw_reference(one, rng), draw_reference(one if same else two, rng)]
        turns.append((problem, "yes" if same else "no"))
    return Lesson(turns, images)


def vlt_lesson(k: int, rng: np.random.Generator, turns: int = 4, **options: Any) -> Lesson:
    """A scene of `k` toys and up to `turns` boxes, in pixels of the scene."""
    sample = make_sample(k, rng, n_shown=k, **options)
    pairs, centres = [], []
    for t, i in enumerate(rng.permutation(k)[:turns]):
        toy = sample.toys[sample.shown[i]]
        question = VLT_QUESTION.format(description=toy.description)
        image = IMAGE_PLACEHOLDER if t == 0 else ""
        pairs.append((f"{image}{question} {VLT_SUFFIX}", str(list(sample.boxes[i]))))
        x1, y1, x2, y2 = sample.boxes[i]
        centres.append((toy, (y1 + y2) // 2 // TOKEN, (x1 + x2) // 2 // TOKEN))
    return Lesson(pairs, [sample.scene], centres=centres)


LESSONS = {
    "cap": caption_lesson,
    "who": who_lesson,
    "place": place_lesson,
    "describe": describe_lesson,
    "oct": oct_lesson,
    "vlt": vlt_lesson,
}
