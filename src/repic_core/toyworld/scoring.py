"""Caption a held-out split of the toy world and score it: names, and what their recall hides.

The latter are objects mentioned, right places, the background, and the length.

`truth` describes one scene: ``{"background": str, "objects": [{"tag", "description", "place", "box"}]}``, with
boxes in pixels of the scene.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
    """How many positions that the caption states for shown toys are right, and how many it states.

    A position is right if the centre of the toy's box is in the stated quarter of the scene. Names that the scene
    does not show are left out.

    >>> truth = {"objects": [{"tag": "<bo>", "box": [50, 8, 86, 44]}]}
    >>> position_agreement("On a blue sea, at the top right is <bo>, at the top left is <bo>.", truth)
    (1, 2)
    """
    boxes = {shown["tag"]: shown["box"] for shown in truth["objects"]}
    stated = [(place, boxes[what]) for place, what in stated_places(caption) if what in boxes]
    return sum(place == _quarter(box) for place, box in stated), len(stated)


def _quarter(box: Sequence[float]) -> str:
    """The quarter of the scene in which the centre of a box is."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    vertical = "top" if y < SCENE_SIZE / 2 else "bottom"
    horizontal = "left" if x < SCENE_SIZE / 2 else "right"
    return f"{vertical} {horizontal}"


def score_scene(caption: str, truth: dict[str, Any]) -> dict[str, float]:
    """Scores of one caption, each in [0, 1] except `length` (characters).

    `coverage`: share of the shown objects that are named, or described word for word, or whose place the caption
    mentions. `placed`: share of the shown objects that are named at the right place. `background`: 1 if the caption
    mentions the scene's background.
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
    """Write a caption file (published row format) for each query set to ``out/<set>.json``.

    Existing files are continued (`Captioner.caption_many`) unless `resume` is False. The rows' tags are the
    concepts shown; the prompt holds the query's references, shown or not.
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
    """A row of scores for each query set.

    A row has the scores of names (`precision`, `recall` and `f1` under `span`, where every wrong tag counts, even
    if no concept has it), those of `score_scene`, and `positions`: the share of stated positions of shown toys
    that are right (None if none is stated).
    """
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
        positions = [position_agreement(r.caption, truth[r.query]) for r in records]
        stated = sum(count for _, count in positions)
        row["positions"] = sum(right for right, _ in positions) / stated if stated else None
        table.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return table
