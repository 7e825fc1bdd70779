"""What name recall hides: objects mentioned, places right, background kept, length; and rewards made of it.

`truth` describes one scene: ``{"background": str, "objects": [{"tag", "description", "place", "box"}]}``,
boxes in pixels of the scene.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from repic_core.toyworld.draw import PLACES

_PART = re.compile(rf"at the ({'|'.join(PLACES)}) is (<[^<>]*>|[^,.]*)")


def stated_places(caption: str) -> list[tuple[str, str]]:
    """(place, what) in the order of the caption.

    >>> stated_places("On a night sky, at the top left is <bamo>, at the bottom right is a toy.")
    [('top left', '<bamo>'), ('bottom right', 'a toy')]
    """
    return [(place, what.strip()) for place, what in _PART.findall(caption)]


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


def coverage_reward(completions: Sequence[Any], truth: Sequence[str | None], **_: Any) -> list[float | None]:
    """Did the caption tell all that is there, and no more? None (not rewarded) for rows without a scene.

    1 minus the share of quarters of the scene (those with an object or said to hold one) on which caption and
    truth disagree, halved if the background is not told. It asks for no name.
    """
    rewards: list[float | None] = []
    for completion, text in zip(completions, truth, strict=True):
        if not text:
            rewards.append(None)
            continue
        caption = completion if isinstance(completion, str) else completion[0]["content"]
        scene = json.loads(text)
        told = [place for place, _ in stated_places(caption)]
        real = {o["place"] for o in scene["objects"]}
        wrong = len(real ^ set(told)) + len(told) - len(set(told))
        score = max(0.0, 1 - wrong / len(real | set(told)))
        rewards.append(score if scene["background"] in caption else score / 2)
    return rewards


def place_reward(completions: Sequence[Any], truth: Sequence[str | None], **_: Any) -> list[float | None]:
    """Are the named concepts where the caption says? None for rows without a scene.

    Mean over the shown concepts of 1 (named at the right place), -0.5 (named at a wrong one), 0 (not named);
    the boxes that this needs are those of the localisation task.
    """
    rewards: list[float | None] = []
    for completion, text in zip(completions, truth, strict=True):
        if not text:
            rewards.append(None)
            continue
        caption = completion if isinstance(completion, str) else completion[0]["content"]
        where = {o["tag"]: o["place"] for o in json.loads(text)["objects"]}
        hits = sum(where.get(what) == place for place, what in stated_places(caption))
        misses = sum(what in where and where[what] != place for place, what in stated_places(caption))
        rewards.append((hits - 0.5 * misses) / len(where))
    return rewards
