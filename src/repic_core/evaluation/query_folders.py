"""Folders of `query_sets` from one's own photos and from the authors' repository."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.paper_settings import paper_setting
from repic_core.evaluation.query_sets import PUBLISHED, QuerySet, QuerySetError, QuerySettings, save_query_set
from repic_core.io.images import write_collage
from repic_core.prompts import CAPTION_QUESTIONS, QUESTION_SUFFIXES

# References in a prompt, at most.
REFERENCES = 4


def write_photo_queries(
    folder: str | Path, database: ConceptDatabase, settings: QuerySettings, seed: int = 0
) -> QuerySet:
    """Write a folder from a database (`photo_folder.database_from_folder`) whose root is the photos' folder.

    The first photo of each concept is its reference, and of those with several the last is a query. With n, which
    is 4 or the number of concepts if that is less, the sets are: ``1``, the concept alone; ``n``, it among others;
    ``n all``, collages of n queries, which are written to ``collages`` in `folder`.

    Raises:
        QuerySetError: no concept has two photos.
    """
    folder, root, rng = Path(folder), Path(database.root).resolve(), random.Random(seed)
    first = ConceptDatabase([replace(one, image=[one.images[0]]) for one in database], root=root)
    several = [concept for concept in database if len(concept.images) > 1]
    if not several:
        raise QuerySetError(f"{root}: no concept has two photos, one as its reference and one to caption")

    def query(photo: str, shown: Sequence[Concept], others: Sequence[Concept] = ()) -> dict[str, Any]:
        tags = [concept.tag for concept in shown]
        asked = rng.sample([*tags, *(other.tag for other in others)], len(tags) + len(others))
        return {"query": photo, "references": asked, "shown": tags}

    last = {
        concept.tag: Path(concept.images[-1]).resolve().relative_to(root).as_posix() for concept in several
    }
    queries = {"1": [query(last[concept.tag], [concept]) for concept in several]}
    n = min(REFERENCES, len(database))
    if n > 1:
        queries[str(n)] = [
            query(last[one.tag], [one], rng.sample([other for other in first if other.tag != one.tag], n - 1))
            for one in several
        ]
    n = min(REFERENCES, len(several))
    if n > 1:
        queries[f"{n} all"] = []
        for one in several:
            shown = [one, *rng.sample([other for other in several if other.tag != one.tag], n - 1)]
            photo = write_collage(root, [last[concept.tag] for concept in shown], folder / "collages")
            queries[f"{n} all"].append(query(photo, shown))
    return save_query_set(folder, first, queries, replace(settings, image_root=str(root)))


def write_paper_queries(
    folder: str | Path, root: str | Path, name: str, suffix: str = "none", limit: int = 0
) -> QuerySet:
    """Write a folder from one of the paper's settings; arguments and errors as those of `paper_setting`.

    Its one set is ``1``, or ``n all`` for photos of n concepts. The model is asked as the authors' scripts do.
    """
    setting = paper_setting(root, name, suffix, limit)
    queries: dict[str, list[dict[str, Any]]] = {}
    for item in setting.items:
        references = [concept.tag for concept in item.references]
        label = "1" if len(references) == 1 else f"{len(references)} all"
        row = {"query": item.label, "references": references, "shown": item.shown}
        queries.setdefault(label, []).append(row)
    settings = replace(
        PUBLISHED,
        questions=tuple(f"{question}{QUESTION_SUFFIXES[suffix]}" for question in CAPTION_QUESTIONS["single"]),
        image_root=str(Path(root).resolve()),
    )
    return save_query_set(folder, setting.database, queries, settings)
