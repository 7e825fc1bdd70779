"""How certain a score is: bootstrap intervals of a caption file's scores, and a paired test between two files.

By default the bootstrap draws photos (`unit`), since captions of the same photo are not independent: the published
4-concept files hold 105 captions of 4 photos. With ``unit="caption"`` it draws captions, which shows how certain
the score is for these photos only. Both methods are SciPy's: `scipy.stats.bootstrap` (percentile, 95%) and
`scipy.stats.permutation_test`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from repic_core.captioner.caption_files import CaptionRecord, Captions, scored_records
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.evaluation.scores import ScoredCaptions, score_captions

Database = ConceptDatabase | Iterable[Concept] | None
SCORES = ("precision", "recall", "f1")
RESAMPLES = 9999
UNITS = ("photo", "caption")


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 95% interval; printed in percent."""

    value: float
    low: float
    high: float

    # Whether it is a share.
    percent: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Amount(Interval):
    """An interval of what is no share, such as a number of words; printed as it is.

    >>> str(Amount(54.6, 51.0, 58.25)), str(Amount(0.752, 0.5, 1.0))
    ('54.6 [51.0, 58.2]', '0.75 [0.50, 1.00]')
    """

    percent = False

    def __str__(self) -> str:
        digits = 1 if self.value >= 10 else 2
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Comparison:
    """The paired test of two files.

    Args:
        difference: the second file's score minus the first's.
        p: two-sided; the probability of a difference as large if the two files are swapped unit by unit at random.
    """

    difference: Interval
    p: float


def score_intervals(
    records: Captions,
    protocol: str = "span",
    database: Database = None,
    unit: str = "photo",
    seed: int = 0,
) -> dict[str, Interval]:
    """Precision, recall and F1 as in `scores.score`, with 95% intervals; errors as there.

    Args:
        unit: what the bootstrap draws: ``photo`` or ``caption``.
        seed: of the bootstrap.

    Returns:
        ``{"precision", "recall", "f1"}`` as `Interval`.

    >>> rows = [CaptionRecord(f"{i}.jpg", ("<bo>",), "<bo> naps.") for i in range(9)]
    >>> str(score_intervals(rows)["f1"])
    '100.0 [100.0, 100.0]'
    """
    return intervals_of(score_captions(records, protocol, database), unit, seed)


def intervals_of(scored: ScoredCaptions, unit: str = "photo", seed: int = 0) -> dict[str, Interval]:
    """`score_intervals` for captions that are already scored."""
    import numpy as np

    samples = np.array(list(_counts(scored, unit).values()), dtype=float).T

    def statistic(name: str) -> Callable[..., Any]:
        def ratio(correct: Any, predicted: Any, total: Any, axis: int = -1) -> Any:
            return _ratio(name, correct.sum(axis), predicted.sum(axis), total.sum(axis))

        return ratio

    return {name: _bootstrapped(tuple(samples), statistic(name), seed) for name in SCORES}


def mean_interval(values: Sequence[float], units: Sequence[Any], seed: int = 0) -> Interval:
    """The mean of one number per caption, with its 95% interval; captions of the same unit are drawn together.

    >>> mean_interval([1, 1, 1], ["a.jpg", "b.jpg", "b.jpg"])
    Interval(value=1.0, low=1.0, high=1.0)

    Raises:
        ValueError: there are no values, or not as many units.
    """
    import numpy as np

    if not len(values) or len(values) != len(units):
        raise ValueError(
            f"a mean of {len(values)} values for {len(units)} captions: give one each, at least one"
        )
    places = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    index = [places[unit] for unit in units]

    def mean(sums: Any, counts: Any, axis: int = -1) -> Any:
        return sums.sum(axis) / counts.sum(axis)

    return _bootstrapped((np.bincount(index, weights=values), np.bincount(index)), mean, seed)


def balanced_interval(
    values: Sequence[float], units: Sequence[Any], classes: Sequence[Any], seed: int = 0
) -> Interval:
    """The mean over classes of each class's mean value, with its 95% interval; a unit's values are drawn together.

    With 1 for a right answer and the right answers as classes this is balanced accuracy: who always says yes has
    50%, however many of the answers are yes. A class that a resample lacks is left out of its mean.

    >>> str(balanced_interval([1, 1, 1, 0], "abcd", ["yes", "yes", "yes", "no"])).partition(" ")[0]
    '50.0'

    Raises:
        ValueError: there are no values, or not as many units or classes.
    """
    import numpy as np

    if not len(values) or not len(values) == len(units) == len(classes):
        raise ValueError(
            f"a balanced mean of {len(values)} values, {len(units)} units, {len(classes)} classes: give one each"
        )
    rows = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    columns = {name: place for place, name in enumerate(dict.fromkeys(classes))}
    sums, counts = np.zeros((2, len(rows), len(columns)))
    where = [rows[unit] for unit in units], [columns[name] for name in classes]
    np.add.at(sums, where, values)
    np.add.at(counts, where, 1)

    def balanced(index: Any, axis: int = -1) -> Any:
        along = axis - 1 if axis < 0 else axis  # the classes are behind
        total, size = sums[index].sum(along), counts[index].sum(along)
        means = np.divide(total, size, out=np.zeros_like(total), where=size > 0)
        return means.sum(-1) / (size > 0).sum(-1)

    return _bootstrapped((np.arange(len(rows)),), balanced, seed)


def compare(
    first: Captions,
    second: Captions,
    protocol: str = "span",
    database: Database = None,
    name: str = "f1",
    unit: str = "photo",
    seed: int = 0,
    unknown_tags: bool = False,
) -> Comparison:
    """Whether the second file's score differs from the first's, on the same photos and concepts.

    Args:
        first, second: captions, as for `scores.score`.
        name: the score: ``precision``, ``recall`` or ``f1``.
        unit: what is drawn and swapped: ``photo`` or ``caption``.
        unknown_tags: as for `scores.score`.

    Raises:
        ValueError: an unknown score or unit; the files are not of the same photos and tags (names the first row
            that differs); or as `scores.score`.
    """
    import numpy as np
    from scipy.stats import permutation_test

    if name not in SCORES:
        raise ValueError(f"score {name!r}: use one of {', '.join(SCORES)}")
    first, second = scored_records(first), scored_records(second)
    one, two = (Counter(row_of(r.query, r.tags) for r in records) for records in (first, second))
    differing = (one - two) + (two - one)
    if differing:
        query, tags = min(differing)
        raise ValueError(
            f"the two files do not have the same rows: {query}, {', '.join(tags)} is not in both "
            f"(or not equally often; they have {len(first)} and {len(second)} rows)"
        )
    known = list(database or ())
    one, two = (
        _counts(score_captions(records, protocol, known), unit, unknown_tags) for records in (first, second)
    )
    table = np.array([one[photo] for photo in one] + [two[photo] for photo in one], dtype=float)
    indices = np.arange(len(one)), np.arange(len(one), 2 * len(one))

    def score_of(index: Any, axis: int) -> Any:
        return _ratio(name, *np.moveaxis(table[index].sum(axis - 1 if axis < 0 else axis), -1, 0))

    def difference(a: Any, b: Any, axis: int = -1) -> Any:
        return score_of(b, axis) - score_of(a, axis)

    tested = permutation_test(
        indices, difference, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=seed
    )
    return Comparison(_bootstrapped(indices, difference, seed), float(tested.pvalue))


def row_of(query: str, tags: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """What is equal for two rows of the same photo and tags, in any order and spelling (`tags.key`)."""
    return query, tuple(sorted(f"<{key(tag)}>" for tag in tags))


def units_of(records: Sequence[CaptionRecord], unit: str) -> list[Any]:
    """What is drawn for each record: its photo, or the record itself, named alike in every file of the same rows.

    Raises:
        ValueError: an unknown unit.
    """
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r}: use one of {', '.join(UNITS)}")
    if unit == "photo":
        return [record.query for record in records]
    rows: Counter[Any] = Counter()
    found = []
    for record in records:
        row = row_of(record.query, record.tags)
        rows[row] += 1  # the same row may occur again, with another question
        found.append((*row, rows[row]))
    return found


def _bootstrapped(samples: tuple[Any, ...], statistic: Callable[..., Any], seed: int) -> Interval:
    """`statistic` of paired samples, one value per unit, with its interval; of a single unit it is one point."""
    from scipy.stats import bootstrap

    value = float(statistic(*samples))
    if len(samples[0]) == 1:
        return Interval(value, value, value)
    found = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, paired=True, vectorized=True, method="percentile", rng=seed
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def _counts(scored: ScoredCaptions, unit: str, unknown_tags: bool = False) -> dict[Any, tuple[int, int, int]]:
    """(correct, predicted, total) of each unit: a photo's captions together, or each caption."""
    found: dict[Any, tuple[int, int, int]] = {}
    for drawn_as, score in zip(units_of(scored.records, unit), scored.scores(unknown_tags), strict=True):
        correct, predicted, total = found.get(drawn_as, (0, 0, 0))
        found[drawn_as] = (correct + score.correct, predicted + score.predicted, total + score.total)
    return found


def _ratio(name: str, correct: Any, predicted: Any, total: Any) -> Any:
    """Precision, recall or F1 of arrays of counts; 0 where the divisor is 0, as in `scores.Score`."""
    import numpy as np

    over = {"precision": predicted, "recall": total, "f1": (predicted + total) / 2}[name]
    return np.divide(correct, over, out=np.zeros_like(np.asarray(correct, dtype=float)), where=over > 0)
