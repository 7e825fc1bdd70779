"""Rows from the conversations that LLaVA, VLM-R1 and RAP-MLLM train on; what can't be used is counted and named.

A record has ``conversations`` (a question from "human", an answer from "gpt") and ``image``. Two kinds have more:

- VLM-R1's may have ``accu_reward_method``; the answer may stand in ``<answer>`` tags (``grpo_jsonl.py``, the loop
  over `data_files`, in the authors' copy at 122ffa6);
- RAP-260K's have ``extra``, the concepts that were retrieved: photo -> {name, info, category} (``data/Data.md`` and
  `prepare_dataset` in ``llava/train/rap_train.py`` of github.com/Hoar012/RAP-MLLM). They become references in this
  kit's order: references first, then the photo.

Records in this kit's own format are taken as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.data.rows import RowError, TrainingExample, parse_row
from repic_core.prompts import IMAGE_PLACEHOLDER, caption_problem
from repic_core.tasks import MULTI_ICT, OCT, SINGLE_ICT, TASKS, check_solution, read_solution

TARGETS = ("grpo", "sft")
HUMAN, MODEL = ("human", "user"), ("gpt", "assistant")
_ANSWER = re.compile(r"</?answer>")
# A box as LLaVA's data writes it: in parts of the photo, so not in the frame of the model to be trained.
_BOX = re.compile(r"[\[(]\s*\d*\.\d+\s*(,\s*\d*\.?\d+\s*){3}[\])]")


class Unusable(ValueError):
    """A record that does not become a row; the message is the reason, without the place."""


@dataclass
class Converted:
    """Rows, and for each reason the places of the records that were left out."""

    rows: list[TrainingExample] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def convert(
    records: Iterable[tuple[str, Any, Path]],
    target: str = "grpo",
    root: str | Path | None = None,
    folder: str | Path = ".",
) -> Converted:
    """Rows for GRPO or SFT from records of any of the formats; the photos are not opened.

    Args:
        records: (where, record, folder of its file), from `shares.read_shares`.
        target: ``grpo`` takes what can be checked (see `verifiable`), ``sft`` any answer in words.
        root: what image paths are relative to; by default the folder of the record's file.
        folder: what the rows' image paths are to be relative to.
    """
    done = Converted()
    for where, record, beside in records:
        try:
            row = to_row(record, where, target)
        except Unusable as reason:
            done.left_out.setdefault(str(reason), []).append(where)
            continue
        away = os.path.relpath(Path(root if root is not None else beside).resolve(), Path(folder).resolve())
        images = tuple(os.path.normpath(os.path.join(away, image)) for image in row.images)
        done.rows.append(replace(row, images=images))
    return done


def to_row(record: Any, where: str, target: str) -> TrainingExample:
    """The row of one record.

    Raises:
        Unusable: it becomes none; says why.
    """
    if isinstance(record, dict) and "problem" in record:
        try:
            return parse_row(record, where)
        except RowError as error:
            raise Unusable(str(error).removeprefix(f"{where}, ").removeprefix(f"{where}: ")) from None
    question, answer = _exchange(record)
    images, references = _images(record), _references(record)
    method = record.get("accu_reward_method")
    if method is not None and (not isinstance(method, str) or method not in TASKS):
        raise Unusable(f"accu_reward_method {method!r} has no reward here")
    if target == "sft":
        # Nothing checks the answer; the method has to be one that a row with this answer may have.
        fits = method is not None and not check_solution(answer, method)
        method, solution = method if fits else SINGLE_ICT, answer
    elif method is None:
        method, solution = verifiable(question, answer, [concept.tag for concept in references])
    else:
        solution = read_solution(answer, method)
    if target == "grpo" and method == OCT:
        solution = _plain(solution)
    needed = check_solution(solution, method) if target == "grpo" else None
    if needed:
        raise Unusable(f"the answer {needed}")
    if references:
        question = caption_problem(references, question.replace(IMAGE_PLACEHOLDER, "").strip())
        images = (*(concept.images[0] for concept in references), *images)
    tags, infos = [concept.tag for concept in references], [c.info for c in references if c.info]
    try:
        return TrainingExample(images, question, solution, method, tuple(tags), tuple(infos))
    except RowError as error:
        raise Unusable(str(error)) from None


def verifiable(question: str, answer: str, tags: list[str]) -> tuple[str, Any]:
    """The method and the solution by which an answer can be checked.

    A plain yes or no is checked as such. An answer that names references, to a question that names none of them, is
    a caption: its tags are the solution.

    >>> verifiable("Does <D> wear shoes?", "Yes.", ["<D>"])
    ('yes_no', 'yes')
    >>> verifiable("Give a caption.", "<D> throws a frisbee.", ["<D>", "<E>"])
    ('yes_no_name', '<D>')

    Raises:
        Unusable: it can be checked in neither way.
    """
    if _plain(answer) in ("yes", "no"):
        return OCT, _plain(answer)
    named = [tag for tag in tags if tag in answer]
    if named and not any(tag in question for tag in tags):
        return (SINGLE_ICT, named[0]) if len(named) == 1 else (MULTI_ICT, named)
    if named:
        raise Unusable("the question already names the concept of the answer, so the name proves nothing")
    raise Unusable("no rule can check the answer (neither yes, no, nor a name of a reference)")


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".!").lower()


def _exchange(record: Any) -> tuple[str, str]:
    """The question and the answer of a record with one of each."""
    turns = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unusable("neither `problem` nor a list of `conversations`")
    speakers = [turn.get("from") for turn in turns]
    if len(turns) > 2:
        raise Unusable("more than one question and answer")
    if len(turns) < 2 or speakers[0] not in HUMAN or speakers[1] not in MODEL:
        raise Unusable("not a question from human and an answer from gpt")
    question, answer = turns[0].get("value"), turns[1].get("value")
    if isinstance(answer, int | float | list) and not isinstance(answer, bool):
        answer = str(answer)  # as in VLM-R1
    if not isinstance(question, str) or not isinstance(answer, str):
        raise Unusable("a question or an answer is no text")
    answer = _ANSWER.sub("", answer).strip()
    if not answer or not question.replace(IMAGE_PLACEHOLDER, "").strip():
        raise Unusable("an empty question or answer")
    if _BOX.search(answer):
        raise Unusable("a box in parts of the photo; make rows with boxes by `repic data build --coco`")
    return question.strip(), answer


def _images(record: Mapping[str, Any]) -> tuple[str, ...]:
    found = record.get("image")
    images = found if isinstance(found, list) else [found]
    if not images or not all(isinstance(image, str) and image for image in images):
        raise Unusable("no photo")
    return tuple(images)


def _references(record: Mapping[str, Any]) -> list[Concept]:
    """The concepts of RAP's field ``extra``."""
    extra = record.get("extra") or {}
    if not isinstance(extra, dict) or not all(isinstance(one, dict) for one in extra.values()):
        raise Unusable("field `extra`: must be an object of photo -> {name, info, category}")
    try:
        concepts = [
            Concept("", one.get("name"), photo, one.get("info") or "", one.get("category") or "")
            for photo, one in extra.items()
        ]
    except ConceptError as error:
        raise Unusable(f"field `extra`: {error}") from None
    if len({concept.tag for concept in concepts}) < len(concepts):
        raise Unusable("field `extra`: two concepts of one name")
    return concepts
