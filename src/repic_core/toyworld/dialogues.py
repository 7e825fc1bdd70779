"""Dialogues about held-out toys that a rule can check: is what was shown in earlier turns still known?

- ``caption at once``: F1 of names in a caption of a scene, with its four references in the same turn;
- ``caption later``: the same, where the references came in an earlier turn, with another photo;
- ``who, later``: share of right answers to "Who is this?" about new photos in the second and third turn;
- ``earlier photo``: share of right answers about a scene that was shown in an earlier turn, and a place in it where
  only one toy is;
- ``introduced later``: share of right answers about a toy that is introduced in the second turn.

``repic toyworld dialogues`` prints the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from repic_core.captioner.captioner import Captioner
from repic_core.captioner.chat import Chat
from repic_core.concepts.concept import Concept
from repic_core.io import tables
from repic_core.models.loading import load_model
from repic_core.prompts import CAPTION_QUESTIONS, QUERY_PREFIX
from repic_core.toyworld.arms import cell, over_seeds
from repic_core.toyworld.dataset import SETTINGS, heldout_number
from repic_core.toyworld.lessons import references_of
from repic_core.toyworld.model import PLACE_QUESTION, WHO_QUESTION
from repic_core.toyworld.photos import draw_reference, place_of
from repic_core.toyworld.world import Sample, make_sample

CAPTION_QUESTION = CAPTION_QUESTIONS["single"][0]
SCORES = ("caption at once", "caption later", "who, later", "earlier photo", "introduced later")


def measure_dialogues(
    model: Any, processor: Any, split: str = "test", n: int = 50, seed: int = 0
) -> dict[str, float]:
    """The mean of each of `SCORES` over `n` samples of `split` with four references, of which three are in the
    scene."""
    captioner = SETTINGS.captioner(model, processor)
    rng = np.random.default_rng([seed, 60, heldout_number(split)])
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for _ in range(n):
        sample = make_sample(4, rng, split, n_shown=3)
        for name, score in _dialogues(captioner, sample, rng):
            found[name].append(score)
    return {name: mean(values) for name, values in found.items()}


def _dialogues(captioner: Captioner, sample: Sample, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """(name of the score, value) of each thing that is checked in the dialogues about a sample."""
    references, scene = _references(sample), _photo(sample.scene.image)
    asked = rng.integers(4, size=3).tolist()
    chat = Chat(captioner)
    for turn, number in enumerate(asked):
        photo = _photo(draw_reference(sample.drawings[number], rng))
        said = chat.ask(WHO_QUESTION, photo, [] if turn else references)
        if turn:
            yield "who, later", _is(said, sample.names[number])
    yield "caption later", names_f1(chat.ask(CAPTION_QUESTION, scene), sample)
    yield "caption at once", names_f1(captioner.caption(scene, references, CAPTION_QUESTION), sample)

    chat = Chat(captioner)
    places = [place_of(box) for box in sample.scene.boxes]
    alone = [pair for pair in zip(sample.shown, places, strict=True) if places.count(pair[1]) == 1]
    for turn, (index, place) in enumerate(alone):
        question = PLACE_QUESTION.format(place=place)
        # In the base's lessons, a question about an earlier photo begins like one about a new photo.
        said = chat.ask(f"{QUERY_PREFIX} {question}") if turn else chat.ask(question, scene, references)
        if turn:
            yield "earlier photo", _is(said, sample.names[index])

    chat = Chat(captioner)
    chat.ask(WHO_QUESTION, _photo(draw_reference(sample.drawings[0], rng)), references[:2])
    said = chat.ask(WHO_QUESTION, _photo(draw_reference(sample.drawings[3], rng)), references[2:])
    yield "introduced later", _is(said, sample.names[3])


def names_f1(caption: str, sample: Sample) -> float:
    """F1 of the tags in a caption against the toys in the scene, each counted once."""
    said, true = set(re.findall(r"<\w+>", caption)), {f"<{sample.names[i]}>" for i in sample.shown}
    return 2 * len(said & true) / (len(said) + len(true))


def run(
    model: str | Path,
    adapter: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    split: str = "test",
) -> list[dict[str, Any]]:
    """One row, the means and standard deviations of `measure_dialogues` over `seeds`."""
    loaded = load_model(model, adapter)
    rows = [measure_dialogues(*loaded, split, seed=seed) for seed in seeds]
    return [{"model": Path(adapter or model).name, **over_seeds(rows, SCORES)}]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, in percent."""
    cells = [[row["model"], *(cell(row, name) for name in SCORES)] for row in table]
    return tables.markdown(["model", *SCORES], cells)


def _references(sample: Sample) -> list[Concept]:
    pairs = zip(references_of(sample), sample.photos, strict=True)
    return [replace(concept, image=_photo(photo)) for concept, photo in pairs]


def _photo(array: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(array)


def _is(said: str, name: str) -> float:
    return float(said == f"This is <{name}>.")
