"""Questions about what toy scenes show, and a reader that answers them from a toy caption."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.data.rows import RowQuestion
from repic_core.evaluation.query_sets import load_query_set
from repic_core.evaluation.questions import Question
from repic_core.tasks import NOT_SAID
from repic_core.toyworld.grammar import read
from repic_core.toyworld.photos import BACKGROUNDS
from repic_core.toyworld.photos import PLACES as ROWS

PLACES = tuple(place for row in ROWS for place in row)
# Wrong names among the answers; of places and backgrounds, all are among them.
WRONG = 3
BACKGROUND_QUESTION = "What is the background of the photo?"
WHO_QUESTION = "Who is at the {place}?"
WHERE_QUESTION = "Where is {tag}?"
_WHO = re.compile(WHO_QUESTION.format(place="(.+)").replace("?", r"\?"))
_WHERE = re.compile(WHERE_QUESTION.format(tag="(.+)").replace("?", r"\?"))


def scene_questions(
    row: dict[str, Any], truth: dict[str, Any], database: Iterable[Concept], rng: random.Random
) -> list[Question]:
    """Questions about one scene: its background, for each concept where it is and, if no other thing is at its
    place, who is there.

    Args:
        row: from ``queries.json``: {"query", "references", "shown"}.
        truth: from ``truth.json``, of this scene: {"background", "objects"}.
        database: gives further wrong names if the row has fewer references than `WRONG`.
    """
    query, tags = row["query"], tuple(row["shown"])
    found = [Question(query, tags, BACKGROUND_QUESTION, tuple(BACKGROUNDS), truth["background"])]
    fill = [concept.tag for concept in database if concept.tag not in row["references"]]
    places = [shown["place"] for shown in truth["objects"]]
    for shown in truth["objects"]:
        tag, place = shown["tag"], shown["place"]
        if tag is None:
            continue
        found.append(Question(query, tags, WHERE_QUESTION.format(tag=tag), PLACES, place))
        if places.count(place) > 1:
            continue
        wrong = [other for other in row["references"] if other != tag][:WRONG]
        wrong += rng.sample(fill, max(0, min(WRONG - len(wrong), len(fill))))
        found.append(Question(query, tags, WHO_QUESTION.format(place=place), (tag, *wrong), tag))
    return found


def heldout_questions(
    folder: str | Path, database: Iterable[Concept], label: str, limit: int | None = None, seed: int = 0
) -> list[Question]:
    """`scene_questions` of the first `limit` queries of set `label` in a folder of `dataset.write_heldout`."""
    folder, database, rng = Path(folder), list(database), random.Random(seed)
    queries = load_query_set(folder).queries[label][:limit]
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    return [q for row in queries for q in scene_questions(row, truth[row["query"]], database, rng)]


def training_questions(
    references: Sequence[Concept], truth: dict[str, Any], others: Iterable[Concept], rng: random.Random
) -> tuple[RowQuestion, ...]:
    """Questions about a training scene, for `training.question_reward`: `scene_questions`, and the negatives.

    A negative asks for the place of a concept that is in the prompt (one of `references`) and not in the scene.

    Args:
        others: give further wrong names.
    """
    tags, shown = [concept.tag for concept in references], [x["tag"] for x in truth["objects"] if x["tag"]]
    row = {"query": "scene", "references": tags, "shown": shown}
    asked = [RowQuestion(q.text, q.options, q.answer) for q in scene_questions(row, truth, others, rng)]
    absent = [WHERE_QUESTION.format(tag=tag) for tag in tags if tag not in shown]
    return (*asked, *(RowQuestion(text, PLACES, NOT_SAID) for text in absent))


class CaptionReader:
    """Reads a toy caption literally: a name or a place counts only in a sentence that states both."""

    def choose(self, caption: str, text: str, options: Sequence[str]) -> int | None:
        """The option that the caption states; `NOT_SAID` if it states none of them, or two; None if the question is
        not one of this module."""
        stated, mentions = read(caption)
        parts = [(mention.place, mention.thing) for mention in mentions if mention.place is not None]
        who, where = _WHO.fullmatch(text), _WHERE.fullmatch(text)
        if who:
            said = {what for place, what in parts if place == who[1]}
        elif where:
            said = {place for place, what in parts if what == where[1]}
        elif text == BACKGROUND_QUESTION:
            said = {stated} - {None}
        else:
            return None
        offered = [option for option in options if option in said]
        clear = len(said) == len(offered) == 1
        return list(options).index(offered[0] if clear else NOT_SAID)
