"""What is known of the toy world's photos beyond names, as rows for notebook 04.

Each function gives no rows for a folder without ``truth.json``, such as one of real photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import load_captions
from repic_core.concepts.database import ConceptDatabase
from repic_core.data.rows import read_rows
from repic_core.evaluation.questions import answer_questions
from repic_core.evaluation.task_scores import score_tasks
from repic_core.tasks import OCT, VLT
from repic_core.toyworld.dataset import write_heldout_tasks
from repic_core.toyworld.questions import CaptionReader, heldout_questions
from repic_core.toyworld.scoring import score_split

# What other tables show.
NAMES = ("precision", "recall", "f1", "n")
TASKS = {"oct": "same thing? (OCT)", "vlt_iou": "IoU of boxes (VLT)", "vlt_hit": "boxes with IoU ≥ 0.5"}


def is_drawn(folder: str | Path) -> bool:
    """Whether what the folder's photos show is known."""
    return (Path(folder) / "truth.json").is_file()


def truth_rows(files: Mapping[str, Path], folder: str | Path, arm: str) -> list[dict[str, Any]]:
    """What captions say of their scenes beyond names, a row for each set: other scores of `scoring.score_split`."""
    if not is_drawn(folder):
        return []
    rows = score_split(dict(files), folder, arm)
    return [{name: value for name, value in row.items() if name not in NAMES} for row in rows]


def task_rows(
    model: Any, processor: Any, folder: str | Path, arm: str, limit: int = 150
) -> list[dict[str, Any]]:
    """How well a model does OCT and VLT on `limit` held-out rows each, written to ``tasks.jsonl`` if need be.

    Columns: ``arm``, ``task``, ``score`` (an `Interval`), ``rows``.
    """
    folder = Path(folder)
    if not is_drawn(folder):
        return []
    path = folder / "tasks.jsonl"
    rows = (
        read_rows(path, check_images=False) if path.is_file() else write_heldout_tasks(folder, "test", limit)
    )
    found = score_tasks(model, processor, rows, folder, batch_size=50, max_new_tokens=32)
    counts = {"oct": found["n"][OCT], "vlt_iou": found["n"][VLT], "vlt_hit": found["n"][VLT]}
    return [
        {"arm": arm, "task": title, "score": found[name], "rows": counts[name]}
        for name, title in TASKS.items()
    ]


def question_rows(
    files: Mapping[str, Path], folder: str | Path, database: ConceptDatabase, arm: str
) -> list[dict[str, Any]]:
    """How many questions about its scene each caption answers, read by rule: ``arm``, ``k``, ``right`` (an
    `Interval`), then the shares of the other outcomes."""
    rows = []
    for label, path in files.items() if is_drawn(folder) else ():
        records = load_captions(path)
        asked = heldout_questions(folder, database, label, limit=len(records))
        found = answer_questions(CaptionReader(), records, asked)
        others = {name: share for name, share in found.shares.items() if name != "right"}
        rows.append({"arm": arm, "k": label, "right": found.accuracy, **others})
    return rows
