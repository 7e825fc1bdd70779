"""The paper's evaluation settings, from a folder laid out like the authors' repository.

`paper_setting` gives a `Setting`: photos with the concepts that they show as references, in the order of the
database (as in upstream's `retriever.py`). `retrieval` replaces the references by retrieved ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem
from repic_core.concepts.concept import ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.evaluation.published import SETS, database_file, queries_file
from repic_core.io.files import read_json
from repic_core.io.paths import find_file
from repic_core.prompts import CAPTION_QUESTIONS, QUESTION_SUFFIXES
from repic_core.retrieval.find import ConceptIndex, with_retrieved
from repic_core.retrieval.regions import Box, whole


class SettingError(ValueError):
    """A setting whose files are missing or malformed; the message names the file and how to fix it."""


@dataclass(frozen=True)
class Setting:
    """What is captioned, and how it is scored.

    Args:
        protocol: the published protocol.
        top_k: how many concepts are retrieved (upstream's `topK`).
    """

    name: str
    items: list[CaptionItem]
    database: ConceptDatabase
    protocol: str
    top_k: int


def paper_setting(
    root: str | Path, name: str, suffix: str = "none", limit: int = 0, questions: str = "single"
) -> Setting:
    """One of the paper's settings, by its name in `published.SETS`.

    Photos show one concept (`caption_eval_single.py`) or two (`caption_eval_multi_2.py`); or they have several rows
    of four concepts (`caption_eval_multi_4.py`).

    Args:
        root: the authors' repository.
        suffix: what follows each question, a key of `prompts.QUESTION_SUFFIXES`. Upstream asks an untuned model
            for the ``name``; its published 2-concept captions of zero-shot and SFT have ``given-names``.
        limit: how many rows to take from the start; 0 for all.
        questions: a key of `prompts.CAPTION_QUESTIONS`, whose questions are asked in turn, row by row. Upstream's
            scripts for two and four concepts ask ``multi``, but its published captions answer ``single``.

    Raises:
        SettingError: an unknown name, suffix or list of questions; or a list, a database or photos are missing.
    """
    if name not in SETS:
        raise SettingError(f"setting {name!r}: use one of {', '.join(SETS)}")
    if suffix not in QUESTION_SUFFIXES:
        raise SettingError(f"suffix {suffix!r}: use one of {', '.join(QUESTION_SUFFIXES)}")
    if questions not in CAPTION_QUESTIONS:
        raise SettingError(f"questions {questions!r}: use one of {', '.join(CAPTION_QUESTIONS)}")
    if limit < 0:
        raise SettingError(f"limit {limit}: give the number of rows, or 0 for all")
    root = Path(root)
    try:
        known = ConceptDatabase.load(database_file(root, name), root=root)
    except (ConceptError, FileNotFoundError) as error:
        raise SettingError(str(error)) from None
    order = {key(concept.tag): number for number, concept in enumerate(known)}
    rows = _rows(queries_file(root, name), known)[: limit or None]
    files = {photo: find_file(root, photo) for photo, _ in rows}
    outside = [photo for photo, file in files.items() if not file.resolve().is_relative_to(root.resolve())]
    if outside:
        raise SettingError(f"{name}: {outside[0]} lies outside {root}")
    missing = [photo for photo, file in files.items() if not file.is_file()]
    if missing:
        raise SettingError(
            f"{name}: {len(missing)} photos are missing, first {root / missing[0]}: put them where the "
            "data/README.md of the authors' repository says"
        )
    asked = [f"{question}{QUESTION_SUFFIXES[suffix]}" for question in CAPTION_QUESTIONS[questions]]
    items = [
        CaptionItem(
            query=files[photo],
            references=sorted(known.select(*tags), key=lambda concept: order[key(concept.tag)]),
            question=asked[number % len(asked)],
            tags=tags,
            label=photo,
        )
        for number, (photo, tags) in enumerate(rows)
    ]
    return Setting(name, items, known, SETS[name].protocol, SETS[name].top_k)


def retrieval(
    setting: Setting,
    index: ConceptIndex,
    embedder: Any,
    regions: Callable[[Any], list[Box]] = whole,
    k: int | None = None,
    **options: Any,
) -> Setting:
    """`setting` with retrieved references: the `k` concepts (by default `top_k`) that `with_retrieved` finds, which
    also takes the `options`."""
    items = with_retrieved(
        setting.items, setting.database, index, embedder, regions, k or setting.top_k, **options
    )
    return replace(setting, items=items)


def _rows(path: Path, known: ConceptDatabase) -> list[tuple[str, list[str]]]:
    """The photo and tags of each row; upstream's files give a photo either tags or a list of lists of tags."""
    listed = read_json(path, SettingError)
    if not isinstance(listed, dict) or not listed:
        raise SettingError(f"{path}: must be an object of photos with their tags")
    rows = []
    for photo, value in listed.items():
        nested = isinstance(value, list) and value and all(isinstance(tags, list) for tags in value)
        groups: Sequence[Any] = value if nested else [value]
        for tags in groups:
            if not tags or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise SettingError(
                    f"{path}, {photo!r}: must be a list of tags, or of such lists, not {tags!r}"
                )
            unknown = [tag for tag in tags if tag not in known]
            if unknown:
                raise SettingError(f"{path}, {photo!r}: {unknown[0]} is not in {known.path}")
            rows.append((photo, tags))
    return rows
