"""Which of two caption files a judge prefers, photo by photo, asked as in the paper.

The instruction is the authors' (RePIC, ``evaluation/GPT_eval_single.py`` without references; with them
``evaluation/gemini_eval_multi.py``, or ``evaluation/GPT_eval_multi.py`` in the layout ``gpt``). This differs from
their scripts:

- Both orders are asked. A caption wins if it is chosen as A and as B; everything else is a tie. The scripts ask
  once, with their own captions always as B.
- Captions are quoted on one line (`judges.quoted`), without the scripts' "Ans:", and the temperature is 0.
- There may be any number of references, each with its first photo; the script sends the photo of the second twice.
- With references, too, the judge's role is in a system message; the script has one text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionRecord, Captions, records_of
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.choices import parse_choice
from repic_core.evaluation.intervals import Interval, mean_interval, units_of
from repic_core.evaluation.judges import (
    Judge,
    RecordedJudge,
    check_readable,
    image_part,
    quoted,
    text_part,
)
from repic_core.io.images import image_fault
from repic_core.io.paths import find_file

SYSTEM = (
    "You are an evaluation expert. Your task is to determine which answer best describes the given {image} "
    "accurately. Carefully analyze the options and select the most appropriate one as your final choice."
)
CRITERION = "The preferable caption is one that provides a meaningful and accurate description of the image."
QUESTION = "Which one is more preferable caption to the image?"
CRITERION_WITH_REFERENCES = (
    "The preferable caption for the query image is one that is not merely a duplication of the given information "
    "but provides a meaningful and accurate description of the image."
)
FINAL = "output the final answer by choosing one of the options with a single alphabet."
ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
# Of the layout "gpt" (`GPT_eval_multi.py`, lines 76 to 102): each line before its photo, the query last.
CRITERION_GPT = (
    "The preferable caption is one that is not merely a duplication of the given information but provides a "
    "meaningful and accurate description of the image."
)
QUESTION_GPT = "Which one is more preferable caption to the query image?"
LAYOUTS = ("gemini", "gpt")  # with references
POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True)
class Preference:
    """What a judge decided about two files; a win is a win of the first file.

    Args:
        outcomes: "win", "tie" or "loss" for each row, in the first file's order.
        win_rate: (wins + ties / 2) / rows, with its 95% interval by photo.
        first_position: the share of "A" among the answers that choose; 0.5 for a judge without position bias, None
            if no answer chooses.
        unparsed: how many answers, of two per row, choose neither or are not clear (`choices.parse_choice`).
        prompt_tokens, completion_tokens, cost: of the whole run, recorded answers included.
    """

    outcomes: tuple[str, ...]
    win_rate: Interval
    first_position: float | None
    unparsed: int
    prompt_tokens: int
    completion_tokens: int
    cost: float

    @property
    def wins(self) -> int:
        return self.outcomes.count("win")

    @property
    def ties(self) -> int:
        return self.outcomes.count("tie")

    @property
    def losses(self) -> int:
        return self.outcomes.count("loss")


def prefer(
    judge: Judge,
    first: Captions,
    second: Captions,
    root: str | Path,
    database: ConceptDatabase | None = None,
    references: bool = False,
    seed: int = 0,
    progress: bool = False,
    layout: str = "gemini",
) -> Preference:
    """Ask `judge` twice about each photo: which of the two captions is preferable?

    Args:
        judge: with a `RecordedJudge`, an interrupted run can be resumed.
        first, second: caption files, their rows, or records.
        root: the folder that query paths are relative to; photos outside it are not sent.
        database: the source of the references.
        references: also show the judge the photos and infos of each row's tags.
        seed: of the bootstrap.
        layout: one of `LAYOUTS`, of the question with references.

    Raises:
        ValueError: before anything is asked: the files do not have the same rows, a photo or concept is missing, or
            a layout is unknown or has no references.
        JudgeError: the judge gave no answer, or none that chooses one of the captions.
    """
    from tqdm.auto import tqdm

    if references and database is None:
        raise ValueError("references are asked for, but there is no database to take them from")
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    if layout == "gpt" and not references:
        raise ValueError("the layout gpt shows references: ask for them, too (--references)")
    ask = gpt_messages if layout == "gpt" else preference_messages
    first, second = records_of(first), records_of(second)
    pairs = list(_pairs(first, second))
    photos = _checked_photos(first, Path(root))
    concepts = [database.select(*one.tags) if references and database else [] for one, _ in pairs]
    _check_references(concepts)
    record = RecordedJudge(judge)
    choices, outcomes, unread = Counter(), [], ""
    for (one, two), shown in zip(tqdm(pairs, disable=not progress, unit="photo"), concepts, strict=True):
        chosen = []
        for options in ((one, two), (two, one)):
            messages = ask(photos[one.query], *(row.caption for row in options), shown)
            said = record.ask(messages).text
            letter = parse_choice(said)
            choices[letter] += 1
            unread = said if letter is None else unread
            chosen.append(options["AB".index(letter)] if letter else None)
        if chosen[0] is None or chosen[0] is not chosen[1]:
            outcomes.append("tie")
        else:
            outcomes.append("win" if chosen[0] is one else "loss")
    parsed = choices["A"] + choices["B"]
    check_readable(judge, choices[None], choices.total(), unread)
    return Preference(
        outcomes=tuple(outcomes),
        win_rate=mean_interval([POINTS[o] for o in outcomes], [one.query for one, _ in pairs], seed),
        first_position=choices["A"] / parsed if parsed else None,
        unparsed=choices[None],
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cost=record.cost,
    )


def preference_messages(
    photo: Any, first: str, second: str, references: Sequence[Concept] = ()
) -> list[dict[str, Any]]:
    """The authors' question: is caption A (`first`) or B (`second`) of `photo` (path or PIL image) preferable?

    Args:
        references: concepts whose first photo and info are shown to the judge; if empty, the question has the form
            without references.
    """
    options = f"Options: \n A: {quoted(first)} \n B: {quoted(second)} \n"
    if not references:
        system = SYSTEM.format(image="image")
        content = [
            text_part(f"{CRITERION}\n{QUESTION}"),
            image_part(photo),
            text_part(options + FINAL.capitalize()),
        ]
    else:
        system = SYSTEM.format(image="query image")
        places = [ORDINALS[n] if n < len(ORDINALS) else f"{n + 2}th" for n in range(len(references))]
        lines = [CRITERION_WITH_REFERENCES, "The first image is the query image."]
        lines += [
            f"The {place} image is the image of {concept.tag} with the given Info: {concept.info}."
            for place, concept in zip(places, references, strict=True)
        ]
        cited = " and ".join(f"the {place}" for place in places)
        cited += " image" if len(places) == 1 else " images"
        text = "\n".join([*lines, f"{options}Referencing {cited}, {FINAL}"])
        photos = [photo, *(concept.images[0] for concept in references)]
        content = [text_part(text), *map(image_part, photos)]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def gpt_messages(photo: Any, first: str, second: str, references: Sequence[Concept]) -> list[dict[str, Any]]:
    """The question of `preference_messages` with references, in the layout of the authors' GPT script."""
    content = [text_part(CRITERION_GPT)]
    for concept in references:
        content.append(text_part(f"This is the image of {concept.tag} with the given Info: {concept.info}."))
        content.append(image_part(concept.images[0]))
    content += [text_part("This is the query image."), image_part(photo), text_part(QUESTION_GPT)]
    content.append(text_part(f"Options: \n A: {quoted(first)} \n B: {quoted(second)} \n{FINAL.capitalize()}"))
    system = {"role": "system", "content": SYSTEM.format(image="image")}
    return [system, {"role": "user", "content": content}]


def table(found: Preference, name: str = "") -> str:
    """A Markdown table with one row; the win rate, its interval and the first position are in percent."""
    position = "–" if found.first_position is None else f"{100 * found.first_position:.1f}"
    cells = {
        "": name,
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "win rate": found.win_rate,
        "first position": position,
        "unparsed": f"{found.unparsed} of {2 * len(found.outcomes)}",
        "prompt tokens": found.prompt_tokens,
        "completion tokens": found.completion_tokens,
        "cost": f"{found.cost:.4f}",
    }
    rows = (cells, ["---"] * len(cells), cells.values())
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _pairs(
    first: Sequence[CaptionRecord], second: Sequence[CaptionRecord]
) -> Iterator[tuple[CaptionRecord, CaptionRecord]]:
    """The rows of two files in pairs of the same photo and tags, in the first file's order."""
    one, two = (dict(zip(units_of(records, "caption"), records, strict=True)) for records in (first, second))
    if not one:
        raise ValueError("there are no captions to compare")
    differing = one.keys() ^ two.keys()
    if differing:
        query, tags, _ = min(differing)
        raise ValueError(
            f"the two files do not have the same rows: {query}, {', '.join(tags)} is not in both "
            "(or not equally often)"
        )
    return ((one[key], two[key]) for key in one)


def _checked_photos(records: Sequence[CaptionRecord], root: Path) -> dict[str, Path]:
    """The photo of each query, which must lie under `root`: a caption file must not choose which files are sent."""
    photos = {record.query: find_file(root, record.query).resolve() for record in records}
    for query, photo in photos.items():
        if not photo.is_relative_to(root.resolve()):
            raise ValueError(f"the photo {query} lies outside the root {root}: give another root")
        fault = image_fault(photo)
        if fault:
            raise ValueError(f"the photo {query} {fault}")
    return photos


def _check_references(concepts: Sequence[Sequence[Concept]]) -> None:
    tags = {concept.images[0]: concept.tag for row in concepts for concept in row}
    for image, tag in tags.items():
        fault = image_fault(Path(image)) if isinstance(image, str | Path) else None
        if fault:
            raise ValueError(f"{tag}: the image {image} {fault}")
