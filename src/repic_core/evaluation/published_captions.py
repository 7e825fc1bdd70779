"""The authors' caption files for photos of two and of four concepts, measured: what notebook 07 shows.

Each table is a list of rows for a data frame. Scores are `Interval`s; photos or captions are drawn, as `intervals`
explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.captioner.caption_files import CaptionRecord, load_captions
from repic_core.concepts.database import ConceptDatabase
from repic_core.display.caption_grid import GridRow, grid_rows
from repic_core.evaluation.caption_metrics import measure_scored
from repic_core.evaluation.intervals import UNITS, compare, intervals_of
from repic_core.evaluation.published import SETS, ZERO_SHOT, caption_folder, published_files
from repic_core.evaluation.query_sets import PUBLISHED
from repic_core.evaluation.scores import CaptionScore, ScoredCaptions, disagreements, score_captions
from repic_core.models.loading import load_model

if TYPE_CHECKING:
    from repic_core.captioner.captioner import Captioner


@dataclass(frozen=True)
class PublishedCaptions:
    """The published captions of photos that show `concepts` concepts each.

    Args:
        captions: method -> its captions, in the order of tables.
        database: the concepts of all rows.
        root: what paths of photos are relative to.
    """

    concepts: int
    captions: dict[str, list[CaptionRecord]]
    database: ConceptDatabase
    root: Path

    @property
    def protocol(self) -> str:
        """The published protocol of these captions."""
        return SETS[f"{self.concepts}-concepts"].protocol

    @property
    def note(self) -> str:
        """What who looks at the captions should know of the methods' names."""
        return SETS[f"{self.concepts}-concepts"].note

    @cached_property
    def _scored(self) -> dict[tuple[str, str], ScoredCaptions]:
        """(method, protocol) -> its captions, each searched once."""
        return {
            (method, protocol): score_captions(records, protocol, self.database)
            for method, records in self.captions.items()
            for protocol in (self.protocol, "span")
        }

    def scores(self, unit: str = "photo") -> list[dict[str, Any]]:
        """A row for each method and protocol: precision, recall and F1, with intervals by `unit`."""
        return [
            {"method": method, "protocol": protocol, **intervals_of(scored, unit)}
            for (method, protocol), scored in self._scored.items()
        ]

    def certainty(self, against: str = ZERO_SHOT) -> list[dict[str, Any]]:
        """A row for each method: F1 (`span`) with its interval and p, by photo and by caption.

        p is of the paired test against the captions of the method `against`; None where that is not among them.
        """
        untuned, rows = self.captions.get(against), []
        for method, records in self.captions.items():
            row: dict[str, Any] = {"method": method}
            for unit in UNITS:
                row[f"F1 by {unit}"] = intervals_of(self._scored[method, "span"], unit)["f1"]
            for unit in UNITS:
                row[f"p by {unit}"] = None
                if untuned and method != against:
                    row[f"p by {unit}"] = compare(untuned, records, "span", self.database, unit=unit).p
            rows.append(row)
        return rows

    def beyond_recall(self, unit: str = "caption") -> list[dict[str, Any]]:
        """A row for each method with the means of `caption_metrics.measure`."""
        return [
            {"method": method, **measure_scored(self._scored[method, "span"], self.database, unit)}
            for method in self.captions
        ]

    def rows(self, places: Sequence[int], methods: Sequence[str] = ()) -> list[GridRow]:
        """The rows at these places for the qualitative figure, of all methods or of these."""
        chosen = {name: records for name, records in self.captions.items() if not methods or name in methods}
        lined_up = grid_rows(chosen, self.database, self.root)
        return [lined_up[place] for place in places if place < len(lined_up)]

    def disagreements(
        self, method: str, n: int = 10
    ) -> list[tuple[CaptionRecord, CaptionScore, CaptionScore]]:
        """The `n` captions of a method that best explain why the published protocol and `span` differ."""
        return disagreements(self.captions[method], self.protocol, "span", self.database, n)


def published_captions(root: str | Path) -> dict[int, PublishedCaptions]:
    """The published captions in a folder laid out like the authors' repository, by number of concepts.

    Captions of two concepts are only in their whole repository. Without a root ("") there are none.

    Raises:
        FileNotFoundError: the folder has no captions of four concepts, or no database; names it.
        CaptionFileError: a file can't be read; names it.
    """
    found: dict[int, PublishedCaptions] = {}
    if not str(root):
        return found
    for concepts in (4, 2):
        if concepts == 2 and not caption_folder(root, concepts).is_dir():
            continue
        files, database = published_files(root, concepts)
        captions = {method: load_captions(path) for method, path in files.items()}
        known = ConceptDatabase.load(database, root=root, check_images=False)
        found[concepts] = PublishedCaptions(concepts, captions, known, Path(root))
    return found


def as_published(model_name: str, adapter: str = "", max_new_tokens: int = 1024) -> Captioner:
    """A model that is asked as the authors' scripts ask: their system prompt, photo limit and reference lines."""
    loaded = load_model(model_name, adapter or None, max_pixels=PUBLISHED.max_pixels)
    return PUBLISHED.captioner(*loaded, max_new_tokens=max_new_tokens)


def with_model(
    rows: Sequence[GridRow], captioner: Captioner | None, method: str = "this run"
) -> list[GridRow]:
    """The rows with a model's own captions of their photos besides; as they are without a model."""
    if captioner is None:
        return list(rows)
    return [
        replace(
            row,
            captions={**row.captions, method: captioner.caption(row.query, row.references, row.question)},
        )
        for row in rows
    ]
