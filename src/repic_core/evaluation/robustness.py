"""The same photos with changed prompts: wrong references, another order, references without photos.

A model that recognises concepts names the same ones each time. A model that repeats the names in the prompt does
not, and what it still scores without the references' photos comes from the text alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from repic_core.captioner.caption_files import CaptionItem, caption_file
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.evaluation.intervals import Interval, score_intervals

MOST_WRONG = 4  # wrong references, as in the paper's test


def with_wrong_references(
    items: Sequence[CaptionItem], concepts: Iterable[Concept], count: int, seed: int = 0
) -> list[CaptionItem]:
    """Each item with `count` more references, which its photo does not show, all in a random order.

    Raises:
        ValueError: there are not enough other concepts.
    """
    concepts = list(concepts)
    rng = random.Random(seed)
    changed = []
    for item in items:
        known = {key(concept.tag) for concept in item.references} | {key(tag) for tag in item.tags or ()}
        others = [concept for concept in concepts if key(concept.tag) not in known]
        if len(others) < count:
            raise ValueError(f"{len(others)} other concepts are too few for {count} wrong references")
        references = [*item.references, *rng.sample(others, count)]
        rng.shuffle(references)
        changed.append(replace(item, references=references, tags=item.shown))
    return changed


def shuffled(items: Sequence[CaptionItem], seed: int = 0) -> list[CaptionItem]:
    """Each item with its references in another order, if it has more than one."""
    rng = random.Random(seed)
    changed = []
    for item in items:
        references = list(item.references)
        while len(references) > 1 and references == list(item.references):
            rng.shuffle(references)
        changed.append(replace(item, references=references, tags=item.shown))
    return changed


def without_photos(items: Sequence[CaptionItem]) -> list[CaptionItem]:
    """Each item with the names and infos of its references, but not their photos."""
    return [replace(item, reference_photos=False) for item in items]


def probe(
    captioner: Captioner,
    items: Sequence[CaptionItem],
    database: ConceptDatabase,
    out: str | Path,
    wrong: int = MOST_WRONG,
    resume: bool = True,
) -> dict[str, Interval]:
    """F1 of names (`span`) with its interval by photo, for the items as they are and with each changed prompt.

    Each of these has its own caption file in the folder `out`; files that exist are resumed.

    Args:
        wrong: the largest number of wrong references.

    Raises:
        ValueError: there are no items, or not enough concepts for the wrong references; or as in
            `Captioner.caption_many`.
    """
    if not items:
        raise ValueError("there are no photos to ask about")
    ways = {"as asked": list(items), "shuffled": shuffled(items)}
    for count in range(1, wrong + 1):
        ways[f"{count} wrong"] = with_wrong_references(items, database, count)
    ways["no photos"] = without_photos(items)
    return ask_each_way(captioner, ways, database, out, resume)


def ask_each_way(
    captioner: Captioner,
    ways: Mapping[str, Sequence[CaptionItem]],
    database: ConceptDatabase,
    out: str | Path,
    resume: bool = True,
) -> dict[str, Interval]:
    """F1 of names (`span`) with its interval by photo, for each way of asking about the same photos.

    Each has its own caption file in the folder `out`; files that exist are resumed, or else replaced.

    Raises:
        ValueError: as in `Captioner.caption_many`.
    """
    found = {}
    for name, items in ways.items():
        path = caption_file(out, name)
        captioner.caption_many(items, out=path, resume=resume)
        found[name] = score_intervals(path, "span", database)["f1"]
    return found
