"""What lines of information written by the model are worth, on held-out toys.

The toy base knows one request for a description, "Describe this image.", and only of whole scenes. So a toy's
photo is put into an empty scene, and its neighbours are not shown: what the base tells is colour and kind. Of one
kind and colour there may be several toys, so even the true description does not always tell one from all others.
Compared with a line that says nothing ("a little drawing") and with the true description:

- ``unique``: share of toys whose line no other toy of the database has;
- ``right``: share of lines that are the true description;
- ``found by text``: share of toys whose line alone shares the most words with the true description;
- ``located``: share of the toys in scenes whose box (`locate`) has an IoU of at least 0.5.

``repic toyworld infos`` prints the table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.evaluation.query_sets import load_query_set
from repic_core.evaluation.task_scores import locate
from repic_core.io import tables
from repic_core.io.files import write_json_atomic
from repic_core.io.images import open_image
from repic_core.models.boxes import iou
from repic_core.models.loading import load_model
from repic_core.retrieval.infos import Writer, write_infos
from repic_core.rewards import IOU_THRESHOLD
from repic_core.toyworld.arms import cell, over_seeds
from repic_core.toyworld.dataset import write_heldout
from repic_core.toyworld.drawings import identities
from repic_core.toyworld.grammar import read
from repic_core.toyworld.model import DESCRIBE_QUESTION
from repic_core.toyworld.photos import SCENE_SIDE
from repic_core.toyworld.retrieval import toy_embedder

SCENES = 100
SCORES = ("unique", "right", "found by text", "located")


def toy_writer(captioner: Captioner) -> Writer:
    """A `retrieval.infos.Writer` that asks a model of the toy world."""

    def write(concept: Concept, others: Sequence[Concept]) -> str:
        said = captioner.caption(in_a_scene(concept.images[0]), [], DESCRIBE_QUESTION, max_new_tokens=64)
        _, mentions = read(said)
        return next((one.thing for one in mentions if not one.thing.startswith("<")), "")

    return write


def in_a_scene(photo: Any) -> Any:
    """A reference photo in the middle of an empty scene with the colour of the photo's corner."""
    from PIL import Image

    photo = open_image(photo)
    scene = Image.new("RGB", (SCENE_SIDE, SCENE_SIDE), photo.getpixel((0, 0)))
    scene.paste(photo, ((SCENE_SIDE - photo.width) // 2, (SCENE_SIDE - photo.height) // 2))
    return scene


def measure_infos(
    model: Any, processor: Any, folder: str | Path, split: str = "test", scenes: int = SCENES, seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each kind of line (generic, written, true), over all toys of `split` and `scenes` of four toys."""
    folder = Path(folder)
    database = write_heldout(folder, split, scenes, seed)
    write = toy_writer(Captioner(model, processor, system=None))
    written = write_infos(database, write, toy_embedder(model, processor), neighbours=0, every=True)
    truth = [drawing.description for drawing in identities(split)]
    kinds = {
        "generic": [concept.info for concept in database],
        "written": [concept.info for concept, _ in written],
        "true": truth,
    }
    write_json_atomic(folder / "infos.json", kinds)
    shown = json.loads((folder / "truth.json").read_text())
    queries = load_query_set(folder).queries["4 all"]
    rows = []
    for kind, lines in kinds.items():
        described = {
            concept.tag: replace(concept, info=line) for concept, line in zip(database, lines, strict=True)
        }
        hits = []
        for query in queries:
            objects = shown[query["query"]]["objects"]
            asked = [described[one["tag"]] for one in objects]
            boxes = locate(model, processor, folder / query["query"], asked)
            hits += [
                box is not None and iou(box, one["box"]) >= IOU_THRESHOLD
                for box, one in zip(boxes, objects, strict=True)
            ]
        counts = Counter(lines)
        rows.append(
            {
                "line": kind,
                "unique": mean([counts[line] == 1 for line in lines]),
                "right": mean([line == true for line, true in zip(lines, truth, strict=True)]),
                "found by text": mean([found_by_text(n, truth[n], lines) for n in range(len(truth))]),
                "located": mean(hits),
            }
        )
    return rows


def found_by_text(number: int, text: str, lines: Sequence[str]) -> bool:
    """Whether line `number` shares more words with `text` than any other line does.

    >>> found_by_text(1, "a red cat", ["a red dog", "a red cat"]), found_by_text(1, "a red cat", ["a toy", "a toy"])
    (True, False)
    """
    words = set(text.split())
    shared = [len(words & set(line.split())) for line in lines]
    return shared.count(max(shared)) == 1 and shared[number] == max(shared)


def run(
    model: str | Path, out: str | Path, seeds: Sequence[int] = (0, 1, 2), split: str = "test"
) -> list[dict[str, Any]]:
    """`measure_infos` over `seeds`: a row for each kind of line, with means and standard deviations."""
    loaded = load_model(model)
    rows = [row for seed in seeds for row in measure_infos(*loaded, Path(out) / str(seed), split, seed=seed)]
    kinds = dict.fromkeys(row["line"] for row in rows)
    return [{"line": kind, **over_seeds([r for r in rows if r["line"] == kind], SCORES)} for kind in kinds]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, in percent: mean ± standard deviation over seeds."""
    cells = [[row["line"], *(cell(row, name) for name in SCORES)] for row in table]
    return tables.markdown(["line", *SCORES], cells)
