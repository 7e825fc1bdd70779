"""Caption a held-out split of the toy world and score it: names, and what their recall hides.

Objects mentioned, places right, background kept, length.

`truth` describes one scene: ``{"background": str, "objects": [{"tag", "description", "place", "box"}]}``,
boxes in pixels of the scene.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.captioner.caption_files import CaptionItem, load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.scores import score
from repic_core.toyworld.draw import PLACES, SCENE_SIZE
from repic_core.toyworld.lessons import QUESTIONS

_PART = re.compile(rf"at the ({'|'.join(PLACES)}) is (<[^<>]*>|[^,.]*)")


def stated_places(caption: str) -> list[tuple[str, str]]:
    """(place, what) in the order of the caption.

    >>> stated_places("On a night sky, at the top left is <bamo>, at the bottom right is a toy.")
    [('top left', '<bamo>'), ('bottom right', 'a toy')]
    """
    return [(place, what.strip()) for place, what in _PART.findall(caption)]


def position_agreement(caption: str, truth: dict[str, Any]) -> tuple[int, int]:
    """How many of the caption's stated positions of shown toys agree with their boxes, and how many there are: the
    centre of the box must lie in the stated quarter of the scene. Names that the scene does not show are left out.

    >>> truth = {"objects": [{"tag": "<bo>", "box": [50, 8, 86, 44]}]}
    >>> position_agreement("On a blue sea, at the top right is <bo>, at the top left is <bo>.", truth)
    (1, 2)
    """
    boxes = {shown["tag"]: shown["box"] for shown in truth["objects"]}
    stated = [(place, boxes[what]) for place, what in stated_places(caption) if what in boxes]
    half = SCENE_SIZE / 2
    right = sum(
        place == PLACES[2 * ((y1 + y2) / 2 >= half) + ((x1 + x2) / 2 >= half)]
        for place, (x1, y1, x2, y2) in stated
    )
    return right, len(stated)


def score_scene(caption: str, truth: dict[str, Any]) -> dict[str, float]:
    """Scores of one caption, each in [0, 1] except `length` (characters).

    `coverage`: share of the shown objects that are named, or described word for word, or at whose place
    something is said to be. `placed`: share of the shown objects that are named at the right place.
    `background`: 1 if the scene's background is told.
    """
    parts = stated_places(caption)
    places, pairs = {place for place, _ in parts}, set(parts)
    objects = truth["objects"]
    mentioned = [o["tag"] in caption or o["description"] in caption or o["place"] in places for o in objects]
    placed = [(o["place"], o["tag"]) in pairs for o in objects]
    return {
        "coverage": sum(mentioned) / len(objects),
        "placed": sum(placed) / len(objects),
        "background": float(truth["background"] in caption),
        "length": float(len(caption)),
    }


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
