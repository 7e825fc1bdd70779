"""Captions of a folder of queries (`query_sets`), scored with intervals: what notebook 04 shows.

Each function gives rows for a data frame, one for each model and what is compared; scores are `Interval`s by photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem, Captions, caption_file
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.display.caption_grid import GridRow
from repic_core.evaluation.caption_metrics import measure_scored
from repic_core.evaluation.intervals import Interval, intervals_of, mean_interval
from repic_core.evaluation.query_sets import QuerySet
from repic_core.evaluation.scores import score_captions
from repic_core.retrieval.find import ConceptIndex, find_concepts

SCORES = ("precision", "recall", "f1")


def caption_sets(
    captioner: Captioner,
    queries: QuerySet,
    out: str | Path,
    sets: Sequence[str] = (),
    limit: int = 0,
    resume: bool = False,
) -> dict[str, Path]:
    """Caption sets of queries, by default all; returns the caption file of each (`caption_file`).

    Args:
        limit: how many queries of each set; 0 for all.
        resume: go on with files that exist, which must be of this model and these queries; else they are replaced.

    Raises:
        QuerySetError: there is no such set.
        ValueError: as `Captioner.caption_many`.
    """
    files = {}
    for label in sets or queries.queries:
        files[label] = caption_file(out, label)
        captioner.caption_many(queries.items(label, limit or None), out=files[label], resume=resume)
    return files


def score_rows(files: Mapping[str, Captions], database: ConceptDatabase, arm: str) -> list[dict[str, Any]]:
    """A row for each set: precision, recall and F1 of names (`span`), then `caption_metrics.measure`.

    Columns: ``arm``, ``k`` (the set), ``n`` (captions), the scores, ``hallucinated``, ``copied``, ``words``.
    """
    rows = []
    for label, captions in files.items():
        scored = score_captions(captions, "span", database)
        row = {"arm": arm, "k": label, "n": len(scored.records)}
        rows.append({**row, **intervals_of(scored), **measure_scored(scored, database)})
    return rows


def retrieval_rows(
    queries: QuerySet,
    label: str,
    index: ConceptIndex,
    embedder: Any,
    regions: Any,
    limit: int = 0,
    k: int = 8,
) -> list[dict[str, Any]]:
    """How many of the shown concepts are among the first 1, 2, 4 ... `k` that retrieval finds, a row for each."""
    items, ranks = queries.items(label, limit or None), []
    for item in items:
        found = [hit.tag for hit in find_concepts(item.query, index, embedder, regions, k)]
        ranks += [(item.label, found.index(tag) if tag in found else k) for tag in item.shown]
    rows, first = [], 1
    while first <= k and ranks:
        hits = [float(rank < first) for _, rank in ranks]
        recall = mean_interval(hits, [photo for photo, _ in ranks])
        rows.append({"among the first": first, "share of shown concepts": recall})
        first *= 2
    return rows


def plain(rows: Sequence[Mapping[str, Any]], digits: int = 4) -> list[dict[str, Any]]:
    """The rows with the value of each interval, rounded, as JSON has them."""
    return [
        {
            name: round(value.value, digits) if isinstance(value, Interval) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def grid_of(items: Sequence[CaptionItem], captioners: Mapping[str, Captioner]) -> list[GridRow]:
    """Each item with the caption of each captioner, for `caption_grid` and `caption_cards`."""
    return [
        GridRow(
            item.query,
            item.references,
            {
                name: one.caption(item.query, item.references, item.question)
                for name, one in captioners.items()
            },
            item.question,
            tuple(item.shown),
        )
        for item in items
    ]
