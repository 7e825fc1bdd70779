"""Personalised VQA, text-only QA and recognition: a model is asked, its answers are kept in a file and scored.

The questions are worded as RAP-MLLM words them (``eval/VQA.py``, ``TQA.py`` and ``recognition.py`` of
github.com/Hoar012/RAP-MLLM, commit 3c0c9c2), and as there the references are the concepts that the question or its
options name (`--retrieval` there). How references and photo are shown is this kit's form (`prompts`), not theirs.

Beside each score is what can be guessed: the same questions without the query photo, or, if there is none, without
the concept's photo and info. Yo'LLaVA's text-only questions show why scores are balanced: 390 of 400 right letters
are A.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem, load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.endpoint import EndpointCaptioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import fold
from repic_core.evaluation.choices import parse_choice
from repic_core.evaluation.field_questions import FieldQuestion
from repic_core.evaluation.intervals import Interval, balanced_interval, mean_interval
from repic_core.evaluation.questions import QuestionError
from repic_core.io.images import open_image
from repic_core.io.paths import find_file
from repic_core.models.answers import as_read
from repic_core.models.verdicts import verdict
from repic_core.prompts import OCT_QUESTION, task_messages
from repic_core.tasks import OCT as OCT_METHOD

PLAIN, OPEN, AS_OCT = "plain", "open", "oct"
# How each task may be asked. `open`: without the options, so that the answer is read by their words. `oct`: as in
# training, whether the concept's photo and the query photo show the same object.
WAYS = {"vqa": (PLAIN, OPEN), "text": (PLAIN, OPEN), "recognition": (PLAIN, AS_OCT)}
_NEGATION = re.compile(r"\b(?:not|no|none|never|neither|nor|cannot|without)\b|n['’]t\b", re.IGNORECASE)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class OctMessages:
    """Asks whether a concept's first photo and the query show the same object, worded as in training."""

    def messages(self, item: CaptionItem) -> list[dict[str, Any]]:
        photos = [item.references[0].images[0], *([] if item.query is None else [item.query])]
        rng = random.Random(0)  # this task's suffix is not drawn
        return task_messages([open_image(photo) for photo in photos], item.question, OCT_METHOD, rng)


class OctCaptioner(OctMessages, Captioner):
    """`OctMessages` to a model that is loaded here."""


class OctEndpointCaptioner(OctMessages, EndpointCaptioner):
    """`OctMessages` to a model on a server."""


@dataclass(frozen=True)
class FieldScore:
    """How a model answered.

    Args:
        asked: how many questions were answered.
        accuracy: the share of right answers.
        balanced: the mean of `recalls`.
        recalls: for each right answer (a letter, or yes and no), the share of its questions answered rightly.
        unclear: how many answers choose nothing; they are wrong.
        published: the share of right answers as RAP-MLLM's ``eval/eval_qa.py`` counts them; None for yes and no,
            for which it has no script.
        concepts: for each concept's tag, its own recalls.
    """

    asked: int
    accuracy: Interval
    balanced: Interval
    recalls: dict[str, Interval]
    unclear: int
    published: float | None
    concepts: dict[str, dict[str, float]]


def prompt_text(question: FieldQuestion, way: str = PLAIN) -> str:
    """The words of a question, in RAP-MLLM's form (trailing white space apart), or as `WAYS` says.

    >>> print(prompt_text(FieldQuestion("1.png", "<bo>", "Where is <bo>?", (("A", "Left"), ("B", "Right")), "A")))
    Question: Where is <bo>?
    Options:
    A. Left
    B. Right
    Please give a single character from the options above.
    """
    if way == AS_OCT:
        return OCT_QUESTION
    if way == OPEN or not question.options:
        return question.text
    options = "".join(f"{letter}. {text}\n" for letter, text in question.options)
    return f"Question: {question.text}\nOptions:\n{options}Please give a single character from the options above."


def items_of(
    questions: Sequence[FieldQuestion],
    database: ConceptDatabase,
    root: str | Path = ".",
    way: str = PLAIN,
    guess: bool = False,
) -> list[CaptionItem]:
    """What is asked, each prompt once, in the questions' order; a row's tag is the question's concept.

    Args:
        root: what the questions' photos are relative to.
        guess: leave out the query photo or, where there is none, the references.

    Raises:
        ConceptError: the database lacks a concept (names it).
        QuestionError: a photo is missing (names it, and says how many are).
    """
    found: dict[tuple[str, ...], CaptionItem] = {}
    files = {question.photo: find_file(root, question.photo) for question in questions if question.photo}
    missing = [] if guess else [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise QuestionError(
            f"{len(missing)} of {len(files)} photos are missing, the first is {missing[0]}: give --root the folder "
            "that the paths in the questions are relative to"
        )
    for question in questions:
        row = _row(question, way, guess)
        if row in found:
            continue
        references = [] if guess and not question.photo else _references(question, database, way)
        query = None if guess else files.get(question.photo)
        found[row] = CaptionItem(query, references, row[2], tags=[question.tag], label=row[0])
    return list(found.values())


def answers_in(
    path: Path, questions: Sequence[FieldQuestion], way: str = PLAIN, guess: bool = False
) -> list[tuple[FieldQuestion, str]]:
    """The questions that the caption file `path`, of `items_of`, has an answer to, with it.

    Raises:
        CaptionFileError: as `load_captions`.
        QuestionError: the file has answers, but to none of these questions.
    """
    said = {(r.query, r.tags[0], r.question): r.caption for r in load_captions(path)}
    found = [(q, said[row]) for q in questions if (row := _row(q, way, guess)) in said]
    if said and not found:
        raise QuestionError(f"{path}: answers none of these questions: give another --questions or --out")
    return found


def chosen_answer(question: FieldQuestion, text: str) -> str | None:
    """The letter of the option that an answer chooses, or "yes" or "no"; None if it chooses nothing.

    An option is chosen by its letter (`choices.parse_choice`), by an answer that is its words, or by one that
    holds its words, no other option's and no negation.

    >>> where = FieldQuestion("1.png", "<bo>", "Where is <bo>?", (("A", "Left"), ("B", "Right")), "A")
    >>> [chosen_answer(where, text) for text in ("B.", "On the left.", "Not on the left.", "Left or right")]
    ['B', 'A', None, None]
    """
    if not question.options:
        return verdict(text) or None
    letter = parse_choice(text, "".join(letter for letter, _ in question.options))
    if letter:
        return letter
    tags = [option.strip("<>").lower() for _, option in question.options]
    said = fold(as_read(text, tags)[0])
    options = {letter: fold(option) for letter, option in question.options}
    whole = [letter for letter, option in options.items() if said.rstrip(" .!") == option]
    if whole:
        return whole[0]
    held = [letter for letter, option in options.items() if re.search(_phrase(option), said)]
    if len(held) != 1 or _NEGATION.search(re.sub(_phrase(options[held[0]]), "", said)):
        return None
    return held[0]


def score_answers(pairs: Sequence[tuple[FieldQuestion, str]], seed: int = 0) -> FieldScore:
    """Scores of answers, with 95% intervals by photo, or by concept where there are no photos.

    Args:
        pairs: questions and answers, at least one.
        seed: of the bootstrap.
    """
    chosen = [chosen_answer(question, text) for question, text in pairs]
    right = [float(said == question.answer) for said, (question, _) in zip(chosen, pairs, strict=True)]
    units = [question.photo or question.tag for question, _ in pairs]
    classes = [question.answer for question, _ in pairs]
    recalls, concepts = {}, {}
    for name in sorted(set(classes), reverse="yes" in classes):
        of_class = [place for place, answer in enumerate(classes) if answer == name]
        recalls[name] = mean_interval([right[i] for i in of_class], [units[i] for i in of_class], seed)
        for tag in dict.fromkeys(pairs[i][0].tag for i in of_class):
            own = [right[i] for i in of_class if pairs[i][0].tag == tag]
            concepts.setdefault(tag, {})[name] = sum(own) / len(own)
    published = [_normalized(text) == _normalized(question.answer) for question, text in pairs]
    return FieldScore(
        asked=len(pairs),
        accuracy=mean_interval(right, units, seed),
        balanced=balanced_interval(right, units, classes, seed),
        recalls=recalls,
        unclear=chosen.count(None),
        published=sum(published) / len(published) if pairs[0][0].options else None,
        concepts=concepts,
    )


def _references(question: FieldQuestion, database: ConceptDatabase, way: str) -> list[Any]:
    """The question's concept and those that it names, in the database's order; for `AS_OCT` the first alone."""
    own = database[question.tag]
    if way == AS_OCT:
        return [own]
    words = " ".join([question.text, *(text for _, text in question.options)])
    return [concept for concept in database if concept is own or concept.tag in words]


def _row(question: FieldQuestion, way: str, guess: bool) -> tuple[str, str, str]:
    """Photo, tag and question of the row that answers `question`."""
    return "" if guess else question.photo, question.tag, prompt_text(question, way)


def _phrase(option: str) -> str:
    return rf"(?<!\w){re.escape(option)}(?!\w)"


def _normalized(text: str) -> str:
    """`text` as RAP-MLLM's ``eval/eval_qa.py`` compares it. It takes the letter A for an article: an empty answer,
    or "The.", equals "A"."""
    bare = "".join(mark for mark in text.lower() if mark not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())
