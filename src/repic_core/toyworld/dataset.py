"""The toy world on disk, in the kit's public formats.

A folder holds PNG photos and these files, in which all image paths are relative to the folder:

- ``rows.jsonl``: rows for GRPO, and ``rows_questions.jsonl``: the same with questions about the scenes;
- ``captions_single.jsonl``, ``captions_listing.jsonl`` and ``captions_multi.jsonl``: the same scenes with
  captions, for the supervised arms;
- ``truth.json``: what each scene shows;
- ``database.json`` and ``queries.json``: for held-out splits.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.data.rows import TrainingExample, write_rows
from repic_core.io.files import write_json_atomic, write_text_atomic
from repic_core.prompts import OCT_QUESTION, VLT_QUESTION, caption_problem
from repic_core.tasks import MULTI_ICT, OCT, SINGLE_ICT, VLT
from repic_core.toyworld.draw import draw_reference, draw_scene
from repic_core.toyworld.lessons import QUESTIONS
from repic_core.toyworld.questions import WRONG, training_questions
from repic_core.toyworld.world import GENERIC_INFO, Sample, identities, make_sample, new_name, pick_toys

# Shares of training scenes with 1, 2, 3 and 4 references.
K_WEIGHTS = (0.10, 0.25, 0.30, 0.35)


def save_image(image: np.ndarray, folder: Path, name: str) -> str:
    """Write an RGB array as ``images/<name>.png`` under `folder`; returns that path, relative to `folder`."""
    from PIL import Image

    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return f"images/{name}.png"


def _truth(sample: Sample) -> dict[str, Any]:
    objects = []
    for i, place, box in zip(sample.shown, sample.places, sample.boxes, strict=True):
        tag, description = f"<{sample.names[i]}>", sample.toys[i].description
        objects.append({"tag": tag, "description": description, "place": place, "box": list(box)})
    return {"background": sample.background, "objects": objects}


def _references(sample: Sample, paths: list[str]) -> list[Concept]:
    trio = zip(sample.names, paths, sample.infos, strict=True)
    return [Concept(f"<{name}>", name, path, info, "toy") for name, path, info in trio]


def _vlt_row(scene: str, objects: list[dict[str, Any]], rng: np.random.Generator) -> TrainingExample:
    target = objects[rng.integers(len(objects))]
    described = VLT_QUESTION.format(description=target["description"])
    return TrainingExample((scene,), described, target["box"], VLT)


def _oct_row(folder: Path, name: str, split: str, rng: np.random.Generator) -> TrainingExample:
    """Two photos: in half of the cases of one toy, otherwise of two that often differ in one attribute only."""
    same = bool(rng.random() < 0.5)
    one, two = pick_toys(2, rng, split, 0.6)
    again = save_image(draw_reference(one, rng), folder, f"{name}_0")
    other = save_image(draw_reference(one if same else two, rng), folder, f"{name}_1")
    return TrainingExample((again, other), OCT_QUESTION, "yes" if same else "no", OCT)


def _others(references: list[Concept], seed: int, n: int) -> list[Concept]:
    """`WRONG` concepts with names that are not among the references of scene `n`."""
    rng, names = np.random.default_rng([seed, 40, n]), [concept.name for concept in references]
    others: list[Concept] = []
    while len(others) < WRONG:
        name = new_name(rng, "train")
        if name not in names:
            names.append(name)
            others.append(replace(references[0], tag=f"<{name}>", name=name))
    return others


def write_training(folder: str | Path, n_scenes: int = 2000, seed: int = 0) -> dict[str, int]:
    """Write `n_scenes` training scenes and their rows; returns the number of rows of each file.

    Every scene gives an ICT row: single if one concept is in it, else multi. Every fourth scene also gives a VLT
    row, and every fourth an OCT row of two new photos.

    ``captions_multi.jsonl`` has the same ICT prompts with the perfect caption as solution. The other two files
    show the first concept of each scene alone, with one reference. ``captions_single.jsonl`` has captions about
    the subject ("This is <bo>. On a sandy beach."), the form of the single-concept captions that supervised
    methods have. ``captions_listing.jsonl`` has the form in which the base lists what a scene holds ("On a sandy
    beach, at the top left is <bo>.").
    """
    folder = Path(folder)
    rows: list[TrainingExample] = []
    asking: list[TrainingExample] = []
    single: list[TrainingExample] = []
    listing: list[TrainingExample] = []
    multi: list[TrainingExample] = []
    truth: dict[str, Any] = {}
    for n in range(n_scenes):
        first_row = len(rows)
        rng = np.random.default_rng([seed, 10, n])
        k = int(rng.choice(4, p=K_WEIGHTS)) + 1
        sample = make_sample(k, rng, "train", generic=0.6, hard=0.3)
        photos = [
            save_image(photo, folder, f"{n:05d}_reference_{i}") for i, photo in enumerate(sample.photos)
        ]
        scene = save_image(sample.scene, folder, f"{n:05d}_scene")
        truth[scene] = _truth(sample)
        tags = [o["tag"] for o in truth[scene]["objects"]]
        question = QUESTIONS[rng.integers(len(QUESTIONS))]
        references = _references(sample, photos)
        problem = caption_problem(references, question)
        extras = {"candidates": tuple(c.tag for c in references), "infos": tuple(sample.infos)}
        method = SINGLE_ICT if len(tags) == 1 else MULTI_ICT
        solution = tags[0] if len(tags) == 1 else tags
        rows.append(TrainingExample((*photos, scene), problem, solution, method, **extras))
        multi.append(TrainingExample((*photos, scene), problem, sample.caption(), method, **extras))

        first = sample.shown[0]
        alone, background, places, boxes = draw_scene([sample.toys[first]], rng)
        lone = Sample(
            toys=[sample.toys[first]],
            names=[sample.names[first]],
            infos=[sample.infos[first]],
            photos=[],
            scene=alone,
            background=background,
            shown=[0],
            places=places,
            boxes=boxes,
        )
        lone_path = save_image(alone, folder, f"{n:05d}_alone")
        lone_problem = caption_problem([references[first]], question)
        about = f"This is <{lone.names[0]}>. On a {background}."
        pair = (photos[first], lone_path)
        single.append(TrainingExample(pair, lone_problem, about, SINGLE_ICT))
        listing.append(TrainingExample(pair, lone_problem, lone.caption(), SINGLE_ICT))

        if n % 4 == 0:
            rows.append(_vlt_row(scene, truth[scene]["objects"], rng))
        if n % 4 == 2:
            rows.append(_oct_row(folder, f"{n:05d}_pair", "train", rng))
        asked = training_questions(references, truth[scene], _others(references, seed, n), random.Random(n))
        asking += [replace(rows[first_row], questions=asked), *rows[first_row + 1 :]]
    write_rows(folder / "rows.jsonl", rows)
    write_rows(folder / "rows_questions.jsonl", asking)
    write_rows(folder / "captions_single.jsonl", single)
    write_rows(folder / "captions_listing.jsonl", listing)
    write_rows(folder / "captions_multi.jsonl", multi)
    write_json_atomic(folder / "truth.json", truth)
    return {"rows": len(rows), "captions_single": len(single), "captions_multi": len(multi)}


# Query sets: name -> (references in the prompt, concepts shown); None shows 1 to all of them, at random.
QUERY_SETS = {"1": (1, 1), "2": (2, None), "4": (4, None), "2 all": (2, 2), "4 all": (4, 4)}


def write_heldout(folder: str | Path, split: str, n: int = 150, seed: int = 0) -> ConceptDatabase:
    """Write a held-out split: a database of all its identities, and `n` queries for each of `QUERY_SETS`.

    Every identity has one name, one reference photo and only the generic info, so that it can be named only by
    sight. ``queries.json`` maps a set to ``[{"query", "references", "shown"}]``.
    """
    folder = Path(folder)
    rng = np.random.default_rng([seed, 20, heldout_number(split)])
    names: dict[Any, str] = {}
    concepts = []
    for i, toy in enumerate(identities(split)):
        name = new_name(rng, split)
        while name in names.values():
            name = new_name(rng, split)
        names[toy] = name
        photo = save_image(draw_reference(toy, rng), folder, f"concept_{i:03d}")
        concepts.append(Concept(f"<{name}>", name, photo, GENERIC_INFO, "toy"))
    write_text_atomic(folder / "database.json", _public_format(concepts))
    queries: dict[str, list[dict[str, Any]]] = {}
    truth: dict[str, Any] = {}
    for label, (k, shown) in QUERY_SETS.items():
        queries[label] = []
        for i in range(n):
            sample = make_sample(k, rng, split, n_shown=shown)
            sample.names = [names[toy] for toy in sample.toys]
            path = save_image(sample.scene, folder, f"query_{label.replace(' ', '_')}_{i:03d}")
            truth[path] = _truth(sample)
            tags = [o["tag"] for o in truth[path]["objects"]]
            references = [f"<{name}>" for name in sample.names]
            queries[label].append({"query": path, "references": references, "shown": tags})
    write_json_atomic(folder / "queries.json", queries)
    write_json_atomic(folder / "truth.json", truth)
    return ConceptDatabase.load(folder / "database.json", root=folder)


def write_heldout_tasks(folder: str | Path, split: str, n: int = 150, seed: int = 0) -> list[TrainingExample]:
    """Write `n` OCT and `n` VLT rows of a held-out split to ``tasks.jsonl``; scenes show 1 to 4 toys."""
    folder = Path(folder)
    rng = np.random.default_rng([seed, 30, heldout_number(split)])
    rows = [_oct_row(folder, f"task_{i:03d}_pair", split, rng) for i in range(n)]
    for i in range(n):
        sample = make_sample(int(rng.integers(1, 5)), rng, split)
        scene = save_image(sample.scene, folder, f"task_{i:03d}_scene")
        rows.append(_vlt_row(scene, _truth(sample)["objects"], rng))
    write_rows(folder / "tasks.jsonl", rows)
    return rows


def heldout_number(split: str) -> int:
    """The number of a held-out split in the seeds; ValueError for any other split."""
    if split not in ("val", "test"):
        raise ValueError(f"split {split!r} is not held out: use 'val' or 'test'")
    return 0 if split == "val" else 1


def _public_format(concepts: list[Concept]) -> str:
    entries = {
        c.tag: {"name": c.name, "image": c.images[0], "info": c.info, "category": c.category}
        for c in concepts
    }
    return json.dumps({"concept_dict": entries}, indent=2)
