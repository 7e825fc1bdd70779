"""The threshold that separates known concepts from strangers, fitted on labelled photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from repic_core.concepts.tags import key


def check_search(k: int, threshold: float | None) -> None:
    """Refuse a number of hits or a threshold that a search can't use, with a ValueError."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if threshold is not None and math.isnan(threshold):
        raise ValueError("the threshold is not a number: give a similarity from -1 to 1")


def fitted_threshold(index: Any, vectors: Any, tags: Sequence[str | None], false_accepts: float) -> float:
    """The least similarity with which at most a share `false_accepts` of wrong nearest concepts is accepted.

    Args:
        index: anything with the method `index.ConceptIndex.search`.
        vectors: labelled photos (n, dimensions).
        tags: what each photo shows; None if it shows no concept of the index.
        false_accepts: in [0, 1].

    Raises:
        ValueError: no vector has a wrong nearest concept, so there is nothing to fit the threshold on.
    """
    if len(tags) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors, but {len(tags)} tags: give one each")
    nearest = index.search(vectors, 1, threshold=-1.0)
    wrong = [
        hits[0].similarity
        for hits, tag in zip(nearest, tags, strict=True)
        if hits and (tag is None or key(hits[0].tag) != key(tag))
    ]
    return least_score(wrong, false_accepts, everything=-1.0)


def least_score(wrong: Sequence[float], false_accepts: float, everything: float = -math.inf) -> float:
    """The least score with which at most a share `false_accepts` of the scores `wrong` is accepted.

    >>> 0.3 < least_score([0.1, 0.3, 0.2, 0.4], false_accepts=0.25) < 0.301
    True

    Args:
        wrong: scores of what should be refused.
        false_accepts: in [0, 1]; 1 gives `everything`.

    Raises:
        ValueError: `wrong` is empty, so there is nothing to fit the threshold on; or no such share.
    """
    if not 0 <= false_accepts <= 1:
        raise ValueError(f"false_accepts must be a share from 0 to 1, not {false_accepts}")
    if not wrong:
        raise ValueError("a threshold needs photos of no known concept: give some with the tag None")
    accepted = math.floor(false_accepts * len(wrong))
    return math.nextafter(sorted(wrong)[-1 - accepted], math.inf) if accepted < len(wrong) else everything
