"""What the recall of names does not show: names of absent concepts, copied infos, and length, for any caption file.

Each metric is one number per caption; `measure` gives the means with 95% intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import fold
from repic_core.evaluation.intervals import Interval, mean_interval, units_of
from repic_core.evaluation.scores import ScoredCaptions, score_captions

COPY_RUN = 4  # this many equal words in a row are not a coincidence


def hallucinated_names(
    records: Sequence[CaptionRecord], database: ConceptDatabase | Iterable[Concept] | None = None
) -> list[int]:
    """How many concepts that its row does not have each caption names (`span`), unknown tags included.

    >>> hallucinated_names([CaptionRecord("a.jpg", ("<bo>",), "<bo> naps beside <mia>.")])
    [1]
    """
    return _hallucinated(score_captions(records, "span", database))


def copied_share(caption: str, infos: Iterable[str], run: int = COPY_RUN) -> float:
    """The share of the caption's words, in [0, 1], that are in runs of at least `run` words of one of `infos`.

    >>> copied_share("Here is a small brown dog with a red collar", ["a small brown dog"])
    0.4
    """
    words = _words(caption)
    copied = [False] * len(words)
    for info in infos:
        known = _words(info)
        runs = {tuple(known[i : i + run]) for i in range(len(known) - run + 1)}
        for start in range(len(words) - run + 1):
            if tuple(words[start : start + run]) in runs:
                copied[start : start + run] = [True] * run
    return sum(copied) / len(words) if words else 0.0


def measure(
    records: Sequence[CaptionRecord], database: ConceptDatabase, unit: str = "photo"
) -> dict[str, Interval]:
    """Means per caption, with 95% intervals (drawn by `unit`, see `intervals`).

    Returns:
        ``"hallucinated"`` (names), ``"copied"`` (share of words copied from the infos of the row's concepts) and
        ``"words"`` (length).
    """
    return measure_scored(score_captions(records, "span", database), database, unit)


def measure_scored(
    scored: ScoredCaptions, database: ConceptDatabase, unit: str = "photo"
) -> dict[str, Interval]:
    """`measure` of captions that are scored already, by `span` with the same database."""
    records = scored.records
    infos = [[database[tag].info for tag in record.tags if tag in database] for record in records]
    values = {
        "hallucinated": _hallucinated(scored),
        "copied": [copied_share(r.caption, i) for r, i in zip(records, infos, strict=True)],
        "words": [len(_words(record.caption)) for record in records],
    }
    units = units_of(records, unit)
    return {name: mean_interval(numbers, units) for name, numbers in values.items()}


def _hallucinated(scored: ScoredCaptions) -> list[int]:
    return [len(caption.hallucinated) + len(caption.unknown) for caption in scored.captions]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", fold(text))
