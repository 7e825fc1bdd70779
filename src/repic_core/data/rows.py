"""Training rows: what a model is asked in GRPO, and how its answer is checked.

The public format is the authors' JSON or JSONL: ``image`` (path or list of paths), ``problem``, and
``accu_reward_method`` with its ``solution`` (`repic_core.tasks`).

Rows built by this kit may also hold ``candidates`` (all tags in the prompt) and ``infos``, with which the strict
rewards recognise wrong names and copied text, and ``questions`` about the photo (`RowQuestion`), for
`training.question_reward`. `data.builders` and `data.coco` build rows from photos.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import ConceptError, check_no_control_tokens
from repic_core.io.decode import has_broken_exif, is_deep, opened
from repic_core.io.files import read_records, write_records
from repic_core.io.images import image_fault, open_image
from repic_core.io.paths import find_file
from repic_core.prompts import IMAGE_PLACEHOLDER, task_messages
from repic_core.tasks import NOT_SAID, TASKS, check_solution, write_solution


class RowError(ValueError):
    """A tuning row that can't be used; the message names the file, the line and the field."""


@dataclass(frozen=True)
class RowQuestion:
    """A question that a caption of the row's photo should answer, with its options.

    Args:
        answer: one of the options, or `tasks.NOT_SAID` for what the caption must not say.

    Raises:
        RowError: a text is empty or holds a control token, or the answer is not offered; names the field.
    """

    text: str
    options: tuple[str, ...]
    answer: str

    def __post_init__(self) -> None:
        if not all(
            isinstance(text, str) and text.strip() for text in (self.text, self.answer, *self.options)
        ):
            raise RowError("field 'questions': text, answer and each option must be texts")
        if len(set(self.options)) < max(2, len(self.options)):
            raise RowError(f"field 'questions': {self.text!r} needs two options or more, each once")
        if self.answer not in (*self.options, NOT_SAID):
            raise RowError(f"field 'questions': {self.answer!r} is neither an option nor {NOT_SAID!r}")
        for text in (self.text, *self.options):
            _check_text("questions", text)


@dataclass(frozen=True)
class TrainingExample:
    """One tuning row; image paths are relative to a root folder that is given when the row is used.

    Raises:
        RowError: a text holds a control token, or the problem places for another number of images than there are;
            names the field.
    """

    images: tuple[str, ...]
    problem: str
    solution: Any
    method: str
    candidates: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    questions: tuple[RowQuestion, ...] = ()

    def __post_init__(self) -> None:
        count = self.problem.count(IMAGE_PLACEHOLDER)
        if count not in (0, len(self.images)):
            raise RowError(f"field 'problem': {count} {IMAGE_PLACEHOLDER} for {len(self.images)} image(s)")
        _check_text("problem", self.problem.replace(IMAGE_PLACEHOLDER, ""))
        if isinstance(self.solution, str):
            _check_text("solution", self.solution)


def _check_text(field: str, text: str) -> None:
    try:
        check_no_control_tokens(text, "it")
        text.encode()
    except ConceptError as error:
        raise RowError(f"field {field!r}: {error}") from None
    except UnicodeEncodeError:
        raise RowError(f"field {field!r}: it holds half a character: {text!a:.60}") from None


def read_rows(
    path: str | Path, root: str | Path | None = None, check_images: bool = True
) -> list[TrainingExample]:
    """Read and check a JSON (a list of rows) or JSONL file.

    Args:
        root: the folder that image paths are relative to; by default the file's.
        check_images: also read each photo once, to its end (takes a minute for ten thousand).

    Raises:
        RowError: for the first bad row; names the file, the line (JSONL) or row (JSON), the field, how to fix it.
    """
    path = Path(path)
    root = Path(root) if root is not None else path.parent
    rows = []
    checked: set[str] = set()
    for where, record in read_records(path, RowError):
        row = parse_row(record, where)
        row = replace(row, images=tuple(_on_disk(root, image) for image in row.images))
        rows.append(row)
        for image in row.images:
            if not check_images or image in checked:
                continue
            fault = image_fault(Path(root, image))
            if fault:
                raise RowError(f"{where}, field 'image': {image!r} {fault}")
            checked.add(image)
    if not rows:
        raise RowError(f"{path}: holds no rows")
    return rows


def write_rows(path: str | Path, rows: Iterable[TrainingExample]) -> Path:
    """Write rows in the public format, atomically: JSONL if the name ends in ``.jsonl``, else one JSON list."""
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "image": row.images[0] if len(row.images) == 1 else list(row.images),
            "problem": row.problem,
            "solution": row.solution,
            "accu_reward_method": row.method,
        }
        if row.candidates:
            record["candidates"] = list(row.candidates)
        if row.infos:
            record["infos"] = list(row.infos)
        if row.questions:
            record["questions"] = [asdict(question) for question in row.questions]
        records.append(record)
    return write_records(path, records)


def moved_rows(
    rows: Sequence[TrainingExample], root: str | Path, folder: str | Path
) -> list[TrainingExample]:
    """The rows with image paths relative to `folder`, where they will be written, instead of `root`."""
    away = os.path.relpath(Path(root).resolve(), Path(folder).resolve())
    return [
        replace(row, images=tuple(os.path.normpath(os.path.join(away, image)) for image in row.images))
        for row in rows
    ]


def to_dataset(rows: Sequence[TrainingExample], root: str | Path = ".", seed: int = 0) -> Any:
    """Rows as a `datasets.Dataset` with TRL's columns.

    Columns: ``prompt`` (chat messages whose image blocks are placeholders), ``images`` (list of decoded
    images), ``solution`` (`tasks.write_solution`), ``accu_reward_method``, ``candidates``, ``infos`` and, if a row
    has any, ``questions`` (JSON).
    The ICT suffix of each prompt is drawn from `seed` (`prompts.with_task_suffix`). Photos that `datasets` would
    misread (more than eight bits a channel, a broken EXIF tag) are kept as `images.open_image` reads them.

    Raises:
        RowError: such a photo can't be read; names it.
    """
    from datasets import Dataset, Features, Image, List, Value

    rng, stored = random.Random(seed), cache(_stored)
    block = {"type": Value("string"), "text": Value("string")}
    features = Features(
        {
            "prompt": List({"role": Value("string"), "content": List(block)}),
            "images": List(Image()),
            "solution": Value("string"),
            "accu_reward_method": Value("string"),
            "candidates": List(Value("string")),
            "infos": List(Value("string")),
        }
    )
    asks = any(row.questions for row in rows)
    if asks:
        features["questions"] = Value("string")
    columns: dict[str, list[Any]] = {name: [] for name in features}
    for row in rows:
        messages = task_messages(row.images, row.problem, row.method, rng)
        content = [{"type": b["type"], "text": b.get("text")} for b in messages[0]["content"]]
        columns["prompt"].append([{"role": "user", "content": content}])
        columns["images"].append([stored(find_file(root, image).resolve()) for image in row.images])
        columns["solution"].append(write_solution(row.solution))
        columns["accu_reward_method"].append(row.method)
        columns["candidates"].append(list(row.candidates))
        columns["infos"].append(list(row.infos))
        if asks:
            columns["questions"].append(json.dumps([asdict(q) for q in row.questions], ensure_ascii=False))
    return Dataset.from_dict(columns, features=features)


def _on_disk(root: Path, written: str) -> str:
    """The path of a photo, relative to `root`, as this disk spells it; as it is written if there is none."""
    found = find_file(root, written)
    return written if found == Path(root, written) else Path(os.path.relpath(found, root)).as_posix()


def _reference(photo: Path) -> dict[str, Any]:
    """A photo by its path, or by its bytes if the path is no Unicode, which Arrow requires."""
    try:
        str(photo).encode()
    except UnicodeEncodeError:
        return {"path": None, "bytes": photo.read_bytes()}
    return {"path": str(photo), "bytes": None}


def _stored(photo: Path) -> dict[str, Any]:
    """A photo as `datasets` keeps it: its path or, if `datasets` would misread the file, a PNG of its pixels."""
    try:
        with opened(photo) as found:
            misread = is_deep(found) or has_broken_exif(found)
    except Exception:  # Pillow's decoders raise many kinds; whoever opens it again names it
        misread = False
    if not misread:
        return _reference(photo)
    file = io.BytesIO()
    try:
        open_image(photo).save(file, "PNG")
    except ValueError as error:
        raise RowError(str(error)) from None
    return {"path": None, "bytes": file.getvalue()}


def parse_row(record: Any, where: str) -> TrainingExample:
    """A row from an object in the public format; `RowError` names `where`, the field and how to fix it."""
    if not isinstance(record, dict):
        raise RowError(f"{where}: must be an object with image, problem, solution and accu_reward_method")
    for field in ("image", "problem", "solution"):
        if record.get(field) in (None, "", []):
            raise RowError(f"{where}, field {field!r}: missing or empty")
    images = record["image"] if isinstance(record["image"], list) else [record["image"]]
    if not all(isinstance(image, str) and image for image in images):
        raise RowError(f"{where}, field 'image': must be a path or a list of paths, not {record['image']!r}")
    problem, solution = record["problem"], record["solution"]
    if not isinstance(problem, str):
        raise RowError(f"{where}, field 'problem': must be text, not {problem!r}")
    method = record.get("accu_reward_method", "iou")  # upstream's default
    if not isinstance(method, str) or method not in TASKS:
        raise RowError(f"{where}, field 'accu_reward_method': {method!r} is not one of {', '.join(TASKS)}")
    needed = check_solution(solution, method)
    if needed:
        raise RowError(f"{where}, field 'solution': {needed}, not {solution!r}")
    extras = {}
    for field in ("candidates", "infos"):
        values = record.get(field) or []
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise RowError(f"{where}, field {field!r}: must be a list of texts")
        extras[field] = tuple(values)
    try:
        questions = _parse_questions(record.get("questions") or [])
        return TrainingExample(tuple(images), problem, solution, method, **extras, questions=questions)
    except RowError as error:
        raise RowError(f"{where}, {error}") from None


def _parse_questions(records: Any) -> tuple[RowQuestion, ...]:
    listed = isinstance(records, list) and all(
        isinstance(record, dict) and isinstance(record.get("options"), list) for record in records
    )
    if not listed:
        raise RowError("field 'questions': must be a list of objects with text, options (a list) and answer")
    return tuple(RowQuestion(one.get("text"), tuple(one["options"]), one.get("answer")) for one in records)
