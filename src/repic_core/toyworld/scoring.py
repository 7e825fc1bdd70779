"""Score captions of a held-out split of the toy world: names, and what their recall hides.

The latter are things told of, wrong names, places and relations, descriptions, the background, forms and length.

`truth` describes one scene: ``{"background": str, "objects": [{"tag", "description", "kind", "place", "box",
"depth"}]}``, with boxes in pixels of the scene; the tag of a stranger is None.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import load_captions
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.scores import score
from repic_core.toyworld.grammar import Mention, read, relations

TAG = re.compile(r"<[^<>]*>")
# Scores of a scene whose means are taken over captions.
MEANS = ("told", "beyond", "again", "wrong", "background", "length")


def score_scene(caption: str, truth: dict[str, Any]) -> dict[str, float]:
    """What one caption says of its scene.

    `told`: things that the caption tells of, at most as many as are shown, over those shown. `beyond`: how many
    more it tells of. `again`: how often it tells of a name that it told of before. `wrong`: tags in the caption
    that the scene does not show. `stated` and `right`: how many places of shown concepts, and relations between
    two of them, the caption states, and how many of these are true. `described`, `kind` and `fitting`: how many
    things are described, how often a thing of this kind is shown, and how often the whole description fits one
    that is not named. `background`: 1 if it is the scene's. `length`: in characters.

    >>> thing = {"tag": "<bo>", "description": "a red bug", "kind": "bug", "place": "top", "box": [60, 0, 99, 40]}
    >>> truth = {"background": "blue sea", "objects": [thing | {"depth": 0}]}
    >>> score = score_scene("On a blue sea. <bo> is at the top. Beside it is <mo>.", truth)
    >>> score["told"], score["wrong"], score["stated"], score["right"]
    (1.0, 1.0, 1.0, 1.0)
    """
    background, mentions = read(caption)
    objects = truth["objects"]
    shown = {thing["tag"]: thing for thing in objects if thing["tag"] is not None}
    claims = [true for mention in mentions for true in _claims(mention, shown)]
    described = [mention.thing for mention in mentions if not mention.thing.startswith("<")]
    named = [mention.thing for mention in mentions if mention.thing.startswith("<")]
    kinds = [thing["kind"] for thing in objects]
    left = [thing["description"] for thing in objects if thing["tag"] is None or thing["tag"] not in caption]
    fitting = 0
    for words in described:
        if words in left:
            left.remove(words)
            fitting += 1
    return {
        "told": min(len(mentions), len(objects)) / len(objects),
        "beyond": float(max(0, len(mentions) - len(objects))),
        "again": float(len(named) - len(set(named))),
        "wrong": float(len({tag for tag in TAG.findall(caption) if tag not in shown})),
        "stated": float(len(claims)),
        "right": float(sum(claims)),
        "described": float(len(described)),
        "kind": float(sum(kind_in(words) in kinds for words in described)),
        "fitting": float(fitting),
        "background": float(background == truth["background"]),
        "length": float(len(caption)),
    }


def kind_in(description: str) -> str | None:
    """The kind of thing that a description names.

    >>> kind_in("a person in white"), kind_in("an orange sea animal")
    ('person', 'sea animal')
    """
    if " person in " in f" {description}":
        return "person"
    words = description.split(" ", 2)
    return words[2] if len(words) == 3 else None


def _claims(mention: Mention, shown: dict[str, dict[str, Any]]) -> list[bool]:
    """Whether what a mention says of a shown concept is true: its place, or its relation to another one."""
    thing, other = shown.get(mention.thing), shown.get(mention.other or "")
    if thing is None:
        return []
    if mention.place is not None:
        return [mention.place == thing["place"]]
    if other is None:
        return []
    return [mention.relation in relations(thing["box"], other["box"], thing["depth"] > other["depth"])]


def score_split(files: dict[str, Path], folder: str | Path, arm: str) -> list[dict[str, Any]]:
    """A row of scores for each query set.

    A row has the scores of names (`precision`, `recall` and `f1` under `span`, where every wrong tag counts, even
    if no concept has it) and the means of `score_scene`; `places`, `kinds` and `descriptions` are the shares of
    statements and descriptions that are right (None without any); `forms` is how many of the grammar's forms the
    captions use, and `commonest` the share of the mentions that have the commonest form.
    """
    folder = Path(folder)
    truth = json.loads((folder / "truth.json").read_text())
    database = ConceptDatabase.load(folder / "database.json", root=folder, check_images=False)
    table = []
    for label, path in files.items():
        records = load_captions(path)
        names = score(records, "span", database, unknown_tags=True)
        scenes = [score_scene(r.caption, truth[r.query]) for r in records]
        total = {key: sum(one[key] for one in scenes) for key in scenes[0]}
        forms = Counter(mention.form for r in records for mention in read(r.caption)[1])
        row: dict[str, Any] = {"arm": arm, "k": label, "n": len(records)}
        row |= {"precision": names.precision, "recall": names.recall, "f1": names.f1}
        row |= {key: total[key] / len(records) for key in MEANS}
        row["places"] = _share(total["right"], total["stated"])
        row["kinds"] = _share(total["kind"], total["described"])
        row["descriptions"] = _share(total["fitting"], total["described"])
        row["forms"] = len(forms)
        row["commonest"] = _share(max(forms.values(), default=0), forms.total())
        table.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return table


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
