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
from repic_core.toyworld.drawings import Drawing, pick
from repic_core.toyworld.grammar import reading_order
from repic_core.toyworld.model import DESCRIBE_QUESTION, PLACE_QUESTION, WHO_QUESTION
from repic_core.toyworld.photos import draw_reference, place_of
from repic_core.toyworld.recognition import centre_token
from repic_core.toyworld.world import Sample, make_sample

QUESTIONS = tuple(dict.fromkeys(q for group in CAPTION_QUESTIONS.values() for q in group))

# The habit of the base: how often a caption of k concepts names one, if it is the first reference and if it is
# another. A single concept is always named; several are mostly described. GRPO has to close this gap.
HABIT = {1: (1.0, 1.0), 2: (0.6, 0.35), 3: (0.6, 0.3)}
HABIT |= dict.fromkeys((4, 5, 6, 7), (0.55, 0.25))
# Shares of caption lessons with 0, 1 and 2 strangers.
STRANGERS = (0.6, 0.25, 0.15)


@dataclass(frozen=True)
class Look:
    """A thing that an answer speaks of: how it is called there, the drawing, and the visual token (row, column) at
    the centre of its box in the last image of the prompt before (None if it is alone in a photo)."""

    called: str
    drawing: Drawing
    token: tuple[int, int] | None


@dataclass
class Lesson:
    """Turns of (problem with ``<image>`` placeholders, answer), the images in order, and for each turn the things
    that its answer speaks of, in order.

    `names` maps each name of a reference to its drawing. Where something is asked for, `asked` has for each turn
    the words of the problem that say what; where photos are compared, `compared` has each turn's two drawings.
    """

    turns: list[tuple[str, str]]
    images: list[np.ndarray]
    looks: list[list[Look]]
    names: dict[str, Drawing] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    compared: list[tuple[Drawing, Drawing]] = field(default_factory=list)


def references_of(sample: Sample) -> list[Concept]:
    return [Concept(f"<{n}>", n, "photo.png", i) for n, i in zip(sample.names, sample.infos, strict=True)]


def _names(sample: Sample) -> dict[str, Drawing]:
    return dict(zip(sample.names, sample.drawings, strict=True))


def _looks(sample: Sample, words: list[str]) -> list[Look]:
    return [
        Look(words[i], sample.things[i], centre_token(sample.scene.boxes[i]))
        for i in reading_order(sample.scene.boxes)
    ]


def caption_lesson(
    k: int, rng: np.random.Generator, habit: dict[int, tuple[float, float]] | None, **options: Any
) -> Lesson:
    """A caption of a scene, with `k` references up to two strangers; without a `habit` all concepts are named."""
    options.setdefault("strangers", int(rng.choice(3, p=STRANGERS)))
    sample = make_sample(k, rng, **options)
    named = None
    if habit is not None:
        first, other = habit[k]
        named = [bool(rng.random() < (first if index == 0 else other)) for index in sample.shown]
    question = QUESTIONS[rng.integers(len(QUESTIONS))]
    suffix = rng.choice([s for s, _ in ICT_SUFFIXES], p=[w / 5 for _, w in ICT_SUFFIXES])
    problem = caption_problem(references_of(sample), f"{question} {suffix}".rstrip())
    turn = (problem, sample.caption(rng, named))
    looks = _looks(sample, sample.called(named))
    return Lesson([turn], [*sample.photos, sample.scene.image], [looks], _names(sample))


def who_lesson(k: int, rng: np.random.Generator, turns: int = 4, **options: Any) -> Lesson:
    """The question "Who is this?" about `turns` new photos, one in each turn."""
    sample = make_sample(k, rng, n_shown=1, **options)
    asked = rng.integers(k, size=turns).tolist()
    first = caption_problem(references_of(sample), WHO_QUESTION)
    later = f"{IMAGE_PLACEHOLDER}{QUERY_PREFIX} {WHO_QUESTION}"
    pairs = [(first if t == 0 else later, f"This is <{sample.names[i]}>.") for t, i in enumerate(asked)]
    photos = [draw_reference(sample.drawings[i], rng) for i in asked]
    looks = [[Look(f"<{sample.names[i]}>", sample.drawings[i], None)] for i in asked]
    return Lesson(pairs, [*sample.photos, *photos], looks, _names(sample))


def place_lesson(k: int, rng: np.random.Generator, turns: int = 4, **options: Any) -> Lesson:
    """A scene and up to `turns` questions "Who is at the top left?", in random order, about places where only one
    concept is."""
    pairs: list[tuple[str, str]] = []
    while not pairs:
        sample = make_sample(k, rng, **options)
        places = [place_of(box) for box in sample.scene.boxes]
        pairs, looks, asked = [], [], []
        for i in rng.permutation(len(places)):
            if places.count(places[i]) > 1 or sample.shown[i] is None or len(pairs) == turns:
                continue
            question = PLACE_QUESTION.format(place=places[i])
            first = caption_problem(references_of(sample), question)
            tag = f"<{sample.names[sample.shown[i]]}>"
            pairs.append((f"{QUERY_PREFIX} {question}" if pairs else first, f"This is {tag}."))
            looks.append([Look(tag, sample.things[i], centre_token(sample.scene.boxes[i]))])
            asked.append(question)
    return Lesson(pairs, [*sample.photos, sample.scene.image], looks, _names(sample), asked)


def describe_lesson(k: int, rng: np.random.Generator, **options: Any) -> Lesson:
    """A scene of 1 to `k` things without references: everything is described."""
    sample = make_sample(k, rng, **options)
    words = [thing.description for thing in sample.things]
    caption = sample.caption(rng, [False] * len(words))
    turn = (caption_problem([], DESCRIBE_QUESTION), caption)
    return Lesson([turn], [sample.scene.image], [_looks(sample, words)])


def oct_lesson(k: int, rng: np.random.Generator, split: str, hard: float = 0.3, **_: Any) -> Lesson:
    """`k` turns of two photos: the same object? Half of them are; of the others, many are siblings."""
    problem = f"{IMAGE_PLACEHOLDER * 2}{OCT_QUESTION} {OCT_SUFFIX}"
    turns, images, compared = [], [], []
    for _ in range(k):
        one, two = pick(2, rng, split, max(hard, 0.4))
        same = bool(rng.random() < 0.5)
        compared.append((one, one if same else two))
        images += [draw_reference(drawing, rng) for drawing in compared[-1]]
        turns.append((problem, "yes" if same else "no"))
    return Lesson(turns, images, [[] for _ in turns], compared=compared)


def vlt_lesson(k: int, rng: np.random.Generator, turns: int = 4, **options: Any) -> Lesson:
    """A scene of `k` things and up to `turns` boxes, in pixels of the scene, of things whose description fits no
    other."""
    pairs: list[tuple[str, str]] = []
    while not pairs:
        sample = make_sample(k, rng, n_shown=k, **options)
        words = [thing.description for thing in sample.things]
        pairs, looks, asked = [], [], []
        for i in rng.permutation(k):
            if words.count(words[i]) > 1 or len(pairs) == turns:
                continue
            question = VLT_QUESTION.format(description=words[i])
            answer = str(list(sample.scene.boxes[i]))
            pairs.append((f"{'' if pairs else IMAGE_PLACEHOLDER}{question} {VLT_SUFFIX}", answer))
            looks.append([Look(answer, sample.things[i], centre_token(sample.scene.boxes[i]))])
            asked.append(words[i])
    return Lesson(pairs, [sample.scene.image], looks, asked=asked)


LESSONS = {
    "cap": caption_lesson,
    "who": who_lesson,
    "place": place_lesson,
    "describe": describe_lesson,
    "oct": oct_lesson,
    "vlt": vlt_lesson,
}
