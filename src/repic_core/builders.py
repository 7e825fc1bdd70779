"""Tuning rows from your own photos: a folder per concept gives OCT and ICT, a COCO-style file gives VLT.

Folder layout (DreamBooth's)::

    photos/dog/00.jpg  photos/dog/01.jpg  photos/dog2/00.jpg  photos/vase/00.jpg ...

Names in ICT rows are fresh random ones by default, as in the paper (appendix B.4), so that none can be learnt by
heart.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.boxes import to_model_frame
from repic_core.concepts import Concept
from repic_core.prompts import CAPTION_QUESTIONS, OCT_QUESTION, VLT_QUESTION, caption_problem
from repic_core.tasks import TrainingExample

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
DEFAULT_INFO = "a thing that belongs to the user"


class BuildError(ValueError):
    """Photos or annotations that can't be used; the message names the file or entry."""


def concept_photos(root: str | Path) -> dict[str, list[str]]:
    """Photos of each concept folder under `root`, as paths relative to it, both sorted.

    Raises:
        BuildError: no folder, a folder without photos, or a photo that can't be read.
    """
    from PIL import Image

    root = Path(root)
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not folders:
        raise BuildError(
            f"{root}: no concept folders; give a folder that holds a folder of photos per concept"
        )
    photos = {}
    for folder in folders:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
        if not files:
            raise BuildError(f"{folder}: holds no photo ({', '.join(PHOTO_SUFFIXES)})")
        for file in files:
            try:
                with Image.open(file) as image:
                    image.verify()
            except Exception as error:
                raise BuildError(f"{file}: unreadable photo ({error}): replace or remove it") from None
        photos[folder.name] = [str(file.relative_to(root)) for file in files]
    return photos


def category_of(folder: str) -> str:
    """The category that a folder's name tells: without trailing digits, the last word of it.

    >>> category_of("dog2"), category_of("grey_sloth_plushie")
    ('dog', 'plushie')
    """
    return re.split(r"[_\s-]+", re.sub(r"[_\s-]*\d+$", "", folder))[-1] or folder


def build_from_folders(
    root: str | Path,
    seed: int = 0,
    categories: Mapping[str, str] | None = None,
    infos: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    references: int = 4,
) -> list[TrainingExample]:
    """OCT and ICT rows from a folder of photos per concept; image paths are relative to `root`.

    For each concept with at least two photos: an OCT pair that shows it twice ("yes"), an OCT pair with another
    concept ("no"; one of the same category where there is one), a single-ICT row (a reference, and another photo
    as the query), and an ICT row with up to `references` references of which the query shows one. Photos that
    show several concepts at once need `build_multi_ict`.

    Args:
        categories: folder -> category; by default from the folder's name (`category_of`).
        infos: folder -> the line of information in the prompt.
        names: folder -> name; by default a fresh random one in each row.

    Raises:
        BuildError: see `concept_photos`; also if no folder has two photos.
    """
    rng = random.Random(seed)
    photos = concept_photos(root)
    category = {folder: (categories or {}).get(folder, category_of(folder)) for folder in photos}
    rows: list[TrainingExample] = []
    for folder, files in photos.items():
        if len(files) < 2:
            continue
        one, two = rng.sample(files, 2)
        rows.append(TrainingExample((one, two), OCT_QUESTION, "yes", "yes_no"))
        others = [f for f in photos if f != folder]
        hard = [f for f in others if category[f] == category[folder]] or others
        if hard:
            other = rng.choice(photos[rng.choice(hard)])
            rows.append(TrainingExample((one, other), OCT_QUESTION, "no", "yes_no"))
        rows.append(_ict_row([folder], {folder: one}, [folder], two, rng, infos, names))
        # hard distractors first, then any
        rest = sorted(others, key=lambda f: (category[f] != category[folder], rng.random()))[: references - 1]
        if rest:
            chosen = [folder, *rest]
            rng.shuffle(chosen)
            shown = {f: one if f == folder else rng.choice(photos[f]) for f in chosen}
            rows.append(_ict_row(chosen, shown, [folder], two, rng, infos, names))
    if not rows:
        raise BuildError(f"{root}: no concept has two photos, so nothing can be compared")
    return rows


def build_multi_ict(
    concepts: Sequence[Concept],
    queries: Mapping[str, Sequence[Sequence[str]]],
    seed: int = 0,
    distractors: int = 0,
) -> list[TrainingExample]:
    """Multi-ICT rows from photos that show several concepts.

    Args:
        concepts: a database.
        queries: query path -> lists of tags that it shows (the authors' ``*_query_templates.json``).
        distractors: references added to each prompt that the query does not show.

    Raises:
        BuildError: a tag that no concept has (with its query).
    """
    rng = random.Random(seed)
    known = {concept.tag.casefold(): concept for concept in concepts}
    rows = []
    for query, groups in queries.items():
        for tags in groups:
            absent = [tag for tag in tags if tag.casefold() not in known]
            if absent:
                raise BuildError(f"{query}: shows {absent[0]}, which is not among the concepts")
            shown = [known[tag.casefold()] for tag in tags]
            rest = [concept for concept in concepts if concept not in shown]
            chosen = shown + rng.sample(rest, min(distractors, len(rest)))
            rng.shuffle(chosen)
            problem = caption_problem(chosen, rng.choice(CAPTION_QUESTIONS["single"]))
            images = (*(str(image) for concept in chosen for image in concept.images), query)
            method = "yes_no_name" if len(tags) == 1 else "yes_no_name_multi"
            solution = shown[0].tag if len(tags) == 1 else [concept.tag for concept in shown]
            extras = {"candidates": tuple(c.tag for c in chosen), "infos": tuple(c.info for c in chosen)}
            rows.append(TrainingExample(images, problem, solution, method, **extras))
    return rows


def build_vlt(
    annotations: str | Path, image_root: str | Path, frame: str = "resized", image_processor: Any = None
) -> list[TrainingExample]:
    """VLT rows from a COCO-style file: `images` (id, file_name, width, height), `annotations` (image_id, bbox
    ``[x, y, width, height]`` in original pixels, category_id, optional `caption`), `categories` (id, name).

    A box is asked for by its caption, or by its category where that is the only one of its kind in the photo;
    other boxes give no row. Boxes are converted to the model's frame (`repic_core.boxes`).

    Raises:
        BuildError: a missing field or photo, or a box outside its photo; names file and entry.
    """
    path = Path(annotations)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BuildError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise BuildError(
            f"{path}: not valid JSON (line {error.lineno}: {error.msg}): was it cut off?"
        ) from None
    try:
        images = {image["id"]: image for image in data["images"]}
        kinds = {category["id"]: category["name"] for category in data.get("categories", ())}
        boxes = [(a["image_id"], a.get("category_id"), a) for a in data["annotations"]]
    except (KeyError, TypeError) as error:
        raise BuildError(f"{path}: not a COCO-style file (missing {error})") from None
    counts: dict[tuple[Any, Any], int] = {}
    for image_id, category, _ in boxes:
        counts[image_id, category] = counts.get((image_id, category), 0) + 1
    rows = []
    for number, (image_id, category, annotation) in enumerate(boxes, 1):
        where = f"{path}, annotation {annotation.get('id', number)}"
        if image_id not in images:
            raise BuildError(f"{where}: its image_id {image_id!r} is not among the images")
        image = images[image_id]
        if not (Path(image_root) / image["file_name"]).is_file():
            raise BuildError(f"{where}: no photo {image['file_name']!r} under {image_root}")
        unique = counts[image_id, category] == 1 and category in kinds
        description = annotation.get("caption") or (f"the {kinds[category]}" if unique else "")
        if not description:
            continue
        try:
            x, y, wide, high = annotation["bbox"]
            box = to_model_frame(
                [x, y, x + wide, y + high], (image["width"], image["height"]), frame, image_processor
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{where}, bbox: {error}") from None
        question = VLT_QUESTION.format(description=description)
        rows.append(TrainingExample((image["file_name"],), question, box, "iou"))
    return rows


def _ict_row(
    chosen: Sequence[str],
    photos: Mapping[str, str],
    shown: Sequence[str],
    query: str,
    rng: random.Random,
    infos: Mapping[str, str] | None,
    names: Mapping[str, str] | None,
) -> TrainingExample:
    used: set[str] = set()
    concepts = {}
    for folder in chosen:
        name = (names or {}).get(folder) or _random_name(rng, used)
        used.add(name)
        concepts[folder] = Concept(
            name=name, image=photos[folder], info=(infos or {}).get(folder, DEFAULT_INFO)
        )
    problem = caption_problem(list(concepts.values()), rng.choice(CAPTION_QUESTIONS["single"]))
    tags = [concepts[folder].tag for folder in shown]
    return TrainingExample(
        (*(photos[folder] for folder in chosen), query),
        problem,
        tags[0] if len(tags) == 1 else tags,
        "yes_no_name" if len(tags) == 1 else "yes_no_name_multi",
        tuple(concept.tag for concept in concepts.values()),
        tuple(concept.info for concept in concepts.values()),
    )


def _random_name(rng: random.Random, used: set[str]) -> str:
    while True:
        name = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3))))
        if name not in used:
            return name
