"""Caption a held-out split of the toy world and score it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.captioner import Captioner, CaptionItem
from repic_core.concepts import ConceptDatabase
from repic_core.evaluation import load_captions, score
from repic_core.toyworld.lessons import QUESTIONS
from repic_core.toyworld.scoring import position_agreement, score_scene


def caption_split(
    captioner: Captioner,
    folder: str | Path,
    out: str | Path,
    sets: tuple[str, ...] = ("1", "2", "4"),
    limit: int | None = None,
    resume: bool = True,
) -> dict[str, Path]:
    """Write one caption file a query set (published row format) to ``out/<set>.json``; goes on with
    files that are there (`Captioner.caption_many`) unless `resume` is False.

    The rows' tags are the concepts shown; the prompt holds the query's references, shown or not.
    """
    folder, files = Path(folder), {}
    database = ConceptDatabase.load(folder / "database.json", root=folder)
    queries = json.loads((folder / "queries.json").read_text())
    for label in sets:
        items = [
            CaptionItem(
                query=folder / row["query"],
                references=database.select(*row["references"]),
                question=QUESTIONS[i % len(QUESTIONS)],
                tags=row["shown"],
                label=row["query"],
            )
            for i, row in enumerate(queries[label][:limit])
        ]
        files[label] = Path(out) / f"{label.replace(' ', '_')}.json"
        captioner.caption_many(items, out=files[label], resume=resume)
    return files


def score_split(files: dict[str, Path], folder: str | Path, arm: str) -> list[dict[str, Any]]:
    """One row a query set: names (`precision`, `recall`, `f1` under `span`, where any wrong
    tag counts, also one that no concept has), the scene scores, and `positions`: the share of stated positions of
    shown toys that agree with their boxes (None where none is stated)."""
    folder = Path(folder)
    truth = json.loads((folder / "truth.json").read_text())
    database = ConceptDatabase.load(folder / "database.json", root=folder, check_images=False)
    table = []
    for label, path in files.items():
        records = load_captions(path)
        names = score(records, "span", database, unknown_tags=True)
        scenes = [score_scene(r.caption, truth[r.query]) for r in records]
        row: dict[str, Any] = {"arm": arm, "k": label, "n": len(records)}
        row |= {"precision": names.precision, "recall": names.recall, "f1": names.f1}
        row |= {key: float(np.mean([s[key] for s in scenes])) for key in scenes[0]}
        right, stated = map(
            sum, zip(*(position_agreement(r.caption, truth[r.query]) for r in records), strict=True)
        )
        row["positions"] = right / stated if stated else None
        table.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return table
