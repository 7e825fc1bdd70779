"""Captions of the drawn world: one short sentence for each thing that is shown, in one of many forms.

A sentence says where a thing is in the photo, or how it stands to the thing of the sentence before ("it"). So the
name can be the first word or the last, and no single form carries it. Things are told in reading order: by thirds
of the photo from the top, then from the left.

`read` is the way back, for scores: what a caption says of each thing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from repic_core.toyworld.photos import BACKGROUNDS, PLACES, SCENE_SIDE, Box, Scene, place_of

GROUND_FORMS = (
    "On a {ground}.",
    "This is a {ground}.",
    "The background is a {ground}.",
    "We are on a {ground}.",
    "Behind everything is a {ground}.",
    "The photo was taken on a {ground}.",
)
PLACE_FORMS = (
    "At the {place} is {thing}.",
    "At the {place} there is {thing}.",
    "At the {place} I see {thing}.",
    "The {place} shows {thing}.",
    "There is {thing} at the {place}.",
    "You can find {thing} at the {place}.",
    "Look at {thing} at the {place}.",
    "{thing} is at the {place}.",
    "{thing} can be seen at the {place}.",
    "{thing} has the {place} to itself.",
)
# How a thing stands to the one before, and the forms that say so.
RELATION_FORMS = {
    "right of": (
        "To the right of it is {thing}.",
        "Its right neighbour is {thing}.",
        "{thing} is further right.",
        "{thing} is to the right of it.",
    ),
    "left of": (
        "To the left of it is {thing}.",
        "Its left neighbour is {thing}.",
        "{thing} is further left.",
        "{thing} is to the left of it.",
    ),
    "below": ("Below it is {thing}.", "Further down is {thing}.", "{thing} is below it."),
    "above": ("Above it is {thing}.", "Further up is {thing}.", "{thing} is above it."),
    "next to": ("Next to it is {thing}.", "Beside it is {thing}.", "{thing} keeps it company."),
    "in front of": (
        "In front of it is {thing}.",
        "It is partly hidden by {thing}.",
        "{thing} is in front of it.",
    ),
    "behind": ("Behind it is {thing}.", "It hides a part of {thing}.", "{thing} is behind it."),
    "larger than": ("A larger thing is {thing}.", "{thing} is larger than it."),
    "smaller than": ("A smaller thing is {thing}.", "{thing} is smaller than it."),
}
FORMS = (*GROUND_FORMS, *PLACE_FORMS, *(form for forms in RELATION_FORMS.values() for form in forms))
# Shares of sentences that tell the place, and of captions whose sentence about the ground comes first.
PLACE_SHARE, GROUND_FIRST = 0.55, 0.7
# Two things are next to each other if their centres are within this many pixels; "right of" and "below" need as
# many pixels between the centres, and "larger" this ratio of areas.
NEAR, APART, LARGER = 54, 24, 1.5


@dataclass(frozen=True)
class Mention:
    """What a sentence of a `form` says: of which thing (a tag or a description), where it is, or how it stands to
    `other`, the thing of the sentence before."""

    thing: str
    place: str | None = None
    relation: str | None = None
    other: str | None = None
    form: str = field(default="", compare=False)


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """The indices of the boxes by thirds of the photo from the top, then from the left.

    >>> reading_order([(90, 0, 130, 40), (0, 10, 40, 50), (0, 100, 40, 140)])
    [1, 0, 2]
    """
    centres = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes]
    return sorted(range(len(boxes)), key=lambda i: (int(centres[i][1] * 3 / SCENE_SIDE), centres[i]))


def relations(a: Sequence[int], b: Sequence[int], in_front: bool) -> list[str]:
    """All relations of `RELATION_FORMS` in which a thing with box `a` stands to one with box `b`.

    Args:
        in_front: whether the first would hide the second where they overlap.

    >>> relations((60, 0, 100, 40), (0, 0, 40, 40), True)
    ['right of']
    """
    right, down = ((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1))
    overlap = min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    larger = _area(a) / max(1, _area(b))
    holds = {
        "right of": right >= APART,
        "left of": right <= -APART,
        "below": down >= APART,
        "above": down <= -APART,
        "next to": right**2 + down**2 <= NEAR**2,
        "in front of": overlap and in_front,
        "behind": overlap and not in_front,
        "larger than": larger >= LARGER,
        "smaller than": larger <= 1 / LARGER,
    }
    return [relation for relation, true in holds.items() if true]


def _area(box: Sequence[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def write_caption(scene: Scene, things: Sequence[str], rng: np.random.Generator) -> str:
    """A true caption of a scene, in which drawing i is called ``things[i]`` (a tag or a description)."""
    ground = _one(GROUND_FORMS, rng).format(ground=scene.background)
    sentences, before = [], None
    for i in reading_order(scene.boxes):
        said = {"thing": things[i], "place": place_of(scene.boxes[i])}
        true = []
        if before is not None:
            in_front = scene.depths[i] > scene.depths[before]
            true = relations(scene.boxes[i], scene.boxes[before], in_front)
        if not true or rng.random() < PLACE_SHARE:
            form = _one(PLACE_FORMS, rng)
        else:
            form = _one(RELATION_FORMS[_one(true, rng)], rng)
        sentence = form.format(**said)
        sentences.append(sentence[0].upper() + sentence[1:])
        before = i
    if rng.random() < GROUND_FIRST:
        return " ".join([ground, *sentences])
    return " ".join([*sentences, ground])


def _one(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[rng.integers(len(values))]


def _pattern(form: str) -> re.Pattern[str]:
    """A form as a pattern of whole sentences, without the full stop."""
    places = "|".join(place for row in PLACES for place in row)
    pattern = re.escape(form.removesuffix(".")).replace(r"\{thing\}", r"(?P<thing><[^<>]*>|[^<>.]+?)")
    pattern = pattern.replace(r"\{place\}", f"(?P<place>{places})").replace(
        r"\{ground\}", r"(?P<ground>[^<>.]+)"
    )
    return re.compile(pattern, re.IGNORECASE)


# Relations first: "It hides a part of <bo>" must not be read as a form with a free thing.
_PATTERNS = [
    *((form, _pattern(form), name) for name, forms in RELATION_FORMS.items() for form in forms),
    *((form, _pattern(form), None) for form in (*GROUND_FORMS, *PLACE_FORMS)),
]


def sentences(caption: str) -> list[str]:
    """The sentences of a caption, without their full stops.

    >>> sentences("On a blue sea. <bo> is at the top left.")
    ['On a blue sea', '<bo> is at the top left']
    """
    return [part.strip() for part in caption.split(".") if part.strip()]


def read(caption: str) -> tuple[str | None, list[Mention]]:
    """The background that a caption states (None if it states none), and its mentions in order.

    Sentences that have none of the forms are left out; "it" is then the thing of the last sentence that has one.

    >>> background, mentions = read("On a blue sea. <bo> is at the top left. To the right of it is a brown bird.")
    >>> background, mentions[0].place
    ('blue sea', 'top left')
    >>> mentions[1].thing, mentions[1].relation, mentions[1].other
    ('a brown bird', 'right of', '<bo>')
    """
    background, mentions = None, []
    for sentence in sentences(caption):
        for form, pattern, relation in _PATTERNS:
            found = pattern.fullmatch(sentence)
            if found is None:
                continue
            said = found.groupdict()
            if "ground" in said:
                if said["ground"].lower() in BACKGROUNDS:
                    background = said["ground"].lower()
                    break
                continue
            thing = said["thing"]
            other = mentions[-1].thing if mentions and relation else None
            thing = thing if thing.startswith("<") else thing[0].lower() + thing[1:]
            place = said["place"].lower() if "place" in said else None
            mentions.append(Mention(thing, place, relation, other, form))
            break
    return background, mentions
