"""The toy world on disk, in the kit's public formats.

A folder holds PNG photos and these files, in which all image paths are relative to the folder:

- ``rows.jsonl``: rows for GRPO, and ``rows_questions.jsonl``: the same with questions about the scenes;
- ``captions_single.jsonl``, ``captions_listing.jsonl`` and ``captions_multi.jsonl``: the same scenes with
  captions, for the supervised arms;
- ``truth.json``: what each scene shows;
- ``database.json``, ``queries.json`` and ``settings.json`` (`evaluation.query_sets`): for held-out splits.
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
from repic_core.data.rows import TrainingExample, read_rows, write_rows
from repic_core.evaluation.query_sets import QuerySettings, write_settings
from repic_core.io.files import write_json_atomic, write_text_atomic
from repic_core.prompts import OCT_QUESTION, VLT_QUESTION, caption_problem
from repic_core.tasks import MULTI_ICT, OCT, SINGLE_ICT, VLT
from repic_core.toyworld.drawings import identities, pick
from repic_core.toyworld.lessons import QUESTIONS, STRANGERS
from repic_core.toyworld.photos import REFERENCE_SIDE, draw_reference, draw_scene, place_of
from repic_core.toyworld.questions import WRONG, training_questions
from repic_core.toyworld.world import GENERIC_INFO, Sample, make_sample, new_name, new_names

# How toy models are asked.
SETTINGS = QuerySettings(system=None, max_new_tokens=112, questions=QUESTIONS, side=REFERENCE_SIDE)
# Shares of training scenes with 1 to 7 references.
K_WEIGHTS = (0.08, 0.17, 0.2, 0.2, 0.15, 0.1, 0.1)


def save_image(image: np.ndarray, folder: Path, name: str) -> str:
    """Write an RGB array as ``images/<name>.png`` under `folder`; returns that path, relative to `folder`."""
    from PIL import Image

    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return f"images/{name}.png"


def _truth(sample: Sample) -> dict[str, Any]:
    """What a scene shows; `tag` is None for a stranger, and larger `depth`s are in front."""
    objects = []
    for i, (index, thing) in enumerate(zip(sample.shown, sample.things, strict=True)):
        box = sample.scene.boxes[i]
        facts = {"tag": None if index is None else f"<{sample.names[index]}>", "drawing": thing.name}
        facts |= {"description": thing.description, "kind": thing.kind}
        objects.append({**facts, "place": place_of(box), "box": list(box), "depth": sample.scene.depths[i]})
    return {"background": sample.scene.background, "objects": objects}


def shown_tags(truth: dict[str, Any]) -> list[str]:
    """The tags of the concepts that a scene shows."""
    return [o["tag"] for o in truth["objects"] if o["tag"] is not None]


def _references(sample: Sample, paths: list[str]) -> list[Concept]:
    trio = zip(sample.names, paths, sample.infos, strict=True)
    return [Concept(f"<{name}>", name, path, info, "toy") for name, path, info in trio]


def _vlt_row(scene: str, objects: list[dict[str, Any]], rng: np.random.Generator) -> TrainingExample | None:
    """The box of a thing whose description fits no other in the scene; None if there is none."""
    described = [o["description"] for o in objects]
    clear = [o for o in objects if described.count(o["description"]) == 1]
    if not clear:
        return None
    target = clear[rng.integers(len(clear))]
    question = VLT_QUESTION.format(description=target["description"])
    return TrainingExample((scene,), question, target["box"], VLT)


def _oct_row(folder: Path, name: str, split: str, rng: np.random.Generator) -> TrainingExample:
    """Two photos: in half of the cases of one drawing, otherwise of two that are often siblings."""
    same = bool(rng.random() < 0.5)
    one, two = pick(2, rng, split, 0.6)
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


def _alone(sample: Sample, rng: np.random.Generator) -> Sample:
    """The first concept that the sample's scene shows, in a new scene of its own."""
    first = sample.shown[0]
    return Sample(
        drawings=[sample.drawings[first]],
        names=[sample.names[first]],
        infos=[sample.infos[first]],
        photos=[sample.photos[first]],
        scene=draw_scene([sample.drawings[first]], rng),
        shown=[0],
        things=[sample.drawings[first]],
    )


def write_training(folder: str | Path, n_scenes: int = 2000, seed: int = 0) -> dict[str, int]:
    """Write `n_scenes` training scenes and their rows; returns the number of rows of each file.

    Every scene gives an ICT row: single if one concept is in it, else multi. Every fourth scene also gives a VLT
    row, and every fourth an OCT row of two new photos.

    ``captions_multi.jsonl`` has the same ICT prompts with the perfect caption as solution. The other two files
    show the first concept of each scene alone, with one reference. ``captions_single.jsonl`` has captions about
    the subject ("This is <bo>. On a sandy beach."), the form of the single-concept captions that supervised
    methods have. ``captions_listing.jsonl`` has the base's own forms ("On a sandy beach. At the left is <bo>.").
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
        k = int(rng.choice(len(K_WEIGHTS), p=K_WEIGHTS)) + 1
        strangers = int(rng.choice(len(STRANGERS), p=STRANGERS))
        sample = make_sample(k, rng, "train", generic=0.6, hard=0.3, strangers=strangers)
        photos = [
            save_image(photo, folder, f"{n:05d}_reference_{i}") for i, photo in enumerate(sample.photos)
        ]
        scene = save_image(sample.scene.image, folder, f"{n:05d}_scene")
        truth[scene] = _truth(sample)
        tags = shown_tags(truth[scene])
        question = QUESTIONS[rng.integers(len(QUESTIONS))]
        references = _references(sample, photos)
        problem = caption_problem(references, question)
        extras = {"candidates": tuple(c.tag for c in references), "infos": tuple(sample.infos)}
        method = SINGLE_ICT if len(tags) == 1 else MULTI_ICT
        solution = tags[0] if len(tags) == 1 else tags
        rows.append(TrainingExample((*photos, scene), problem, solution, method, **extras))
        multi.append(TrainingExample((*photos, scene), problem, sample.caption(rng), method, **extras))

        lone = _alone(sample, rng)
        lone_path = save_image(lone.scene.image, folder, f"{n:05d}_alone")
        lone_problem = caption_problem([references[sample.shown[0]]], question)
        about = f"This is <{lone.names[0]}>. On a {lone.scene.background}."
        pair = (photos[sample.shown[0]], lone_path)
        single.append(TrainingExample(pair, lone_problem, about, SINGLE_ICT))
        listing.append(TrainingExample(pair, lone_problem, lone.caption(rng), SINGLE_ICT))

        if n % 4 == 0:
            row = _vlt_row(scene, truth[scene]["objects"], rng)
            rows += [] if row is None else [row]
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


# Query sets, as options of `make_sample`: references in the prompt, how many of them are shown (None: 1 to all, at
# random), how many things are shown besides (None: as in training), and the share of siblings among all of them.
QUERY_SETS: dict[str, dict[str, Any]] = {
    "1": {"k": 1, "n_shown": 1, "strangers": None, "hard": 0.3},
    "2": {"k": 2, "n_shown": None, "strangers": None, "hard": 0.3},
    "4": {"k": 4, "n_shown": None, "strangers": None, "hard": 0.3},
    "7": {"k": 7, "n_shown": None, "strangers": None, "hard": 0.3},
    "2 all": {"k": 2, "n_shown": 2, "strangers": 0, "hard": 0.3},
    "4 all": {"k": 4, "n_shown": 4, "strangers": 0, "hard": 0.3},
    "7 all": {"k": 7, "n_shown": 7, "strangers": 0, "hard": 0.3},
    "4 siblings": {"k": 4, "n_shown": 2, "strangers": 0, "hard": 1.0},
}


def write_heldout(folder: str | Path, split: str, n: int = 150, seed: int = 0) -> ConceptDatabase:
    """Write a held-out split: a database of all its identities, and `n` queries for each of `QUERY_SETS`.

    Every identity has one name, one reference photo and only the generic info, so that it can be named only by
    sight. The folder is one of `evaluation.query_sets`.
    """
    folder = Path(folder)
    rng = np.random.default_rng([seed, 20, heldout_number(split)])
    drawings = identities(split)
    names = dict(zip(drawings, new_names(len(drawings), rng, split), strict=True))
    concepts = []
    for i, (drawing, name) in enumerate(names.items()):
        photo = save_image(draw_reference(drawing, rng), folder, f"concept_{i:03d}")
        concepts.append(Concept(f"<{name}>", name, photo, GENERIC_INFO, "toy"))
    write_text_atomic(folder / "database.json", _public_format(concepts))
    queries: dict[str, list[dict[str, Any]]] = {}
    truth: dict[str, Any] = {}
    for label, options in QUERY_SETS.items():
        queries[label] = []
        for i in range(n):
            strangers = options["strangers"]
            if strangers is None:
                strangers = int(rng.choice(len(STRANGERS), p=STRANGERS))
            sample = make_sample(**options | {"strangers": strangers}, rng=rng, split=split)
            sample.names = [names[drawing] for drawing in sample.drawings]
            path = save_image(sample.scene.image, folder, f"query_{label.replace(' ', '_')}_{i:03d}")
            truth[path] = _truth(sample)
            references = [f"<{name}>" for name in sample.names]
            queries[label].append({"query": path, "references": references, "shown": shown_tags(truth[path])})
    write_json_atomic(folder / "queries.json", queries)
    write_json_atomic(folder / "truth.json", truth)
    write_settings(folder, SETTINGS)
    return ConceptDatabase.load(folder / "database.json", root=folder)


def write_photo_folder(folder: str | Path, concepts: int = 6, seed: int = 0) -> Path:
    """Draw what a person would have: a folder with a folder of photos for each of some held-out concepts.

    Each has a reference, a scene that shows it alone, and its description in ``info.txt``.

    Returns:
        `folder`.
    """
    from PIL import Image

    folder, rng = Path(folder), np.random.default_rng([seed, 60])
    for drawing, name in zip(pick(concepts, rng, "test"), new_names(concepts, rng, "test"), strict=True):
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_reference(drawing, rng)).save(own / "1.png")
        Image.fromarray(draw_scene([drawing], rng).image).save(own / "2.png")
        write_text_atomic(own / "info.txt", drawing.description + "\n")
    return folder


def overlap(training: str | Path, heldout: str | Path) -> dict[str, int]:
    """How many names and how many drawings a held-out folder shares with the training's: both should be 0.

    Of the training, names that no photo shows count, too.
    """
    seen, kept = (_written(Path(folder) / "truth.json") for folder in (training, heldout))
    for row in read_rows(Path(training) / "rows.jsonl", check_images=False):
        seen["tag"] |= set(row.candidates)
    return {name: len(seen[name] & kept[name]) for name in seen}


def _written(truth: Path) -> dict[str, set[str]]:
    """The names and drawings in a ``truth.json``; strangers have no name."""
    objects = [one for scene in json.loads(truth.read_text()).values() for one in scene["objects"]]
    return {name: {one[name] for one in objects} - {None} for name in ("tag", "drawing")}


def write_heldout_tasks(folder: str | Path, split: str, n: int = 150, seed: int = 0) -> list[TrainingExample]:
    """Write `n` OCT and `n` VLT rows of a held-out split to ``tasks.jsonl``; scenes show 1 to 7 drawings."""
    folder = Path(folder)
    rng = np.random.default_rng([seed, 30, heldout_number(split)])
    rows = [_oct_row(folder, f"task_{i:03d}_pair", split, rng) for i in range(n)]
    while len(rows) < 2 * n:
        sample = make_sample(int(rng.integers(1, 8)), rng, split)
        scene = save_image(sample.scene.image, folder, f"task_{len(rows) - n:03d}_scene")
        row = _vlt_row(scene, _truth(sample)["objects"], rng)
        rows += [] if row is None else [row]
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
