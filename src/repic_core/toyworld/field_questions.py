"""Questions about held-out toys by rule, in the files of RAP-MLLM and Yo'LLaVA (`evaluation.field_questions`).

Each has two options, the right one as often A as B, and no question can be answered better than by chance without
what it is about:

- ``vqa-who.json``: "Who is at the top left?", where only one toy is, of a scene of four; the options are
  two of them.
- ``vqa-where.json``: "Where is sks?", of the same toys; the options are the places of both.
- ``text.json``: the colour and the kind, which the infos of ``described.json`` tell. Two toys are asked about
  together, each with the other's as the wrong option, so that no option is right more often than wrong.
- ``recognition.json``: new photos of `RECOGNISED` toys, each asked about each of these toys.

The infos of ``database.json`` tell nothing, so that there a toy is known by sight alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.query_sets import load_query_set
from repic_core.io.files import write_json_atomic
from repic_core.toyworld.dataset import heldout_number, save_image, write_heldout
from repic_core.toyworld.drawings import Drawing, identities
from repic_core.toyworld.model import PLACE_QUESTION
from repic_core.toyworld.photos import draw_reference

RECOGNISED, PHOTOS = 20, 3  # toys, and new photos of each
ASKED_OF = ("color", "kind")
# As RAP-MLLM asks (`eval/recognition_test.json`).
RECOGNITION_QUESTION = "<image>\nIs {tag} in this image? Answer with a single word or phrase."


def write_field_questions(folder: str | Path, split: str, n: int = 150, seed: int = 0) -> dict[str, int]:
    """Write the files of this module, with photos, for `n` scenes; returns the number of questions of each file."""
    folder = Path(folder)
    database = write_heldout(folder, split, n, seed)
    rng = np.random.default_rng([seed, 50, heldout_number(split)])
    drawings = dict(zip([concept.tag for concept in database], identities(split), strict=True))
    described = [replace(concept, info=drawings[concept.tag].description) for concept in database]
    ConceptDatabase(described).save(folder / "described.json", folder)
    files: dict[str, Any] = {
        **_scene_questions(folder, rng),
        "text": _text_questions(drawings, rng),
        "recognition": _recognition(folder, drawings, rng),
    }
    for name, questions in files.items():
        write_json_atomic(folder / f"{name}.json", questions)
    return {
        name: len(asked) if isinstance(asked, list) else sum(map(len, asked.values()))
        for name, asked in files.items()
    }


def _scene_questions(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """The two files about scenes, of every scene of four in which two are alone at their places."""
    queries = load_query_set(folder).queries["4 all"]
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    who: dict[str, Any] = {}
    where: dict[str, Any] = {}
    for row in queries:
        objects = truth[row["query"]]["objects"]
        places = [one["place"] for one in objects]
        pair = [one for one in objects if places.count(one["place"]) == 1][:2]
        if len(pair) < 2:
            continue
        for own, other in (pair, pair[::-1]):
            name, photo = own["tag"].strip("<>"), row["query"]
            asked = PLACE_QUESTION.format(place=own["place"])
            who.setdefault(name, {})[photo] = _choice(asked, own["tag"], other["tag"], "options", rng)
            where.setdefault(name, {})[photo] = _choice(
                "Where is sks?", f"at the {own['place']}", f"at the {other['place']}", "options", rng
            )
    return {"vqa-who": who, "vqa-where": where}


def _text_questions(drawings: dict[str, Drawing], rng: np.random.Generator) -> dict[str, Any]:
    """The file about infos: what two toys share, or what is a part of the other's ("animal", "sea animal"), is not
    asked."""
    found: dict[str, Any] = {}
    tags = list(drawings)
    for number, what in enumerate(ASKED_OF):
        order = [tags[i] for i in rng.permutation(len(tags))]
        for pair in zip(order[::2], order[1::2], strict=False):
            values = [getattr(drawings[tag], what) for tag in pair]
            if values[0] in values[1] or values[1] in values[0]:
                continue
            for tag, right, wrong in zip(pair, values, values[::-1], strict=True):
                question = _choice(f"What is the {what} of sks?", right, wrong, "option", rng)
                found.setdefault(tag.strip("<>"), {})[str(number)] = question
    return found


def _choice(text: str, right: str, wrong: str, field: str, rng: np.random.Generator) -> dict[str, Any]:
    """An entry of their files; Yo'LLaVA's text-only file calls its options ``option``."""
    first = bool(rng.random() < 0.5)
    options = {"A": right, "B": wrong} if first else {"A": wrong, "B": right}
    return {"question": text, field: options, "correct_answer": "A" if first else "B"}


def _recognition(
    folder: Path, drawings: dict[str, Drawing], rng: np.random.Generator
) -> list[dict[str, Any]]:
    tags = list(drawings)
    known = [tags[i] for i in rng.permutation(len(tags))[:RECOGNISED]]
    rows = []
    for shown in known:
        for number in range(PHOTOS):
            name = f"recognition_{shown.strip('<>')}_{number}"
            photo = save_image(draw_reference(drawings[shown], rng), folder, name)
            for tag in known:
                row = {"image": photo, "question": RECOGNITION_QUESTION.format(tag=tag)}
                row |= {"concept": tag.strip("<>"), "type": "positive" if tag == shown else "negative"}
                rows.append({**row, "correct_answer": tag == shown})
    return rows
