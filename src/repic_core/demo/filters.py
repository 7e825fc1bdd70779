"""Filters for the viewer's rows: by number of concepts, by scene, by what a method got right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repic_core.captioner.caption_files import CaptionRecord, whole
from repic_core.concepts.database import ConceptDatabase
from repic_core.display.caption_grid import GridRow
from repic_core.evaluation.scores import CaptionScore, names_to_find, score_caption

ANY = "any"
ALL = "all"
NAMES_ALL = "names every concept"
ONLY_NAMES_ALL = "is the only one to name every concept"
MISSES = "misses a concept"
WRONG = "names a wrong concept"
KINDS = (ALL, NAMES_ALL, ONLY_NAMES_ALL, MISSES, WRONG)
# With more photos than this, the filter lists their folders instead.
MOST_SCENES = 30


@dataclass(frozen=True)
class JudgedRow:
    """A row with its scene and each method's `CaptionScore` by protocol: the published one and `span`."""

    row: GridRow
    scene: str
    scores: dict[str, dict[str, CaptionScore]]

    @property
    def concepts(self) -> int:
        return len(self.row.tags)

    def whole(self, method: str) -> bool:
        """Whether a method's caption names every concept that the photo shows and no other (`span`)."""
        found = self.scores.get(method, {}).get("span")
        return found is not None and not (found.missed or found.wrong)


def published_protocol(concepts: int) -> str:
    """The published protocol for photos of this many concepts."""
    return {1: "repic-single", 2: "repic-2"}.get(concepts, "repic-4")


def judge(
    rows: Sequence[GridRow], captions: Mapping[str, Sequence[CaptionRecord]], database: ConceptDatabase
) -> list[JudgedRow]:
    """Each row with its scene and its captions' scores."""
    photos = {Path(row.query).stem for row in rows}
    few = len(photos) <= MOST_SCENES
    scenes = [whole(Path(row.query).stem if few else Path(row.query).parent.name) for row in rows]
    names = {}
    for method, records in captions.items():
        for protocol in {"span", *(published_protocol(len(record.tags)) for record in records)}:
            names[method, protocol] = names_to_find(records, protocol, database)
    judged = []
    for row, scene in zip(rows, scenes, strict=True):
        scores: dict[str, dict[str, CaptionScore]] = {}
        for method, text in row.captions.items():
            if text is None:
                continue
            record = CaptionRecord(str(row.query), tuple(row.tags), text)
            scores[method] = {
                protocol: score_caption(record, names[method, protocol], protocol)
                for protocol in (published_protocol(len(row.tags)), "span")
            }
        judged.append(JudgedRow(row, scene, scores))
    return judged


def matching(
    rows: Sequence[JudgedRow],
    concepts: int | str = ANY,
    scene: str = ANY,
    method: str = ANY,
    kind: str = ALL,
) -> list[int]:
    """The places of the rows that pass all filters. `kind` is about `method`, or about any of them.

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}: choose one of {', '.join(KINDS)}")
    found = []
    for place, row in enumerate(rows):
        methods = row.scores if method == ANY else [method]
        fits = kind == ALL or any(_is(row, one, kind) for one in methods)
        if fits and concepts in (ANY, row.concepts) and scene in (ANY, row.scene):
            found.append(place)
    return found


def _is(row: JudgedRow, method: str, kind: str) -> bool:
    found = row.scores.get(method, {}).get("span")
    if found is None:
        return False
    if kind == MISSES:
        return bool(found.missed)
    if kind == WRONG:
        return bool(found.wrong)
    if kind == NAMES_ALL:
        return row.whole(method)
    others = (other for other in row.scores if other != method)
    return row.whole(method) and not any(row.whole(other) for other in others)
