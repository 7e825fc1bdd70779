"""What the recall of names does not show: names of absent concepts, copied infos, and length, for any caption file.

Each metric is one number per caption; `measure` gives the means with 95% intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.scripts import length, runs, words
from repic_core.evaluation.intervals import Amount, Interval, mean_interval, units_of
from repic_core.evaluation.scores import ScoredCaptions, score_captions
from repic_core.models.answers import as_read

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

    What is a word, and how long a run is in scripts without spaces: `concepts.scripts`.

    >>> copied_share("Here is a small brown dog with a red collar", ["a small brown dog"])
    0.4
    """
    infos = [infos] if isinstance(infos, str) else infos
    said = _words(caption)
    copied = [False] * len(said)
    for info in infos:
        told = words(info)
        known = {tuple(told[start:end]) for start, end in runs(told, run)}
        for start, end in runs(said, run):
            if tuple(said[start:end]) in known:
                copied[start:end] = [True] * (end - start)
    kept = [word for word, is_copied in zip(said, copied, strict=True) if is_copied]
    return length(kept) / length(said) if said else 0.0


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
    found = {name: mean_interval(numbers, units) for name, numbers in values.items()}
    return {
        name: mean if name == "copied" else Amount(mean.value, mean.low, mean.high)
        for name, mean in found.items()
    }


def _hallucinated(scored: ScoredCaptions) -> list[int]:
    return [len(caption.wrong) for caption in scored.captions]


def _words(caption: str) -> list[str]:
    return words(as_read(caption)[0])
