"""OCT and ICT rows from your own photos, in a folder per concept (`data.coco` has VLT rows from boxes).

Folder layout (DreamBooth's)::

    photos/dog/00.jpg  photos/dog/01.jpg  photos/dog2/00.jpg  photos/vase/00.jpg ...

By default every ICT row has new random names, as in the paper (appendix B.4), so that no name can be memorised.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import fold
from repic_core.data.looks import Embed, nearest_photos
from repic_core.data.rows import TrainingExample
from repic_core.io.images import equal_files, image_fault, write_collage
from repic_core.io.paths import plain, shown_entries
from repic_core.prompts import CAPTION_QUESTIONS, OCT_QUESTION, caption_problem
from repic_core.tasks import MULTI_ICT, OCT, SINGLE_ICT

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
PHOTO_SUFFIXES += (".heic", ".heif", ".hif")  # taken if pillow-heif is installed, else named
DEFAULT_INFO = "a thing that belongs to the user"
logger = logging.getLogger(__name__)


class BuildError(ValueError):
    """Photos or annotations that can't be used; the message names the file or the entry."""


def concept_photos(root: str | Path) -> dict[str, list[str]]:
    """The photos of each concept folder under `root`: folder -> paths relative to `root`, both sorted.

    Each photo is read to its end.

    Raises:
        BuildError: there is no folder, a folder has no photos, or a photo can't be read.
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


def without_copies(root: str | Path, photos: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """`concept_photos` with each photo once (by the bytes of its file); a warning names each copy.

    Of copies in one folder the first stays. A photo that lies in several folders is left out of all, since whether
    another photo shows "the same" can't be said of it.

    Raises:
        BuildError: a folder has only such photos; names one and its copy.
    """
    root = Path(root)
    dropped: dict[str, str] = {}
    for group in equal_files([root / file for files in photos.values() for file in files]):
        first, *copies = (str(file.relative_to(root)) for file in group)
        if len({file.parent for file in group}) > 1:
            dropped |= {first: copies[0], **dict.fromkeys(copies, first)}
            logger.warning("%s: left out, the same photo as %s", first, ", ".join(copies))
        else:
            dropped |= dict.fromkeys(copies, first)
            logger.warning("%s: left out, the same photo as %s", ", ".join(copies), first)
    kept = {folder: [file for file in files if file not in dropped] for folder, files in photos.items()}
    for folder, files in kept.items():
        if not files:
            one = photos[folder][0]
            raise BuildError(
                f"{root / one}: the same photo as {dropped[one]}: leave it in one of the folders"
            )
    return kept


def category_of(folder: str) -> str:
    """The category in a folder's name: its last word, without trailing digits.

    If the last word is not the category (DreamBooth's ``backpack_dog`` is a backpack), give the category to
    `build_from_folders`.

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
    embed: Embed | None = None,
) -> list[TrainingExample]:
    """OCT and ICT rows from a folder of photos per concept; image paths are relative to `root`.

    Each concept with at least two photos gives

    - an OCT pair that shows it twice ("yes") and an OCT pair with another concept ("no"), if possible of the same
      category;
    - a single-ICT row: a reference, and another photo as the query;
    - an ICT row with up to `references` references, of which the query shows one; the others are, if possible, of
      the same category;
    - with `collages`, a multi-ICT row: the query is a collage of photos of the concept and of one to three others.
      The references are other photos of them and, in half of the rows, a photo of a concept that is not shown.

    The same photo twice, also by another name or in another folder, is no pair (`without_copies`). For photos that
    already show several concepts, use `build_multi_ict`.

    Args:
        categories: folder -> category; by default from the folder's name (`category_of`).
        infos: folder -> the line of information in the prompt.
        names: folder -> name; by default a new random one in each row.
        collages: the folder, not inside `root`, that collages are written to (JPEG, photos side by side, at most
            448 pixels high). Without it there are no multi-ICT rows.
        embed: photos as vectors. Instead of concepts of the same category, those are taken that look most like the
            first photo of the pair or the reference, by the photo of theirs that does (`looks.nearest_photos`). A
            concept whose photos lie in two folders then makes wrong rows.

    Raises:
        BuildError: as in `concept_photos` and `without_copies`; also if no folder has two photos, if two folders
            have the same name, or if `collages` lies inside `root`.
        ConceptError: a name or a line of information that can't be used in a prompt.
    """
    rng = random.Random(seed)
    photos = without_copies(root, concept_photos(root))
    infos, names, categories = (
        _by_folder(argument, given or {}, photos, root)
        for argument, given in (("infos", infos), ("names", names), ("categories", categories))
    )
    _check_names(names)
    category = {folder: categories.get(folder, category_of(folder)) for folder in photos}
    pairs = {folder: rng.sample(files, 2) for folder, files in photos.items() if len(files) > 1}
    if not pairs:
        raise BuildError(f"{root}: no concept has two photos of its own, so nothing can be compared")
    if collages and Path(collages).resolve().is_relative_to(Path(root).resolve()):
        raise BuildError(f"{collages}: lies inside {root}, where it would be a concept: give another folder")

    near = nearest_photos(root, photos, {f: files[0] for f, files in pairs.items()}, embed) if embed else {}

    def others(folder: str) -> list[str]:
        """The other concepts: by look, or in a random order, those of the same category first."""
        if near:
            return list(near[folder])
        rest = [other for other in photos if other != folder]
        return sorted(rest, key=lambda other: (category[other] != category[folder], rng.random()))

    def photo_of(other: str, folder: str) -> str:
        """The photo of another concept that is shown beside `folder`."""
        return near[folder][other] if near else rng.choice(photos[other])

    rows: list[TrainingExample] = []
    for folder, (one, two) in pairs.items():
        rows.append(TrainingExample((one, two), OCT_QUESTION, "yes", OCT))
        for other in others(folder)[:1]:
            rows.append(TrainingExample((one, photo_of(other, folder)), OCT_QUESTION, "no", OCT))
        rows.append(_ict_row({folder: one}, {}, two, rng, infos, names))
        rest = {other: photo_of(other, folder) for other in others(folder)[: references - 1]}
        if rest:
            rows.append(_ict_row({folder: one}, rest, two, rng, infos, names))
    if not collages or len(pairs) == 1:
        return rows
    for folder in pairs:
        companions = [other for other in pairs if other != folder]
        shown = [folder, *rng.sample(companions, min(rng.randint(1, 3), len(companions)))]
        rng.shuffle(shown)
        query = write_collage(root, [pairs[f][1] for f in shown], collages)
        absent = [other for other in others(folder) if other not in shown][: rng.randint(0, 1)]
        rest = {other: photo_of(other, folder) for other in absent}
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
        distractors: how many references that the query does not show are added to each prompt.

    Raises:
        BuildError: a tag that no concept has, a list without tags or with a tag twice (names the query), or a
            reference photo that is in memory.
        ConceptError: two concepts with the same tag.
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


def _by_folder(
    argument: str, given: Mapping[str, str], photos: Mapping[str, list[str]], root: str | Path
) -> dict[str, str]:
    """`given` with its keys as the folders are spelled on this disk (macOS decomposes letters)."""
    folders = {plain(folder): folder for folder in photos}
    unknown = sorted(folder for folder in given if plain(folder) not in folders)
    if unknown:
        raise BuildError(f"{argument}: {root} has no folder {unknown[0]!r}")
    return {folders[plain(folder)]: value for folder, value in given.items()}


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
    """An ICT row whose query shows the concepts `shown` and not `rest` (both: folder -> reference photo)."""
    used = {fold(name) for name in names.values()}
    concepts = []
    for folder, photo in {**shown, **rest}.items():
        name = names.get(folder) or _random_name(rng, used)
        concepts.append(Concept(name=name, image=photo, info=infos.get(folder, DEFAULT_INFO)))
    tags = [concept.tag for concept in concepts[: len(shown)]]
    return build_multi_ict(concepts, {query: [tags]}, rng.randrange(2**32), distractors=len(rest))[0]


def _random_name(rng: random.Random, used: set[str]) -> str:
    """A made-up name that is not in `used`, to which it is added."""
    while True:
        name = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3))))
        if name not in used:
            used.add(name)
            return name
