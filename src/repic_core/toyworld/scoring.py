"""What name recall hides: objects mentioned, places right, background kept, length.

`truth` describes one scene: ``{"background": str, "objects": [{"tag", "description", "place", "box"}]}``,
boxes in pixels of the scene.
"""

from __future__ import annotations

import re
from typing import Any

from repic_core.toyworld.draw import PLACES, SCENE_SIZE

_PART = re.compile(rf"at the ({'|'.join(PLACES)}) is (<[^<>]*>|[^,.]*)")


def stated_places(caption: str) -> list[tuple[str, str]]:
    """(place, what) in the order of the caption.

    >>> stated_places("On a night sky, at the top left is <bamo>, at the bottom right is a toy.")
    [('top left', '<bamo>'), ('bottom right', 'a toy')]
    """
    return [(place, what.strip()) for place, what in _PART.findall(caption)]


def position_agreement(caption: str, truth: dict[str, Any]) -> tuple[int, int]:
    """How many of the caption's stated positions of shown toys agree with their boxes, and how many there are: the
    centre of the box must lie in the stated quarter of the scene. Names that the scene does not show are left out.

    >>> truth = {"objects": [{"tag": "<bo>", "box": [50, 8, 86, 44]}]}
    >>> position_agreement("On a blue sea, at the top right is <bo>, at the top left is <bo>.", truth)
    (1, 2)
    """
    boxes = {shown["tag"]: shown["box"] for shown in truth["objects"]}
    stated = [(place, boxes[what]) for place, what in stated_places(caption) if what in boxes]
    half = SCENE_SIZE / 2
    right = sum(
        place == PLACES[2 * ((y1 + y2) / 2 >= half) + ((x1 + x2) / 2 >= half)]
        for place, (x1, y1, x2, y2) in stated
    )
    return right, len(stated)


def score_scene(caption: str, truth: dict[str, Any]) -> dict[str, float]:
    """Scores of one caption, each in [0, 1] except `length` (characters).

    `coverage`: share of the shown objects that are named, or described word for word, or at whose place
    something is said to be. `placed`: share of the shown objects that are named at the right place.
    `background`: 1 if the scene's background is told.
    """
    parts = stated_places(caption)
    places, pairs = {place for place, _ in parts}, set(parts)
    objects = truth["objects"]
    mentioned = [o["tag"] in caption or o["description"] in caption or o["place"] in places for o in objects]
    placed = [(o["place"], o["tag"]) in pairs for o in objects]
    return {
        "coverage": sum(mentioned) / len(objects),
        "placed": sum(placed) / len(objects),
        "background": float(truth["background"] in caption),
        "length": float(len(caption)),
    }
