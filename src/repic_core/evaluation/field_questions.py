"""The questions of RAP-MLLM and Yo'LLaVA, as their files hold them: about photos, about concepts, and who is there.

Three tasks, and the files that they are read from:

- ``vqa``: ``eval/yollava-visual-qa.json`` of github.com/Hoar012/RAP-MLLM (commit 3c0c9c2), and
  ``yollava-data/yollava-visual-qa.json`` of github.com/WisconsinAIVision/YoLLaVA (commit dd6e47a), which writes
  ``<sks>`` where RAP-MLLM writes ``sks``: ``{concept: {photo: {"question", "options", "correct_answer"}}}``. (The
  README of Yo'LLaVA leaves the level of the concepts out; its file has it.)
- ``text``: ``eval/yollava-text-only-qa.json`` of RAP-MLLM:
  ``{concept: {number: {"question", "option", "correct_answer"}}}``.
- ``recognition``: ``eval/recognition_test.json`` of RAP-MLLM, a list of
  ``{"image", "question", "concept", "type", "correct_answer"}``; or a folder of photos by concept, as Yo'LLaVA's
  ``test-sks-acc.py`` walks it (``yollava-data/test/bo/0.png``).

Both projects ask about the same 40 concepts and 333 photos. None of their files is part of this repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError, check_no_control_tokens
from repic_core.concepts.tags import bare
from repic_core.evaluation.questions import QuestionError
from repic_core.io.files import read_json, read_records
from repic_core.io.paths import shown_entries

YES_NO = ("yes", "no")
# Yo'LLaVA, `test-sks-acc.py`, with its flag `--system_prompt`.
FOLDER_QUESTION = "Is {tag} in this photo? Answer with a single word or phrase."
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")  # as there, in any case
_CONCEPT = re.compile(r"<sks>|\bsks\b")
_IMAGE = "<image>\n"  # RAP-MLLM's `recognition.py` puts the photo there; here it has a place of its own


@dataclass(frozen=True)
class FieldQuestion:
    """A question about one concept.

    Args:
        photo: as the file names it, relative to a root; "" for a question without a photo.
        tag: of the concept, ``<bo>``.
        text: the question, with the tag in place of ``sks``.
        options: (letter, text) of each option; none where the answer is yes or no.
        answer: the right letter, or "yes" or "no".
    """

    photo: str
    tag: str
    text: str
    options: tuple[tuple[str, str], ...]
    answer: str


def read_visual_questions(path: str | Path) -> list[FieldQuestion]:
    """Multiple-choice questions about photos, in the format ``vqa`` of this module.

    Raises:
        QuestionError: for the first bad entry; names the file, the concept, the photo and the field.
    """
    return _multiple_choice(Path(path), "options", lambda key: key)


def read_text_questions(path: str | Path) -> list[FieldQuestion]:
    """Multiple-choice questions without a photo, in the format ``text`` of this module.

    Raises:
        QuestionError: for the first bad entry; names the file, the concept, the number and the field.
    """
    return _multiple_choice(Path(path), "option", lambda key: "")


def read_recognition(path: str | Path) -> list[FieldQuestion]:
    """Questions of yes or no, in the format ``recognition`` of this module: a file, or a folder of photos.

    ``correct_answer`` decides, not ``type``: RAP-MLLM's file holds each of its 333 positive rows a second time as
    ``"type": "negative"`` with a true ``correct_answer``. What is there twice is read once.

    In a folder, each photo is asked about each concept that has a folder (`FOLDER_QUESTION`); the photo's path then
    begins with the name of its folder.

    Raises:
        QuestionError: for the first bad row; names the file, the row and the field. Or the folder has no photos.
    """
    path = Path(path)
    return _photos_by_folder(path) if path.is_dir() else _recognition_rows(path)


READERS: dict[str, Callable[[str | Path], list[FieldQuestion]]] = {
    "vqa": read_visual_questions,
    "text": read_text_questions,
    "recognition": read_recognition,
}


def _multiple_choice(path: Path, options: str, photo: Callable[[str], str]) -> list[FieldQuestion]:
    """The questions of a file ``{concept: {key: {...}}}``; `photo` gives the photo for a key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise QuestionError(f"{path}: the key {twice!r} is there twice, and JSON keeps one: rename one")
        return found

    asked = read_json(path, QuestionError, object_pairs_hook=unique)
    _check(isinstance(asked, dict), str(path), "must be an object of concepts")
    found = []
    for concept, entries in asked.items():
        where = f"{path}, concept {concept!r}"
        tag = _tag(concept, where)
        _check(isinstance(entries, dict), where, "must be an object of questions")
        for key, entry in entries.items():
            found.append(_choice(entry, options, photo(key), tag, f"{where}, {key!r}"))
    _check(found, str(path), "holds no questions")
    return found


def _choice(entry: Any, field: str, photo: str, tag: str, where: str) -> FieldQuestion:
    _check(isinstance(entry, dict), where, f"must be an object with question, {field}, correct_answer")
    text, options = _text(entry, "question", where), entry.get(field)
    at = f"{where}, field {field!r}"
    _check(isinstance(options, dict) and len(options) > 1, at, "must be an object of two options or more")
    _check(all(re.fullmatch("[A-Z]", letter) for letter in options), at, "its keys must be capital letters")
    for letter in options:
        _text(options, letter, at)
    answer = entry.get("correct_answer")
    right = isinstance(answer, str) and answer in options
    _check(right, f"{where}, field 'correct_answer'", f"must be one of {', '.join(options)}, not {answer!r}")
    text = _CONCEPT.sub(lambda _: tag, text)
    return FieldQuestion(photo, tag, text, tuple(options.items()), answer)


def _recognition_rows(path: Path) -> list[FieldQuestion]:
    found: dict[tuple[str, str, str], FieldQuestion] = {}
    for where, row in read_records(path, QuestionError, "questions"):
        _check(
            isinstance(row, dict), where, "must be an object with image, question, concept, correct_answer"
        )
        photo, tag = (
            _text(row, "image", where),
            _tag(_text(row, "concept", where), f"{where}, field 'concept'"),
        )
        raw = row.get("question")
        asked = raw.replace(_IMAGE, "") if isinstance(raw, str) else raw
        text = _text({"question": asked}, "question", where)
        truth = row.get("correct_answer")
        at = f"{where}, field 'correct_answer'"
        _check(isinstance(truth, bool), at, f"must be true or false, not {truth!r}")
        question = FieldQuestion(photo, tag, text, (), YES_NO[0 if truth else 1])
        first = found.setdefault((photo, tag, text), question)
        _check(first == question, at, f"is {truth}, but an earlier row with this image and question differs")
    _check(found, str(path), "holds no questions")
    return list(found.values())


def _photos_by_folder(root: Path) -> list[FieldQuestion]:
    photos = {
        folder.name: [file for file in shown_entries(folder) if file.suffix.lower() in PHOTO_SUFFIXES]
        for folder in shown_entries(root)
        if folder.is_dir()
    }
    photos = {name: files for name, files in photos.items() if files}
    _check(photos, str(root), "has no folder with photos (.jpg, .jpeg, .png): make one for each concept")
    tags = {name: _tag(name, str(root / name)) for name in photos}
    return [
        FieldQuestion(
            file.relative_to(root).as_posix(),
            tags[name],
            FOLDER_QUESTION.format(tag=tags[name]),
            (),
            YES_NO[0 if name == shown else 1],
        )
        for shown, files in photos.items()
        for file in files
        for name in photos
    ]


def _tag(name: str, where: str) -> str:
    try:
        return Concept(f"<{bare(name)}>", image="none is needed").tag
    except ConceptError as error:
        raise QuestionError(f"{where}: {error}") from None


def _text(row: dict[str, Any], field: str, where: str) -> str:
    """The text in a field, without white space around it."""
    text, where = row.get(field), f"{where}, field {field!r}"
    _check(isinstance(text, str) and text.strip(), where, "is missing" if text is None else "must be text")
    try:
        check_no_control_tokens(text, "it")
    except ConceptError as error:
        raise QuestionError(f"{where}: {error}") from None
    return text.strip()


def _check(good: Any, where: str, needed: str) -> None:
    if not good:
        raise QuestionError(f"{where}: {needed}")
