"""How hard negatives are: OCT accuracy of a toy model on pairs whose negatives are random, of one subgroup, or
alike in look. ``repic toyworld negatives`` prints the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.data.builders import build_from_folders
from repic_core.evaluation.task_scores import score_tasks
from repic_core.io import tables
from repic_core.models.loading import load_model
from repic_core.tasks import OCT
from repic_core.toyworld.arms import cell, over_seeds
from repic_core.toyworld.dataset import heldout_number
from repic_core.toyworld.drawings import identities
from repic_core.toyworld.photos import draw_reference
from repic_core.toyworld.retrieval import toy_embedder

WAYS = ("any other drawing", "the same subgroup", "the nearest look")
SCORES = ("all pairs", "yes pairs", "no pairs")


def write_photo_folders(folder: str | Path, split: str, seed: int = 0) -> dict[str, str]:
    """Write two photos of each identity of a held-out split, a folder each, as `build_from_folders` takes them;
    returns the subgroup of each folder's drawing."""
    from PIL import Image

    rng = np.random.default_rng([seed, 60, heldout_number(split)])
    subgroups = {}
    for number, drawing in enumerate(identities(split)):
        name = f"toy_{number:03d}"
        subgroups[name] = drawing.subgroup
        for photo in range(2):
            path = Path(folder) / name / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_reference(drawing, rng)).save(path)
    return subgroups


def measure_negatives(
    model: Any, processor: Any, folder: str | Path, split: str = "val", seed: int = 0
) -> dict[str, dict[str, float]]:
    """For each of `WAYS`, the OCT accuracy on its rows, on their "yes" and on their "no" pairs (`SCORES`).

    The "yes" pairs are the same in all three. A drawing that is alone in its subgroup gets any other.
    """
    subgroups = write_photo_folders(folder, split, seed)
    ways: dict[str, dict[str, Any]] = {
        WAYS[0]: {"categories": dict.fromkeys(subgroups, "toy")},
        WAYS[1]: {"categories": subgroups},
        WAYS[2]: {"embed": toy_embedder(model, processor).images},
    }
    found = {}
    for way, options in ways.items():
        rows = [row for row in build_from_folders(folder, seed, **options) if row.method == OCT]
        parts = (rows, *([row for row in rows if row.solution == answer] for answer in ("yes", "no")))
        scores = [score_tasks(model, processor, part, folder, 64, 4)["oct"].value for part in parts]
        found[way] = dict(zip(SCORES, scores, strict=True))
    return found


def run(model: str | Path, out: str | Path, split: str = "val", seeds: Sequence[int] = (0, 1, 2)) -> str:
    """The table of `measure_negatives` as Markdown, in percent: mean ± standard deviation over seeds."""
    loaded = load_model(model)
    found = [measure_negatives(*loaded, Path(out) / split / str(seed), split, seed) for seed in seeds]
    rows = []
    for way in WAYS:
        line = over_seeds([one[way] for one in found], SCORES)
        rows.append([way, *(cell(line, score) for score in SCORES)])
    return tables.markdown(["negatives", *SCORES], rows)
