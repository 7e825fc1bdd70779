"""Tuning rows from your own photos: a folder per concept gives OCT and ICT, a COCO-style file gives VLT.

Folder layout (DreamBooth's)::

    photos/dog/00.jpg  photos/dog/01.jpg  photos/dog2/00.jpg  photos/vase/00.jpg ...

Names in ICT rows are fresh random ones by default, as in the paper (appendix B.4), so that none can be learnt by
heart.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import fold
from repic_core.data.rows import TrainingExample
from repic_core.io.files import read_json
from repic_core.io.images import image_fault, write_collage
from repic_core.models.boxes import to_model_frame
from repic_core.prompts import CAPTION_QUESTIONS, OCT_QUESTION, VLT_QUESTION, caption_problem
from repic_core.tasks import MULTI_ICT, OCT, SINGLE_ICT, VLT

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
DEFAULT_INFO = "a thing that belongs to the user"


class BuildError(ValueError):
    """Photos or annotations that can't be used; the message names the file or entry."""


def concept_photos(root: str | Path) -> dict[str, list[str]]:
    """Photos of each concept folder under `root`, as paths relative to it, both sorted; each is read to its end.

    Raises:
        BuildError: no folder, a folder without photos, or a photo that can't be read.
    """
    root = Path(root)
    folders = [entry for entry in shown_entries(root) if entry.is_dir()] if root.is_dir() else []
    if not folders:
        raise BuildError(
            f"{root}: no concept folders; give a folder that holds a folder of photos per concept"
        )
    photos = {}
    for folder in folders:
        files = photo_files(folder)
        if not files:
            raise BuildError(f"{folder}: holds no photo ({', '.join(PHOTO_SUFFIXES)})")
        photos[folder.name] = [str(file.relative_to(root)) for file in files]
    return photos


def shown_entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without hidden files and folders."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def photo_files(folder: Path) -> list[Path]:
    """The photos that lie in a folder, sorted by name; each is read to its end.

    Raises:
        BuildError: a photo that can't be read.
    """
    files = [entry for entry in shown_entries(folder) if entry.suffix.lower() in PHOTO_SUFFIXES]
    for file in files:
        fault = image_fault(file)
        if fault:
            raise BuildError(f"{file} {fault}")
    return files


def category_of(folder: str) -> str:
    """The category that a folder's name tells: without trailing digits, the last word of it.

    Where the last word is not the thing (DreamBooth's ``backpack_dog`` is a backpack), give `build_from_folders`
    the category.

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
    collages: str | Path | None = None,
) -> list[TrainingExample]:
    """OCT and ICT rows from a folder of photos per concept; image paths are relative to `root`.

    For each concept with at least two photos: an OCT pair that shows it twice ("yes"), an OCT pair with another
    concept ("no"; one of the same category where there is one), a single-ICT row (a reference, and another photo
    as the query), and an ICT row with up to `references` references of which the query shows one (the others of
    the same category first). With `collages`, also a multi-ICT row: the query is a collage of photos of the
    concept and one to three others, the references are other photos of them and, in half of the rows, one of a
    concept that is not shown. For photos that show several concepts by themselves there is `build_multi_ict`.

    Args:
        categories: folder -> category; by default from the folder's name (`category_of`).
        infos: folder -> the line of information in the prompt.
        names: folder -> name; by default a fresh random one in each row.
        collages: folder, not inside `root`, that collages are written to (JPEG, photos side by side, at most
            448 pixels high). Without it no multi-ICT row is made.

    Raises:
        BuildError: see `concept_photos`; also if no folder has two photos, if two folders have one name, or if
            `collages` lies inside `root`.
        ConceptError: a name or a line of information that can't stand in a prompt.
    """
    rng = random.Random(seed)
    photos = concept_photos(root)
    infos, names, categories = infos or {}, names or {}, categories or {}
    for argument, given in (("infos", infos), ("names", names), ("categories", categories)):
        for folder in sorted(given.keys() - photos.keys()):
            raise BuildError(f"{argument}: {root} has no folder {folder!r}")
    _check_names(names)
    category = {folder: categories.get(folder, category_of(folder)) for folder in photos}
    pairs = {folder: rng.sample(files, 2) for folder, files in photos.items() if len(files) > 1}
    if not pairs:
        raise BuildError(f"{root}: no concept has two photos, so nothing can be compared")

    if collages and Path(collages).resolve().is_relative_to(Path(root).resolve()):
        raise BuildError(f"{collages}: lies inside {root}, where it would be a concept: give another folder")

    def others(folder: str) -> list[str]:
        """The other concepts in a random order, those of the same category first."""
        rest = [other for other in photos if other != folder]
        return sorted(rest, key=lambda other: (category[other] != category[folder], rng.random()))

    rows: list[TrainingExample] = []
    for folder, (one, two) in pairs.items():
        rows.append(TrainingExample((one, two), OCT_QUESTION, "yes", OCT))
        for other in others(folder)[:1]:
            rows.append(TrainingExample((one, rng.choice(photos[other])), OCT_QUESTION, "no", OCT))
        rows.append(_ict_row({folder: one}, {}, two, rng, infos, names))
        rest = {other: rng.choice(photos[other]) for other in others(folder)[: references - 1]}
        if rest:
            rows.append(_ict_row({folder: one}, rest, two, rng, infos, names))
    for folder in pairs if collages and len(pairs) > 1 else ():
        companions = [other for other in pairs if other != folder]
        shown = [folder, *rng.sample(companions, min(rng.randint(1, 3), len(companions)))]
        rng.shuffle(shown)
        query = write_collage(root, [pairs[f][1] for f in shown], collages)
        absent = [other for other in others(folder) if other not in shown][: rng.randint(0, 1)]
        rest = {other: rng.choice(photos[other]) for other in absent}
        rows.append(_ict_row({f: pairs[f][0] for f in shown}, rest, query, rng, infos, names))
    return rows


def build_multi_ict(
    concepts: Sequence[Concept],
    queries: Mapping[str, Sequence[Sequence[str]]],
    seed: int = 0,
    distractors: int = 0,
) -> list[TrainingExample]:
    """ICT rows from photos that show one or several concepts; the references are in a random order.

    Args:
        concepts: a database.
        queries: query path -> lists of tags that it shows (the authors' ``*_query_templates.json``).
        distractors: references added to each prompt that the query does not show.

    Raises:
        BuildError: a tag that no concept has, a list without tags or with one twice (all with their query), or a
            photo that is no file.
        ConceptError: two concepts with one tag.
    """
    rng = random.Random(seed)
    known = ConceptDatabase(concepts)
    for concept in known:
        if not all(isinstance(image, str | Path) for image in concept.images):
            raise BuildError(f"{concept.tag}: its photo is in memory; rows need the path of a file")
    rows = []
    for query, groups in queries.items():
        for tags in groups:
            if not tags or isinstance(tags, str):
                raise BuildError(f"{query}: must have lists of tags that it shows, not {tags!r}")
            absent = [tag for tag in tags if tag not in known]
            if absent:
                raise BuildError(f"{query}: shows {absent[0]}, which is not among the concepts")
            shown = known.select(*tags)
            if len({concept.tag for concept in shown}) < len(tags):
                raise BuildError(f"{query}: has a tag twice: {', '.join(tags)}")
            rest = [concept for concept in concepts if concept not in shown]
            chosen = shown + rng.sample(rest, min(distractors, len(rest)))
            rng.shuffle(chosen)
            problem = caption_problem(chosen, rng.choice(CAPTION_QUESTIONS["single"]))
            images = (*(str(image) for concept in chosen for image in concept.images), query)
            method = SINGLE_ICT if len(tags) == 1 else MULTI_ICT
            solution = shown[0].tag if len(tags) == 1 else [concept.tag for concept in shown]
            extras = {"candidates": tuple(c.tag for c in chosen), "infos": tuple(c.info for c in chosen)}
            rows.append(TrainingExample(images, problem, solution, method, **extras))
    return rows


def build_vlt(
    annotations: str | Path, image_root: str | Path, frame: str = "resized", image_processor: Any = None
) -> list[TrainingExample]:
    """VLT rows from a COCO-style file: `images` (id, file_name, width, height), `annotations` (image_id, bbox
    ``[x, y, width, height]`` in original pixels, category_id, optional `caption` and `iscrowd`), `categories`
    (id, name).

    A box is asked for by its caption, or by its category where that is the only one of its kind in the photo;
    other boxes and those of crowds give no row. Original pixels are those of the photo after its EXIF turn, which
    is how `datasets` decodes it. Boxes are converted to the model's frame (`repic_core.models.boxes`).

    Args:
        frame: of the model, the `frame` of its `models.families.Family`.
        image_processor: for ``resized``: the model's, with the same limit on pixels as in training, or the boxes
            are wrong for it. For the paper's recipe (at most 802816 pixels an image) that is the processor from
            ``load_model(..., max_pixels=PAPER_MAX_PIXELS)``.

    Raises:
        BuildError: a missing field or photo, a photo of another size than the file says, or a box outside its
            photo; names file and entry.
    """
    path = Path(annotations)
    images, kinds, boxes, counts = _read_coco(path)
    sizes: dict[Any, tuple[int, int]] = {}
    rows = []
    for number, annotation in enumerate(boxes, 1):
        where = f"{path}, annotation {annotation.get('id', number)}"
        image_id, category = annotation["image_id"], annotation.get("category_id")
        if image_id not in images:
            raise BuildError(f"{where}: its image_id {image_id!r} is not among the images")
        if image_id not in sizes:
            sizes[image_id] = _photo_size(images[image_id], Path(image_root), where)
        unique = counts[image_id, category] == 1 and category in kinds
        description = annotation.get("caption") or (f"the {kinds[category]}" if unique else "")
        if annotation.get("iscrowd") or not description:
            continue
        try:
            x, y, wide, high = annotation["bbox"]
            box = to_model_frame([x, y, x + wide, y + high], sizes[image_id], frame, image_processor)
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{where}, bbox: {error}") from None
        question = VLT_QUESTION.format(description=description)
        rows.append(TrainingExample((images[image_id]["file_name"],), question, box, VLT))
    return rows


def _read_coco(path: Path) -> tuple[dict[Any, dict], dict[Any, str], list[dict], Counter]:
    """Images by id, names of categories by id, annotations and how many of a category each photo has."""
    data = read_json(path, BuildError)
    try:
        images = {image["id"]: image for image in data["images"]}
        kinds = {category["id"]: category["name"] for category in data.get("categories", ())}
        boxes = list(data["annotations"])
        return images, kinds, boxes, Counter((box["image_id"], box.get("category_id")) for box in boxes)
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path}: not a COCO-style file (missing {error})") from None


def _photo_size(image: Mapping[str, Any], root: Path, where: str) -> tuple[int, int]:
    """(width, height) in pixels of a photo as `datasets` decodes it, if the file says the same."""
    from PIL import ExifTags, Image

    absent = [field for field in ("file_name", "width", "height") if not image.get(field)]
    if absent:
        raise BuildError(f"{where}: its image (id {image['id']!r}) has no {absent[0]}")
    fault = image_fault(root / image["file_name"])
    if fault:
        raise BuildError(f"{where}: its photo {image['file_name']!r} {fault}")
    with Image.open(root / image["file_name"]) as photo:
        size = photo.size
        if photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):  # turned by 90 degrees
            size = size[::-1]
    said = (image["width"], image["height"])
    if said != size:
        raise BuildError(
            f"{where}: its photo {image['file_name']!r} has {size[0]} x {size[1]} pixels (after its EXIF turn), "
            f"but the file says {said[0]} x {said[1]}: mend the size and the boxes"
        )
    return size


def _check_names(names: Mapping[str, str]) -> None:
    owners: dict[str, str] = {}
    for folder, name in names.items():
        owner = owners.setdefault(fold(name), folder)
        if owner != folder:
            raise BuildError(f"names: {owner!r} and {folder!r} would both be <{name}>: give each its own")


def _ict_row(
    shown: Mapping[str, str],
    rest: Mapping[str, str],
    query: str,
    rng: random.Random,
    infos: Mapping[str, str],
    names: Mapping[str, str],
) -> TrainingExample:
    """An ICT row with a query that shows some folders and not the rest (both: folder -> its reference photo)."""
    used = {fold(name) for name in names.values()}
    concepts = []
    for folder, photo in {**shown, **rest}.items():
        name = names.get(folder) or _random_name(rng, used)
        concepts.append(Concept(name=name, image=photo, info=infos.get(folder, DEFAULT_INFO)))
    tags = [concept.tag for concept in concepts[: len(shown)]]
    return build_multi_ict(concepts, {query: [tags]}, rng.randrange(2**32), distractors=len(rest))[0]


def _random_name(rng: random.Random, used: set[str]) -> str:
    """A made-up name that is not among those used, to which it is added."""
    while True:
        name = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3))))
        if name not in used:
            used.add(name)
            return name
