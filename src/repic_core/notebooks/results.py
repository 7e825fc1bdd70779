"""The table at the end of a run: names in captions, before and after post-training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from repic_core.notebooks.errors import NotebookError

EVALUATION = "04_evaluation"


def results_table(results: str | Path) -> list[list[str]]:
    """The before/after table of a ``results.json``, its head first: an arm a row; name P/R/F1 in percent.

    The file holds ``{"table": [{"arm": str, "k": int, "precision": p, "recall": r, "f1": f}, ...]}`` with
    `k` the number of references in the prompt and the three scores in [0, 1]. A score that does not
    exist (null) is a dash. Without scores there is only the head.

    Raises:
        NotebookError: the file is missing, or lacks the table or one of its fields.
    """
    try:
        rows = json.loads(Path(results).read_text(encoding="utf-8"))["table"]
        scores = {
            (row["arm"], row["k"]): [row[name] for name in ("precision", "recall", "f1")] for row in rows
        }
    except FileNotFoundError:
        raise NotebookError(f"{results}: not written; run {EVALUATION} first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise NotebookError(
            f"{results}: 'table' with arm, k, precision, recall, f1 expected ({error!r})"
        ) from None
    arms = list(dict.fromkeys(arm for arm, _ in scores))
    ks = sorted({k for _, k in scores})
    lines = [["arm", *(f"{k} reference{'s' * (k != 1)} P/R/F1" for k in ks)]]
    for arm in arms:
        cells = (scores.get((arm, k), [None] * 3) for k in ks)
        lines.append(
            [arm, *("/".join("-" if s is None else f"{100 * s:.1f}" for s in cell) for cell in cells)]
        )
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text with their columns below each other.

    >>> print(aligned([["arm", "F1"], ["base", "75.0"]]))
    arm   F1
    base  75.0
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
