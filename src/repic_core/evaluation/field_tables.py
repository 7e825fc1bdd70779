"""From a task's questions to answers to a table; a run that was cut off is resumed::

    repic evaluate --task recognition --questions recognition_test.json --root . --database database.json --model M

Answers go to ``OUT/answers/METHOD/TASK.json`` (asked in another way: ``TASK-WAY.json``; what is guessed:
``...-guess.json``). Each call, also one without a model, makes ``OUT/TASK.md``, ``.csv`` and ``.json`` again from
all answers there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.field_questions import FieldQuestion
from repic_core.evaluation.field_tasks import PLAIN, WAYS, FieldScore, answers_in, items_of, score_answers
from repic_core.io import tables
from repic_core.io.files import write_json_atomic, write_text_atomic

HEAD = ["asked", "method", "questions", "accuracy", "by right answer", "balanced", "unclear", "RAP's count"]
HEAD += ["guessed, balanced"]


def answer_file(folder: Path, task: str, way: str, guess: bool) -> Path:
    """The file of a task's answers in the folder of a method.

    >>> answer_file(Path("toy"), "vqa", "open", True).as_posix()
    'toy/vqa-open-guess.json'
    """
    parts = [task, *([] if way == PLAIN else [way]), *(["guess"] if guess else [])]
    return folder / f"{'-'.join(parts)}.json"


def ask_task(
    captioner: Captioner,
    task: str,
    questions: Sequence[FieldQuestion],
    database: ConceptDatabase,
    root: str | Path,
    way: str,
    folder: Path,
    progress: bool = True,
) -> None:
    """Ask all `questions`, with and without what lets them be answered, into the files of `answer_file`.

    Raises:
        ConceptError, QuestionError: as `items_of`, before anything is asked.
    """
    batches = {guess: items_of(questions, database, root, way, guess) for guess in (False, True)}
    for guess, items in batches.items():
        captioner.caption_many(items, out=answer_file(folder, task, way, guess), progress=progress)


def task_scores(answers: Path, task: str, questions: Sequence[FieldQuestion]) -> list[dict[str, Any]]:
    """``{"asked", "method", "score", "guess"}`` of each method in the folder `answers` and each way of asking.

    ``score`` and ``guess`` are a `FieldScore`; ``guess`` is None where that is not asked yet.
    """
    found = []
    for folder in sorted(path for path in answers.glob("*") if path.is_dir()):
        for way in WAYS[task]:
            scores = []
            for guess in (False, True):
                file = answer_file(folder, task, way, guess)
                pairs = answers_in(file, questions, way, guess) if file.exists() else []
                scores.append(score_answers(pairs) if pairs else None)
            if scores[0]:
                found.append({"asked": way, "method": folder.name, "score": scores[0], "guess": scores[1]})
    return found


def table_row(asked: str, method: str, score: FieldScore, guess: FieldScore | None, total: int) -> list[str]:
    """The cells of `HEAD`, in percent with 95% intervals; `total` is the number of questions there are."""
    count = str(score.asked) + (f" of {total}" if score.asked < total else "")  # of an interrupted run
    by_answer = ", ".join(f"{name}: {100 * recall.value:.1f}" for name, recall in score.recalls.items())
    published = "" if score.published is None else f"{100 * score.published:.1f}"
    cells = [asked, method, count, str(score.accuracy), by_answer, str(score.balanced), str(score.unclear)]
    return [*cells, published, str(guess.balanced) if guess else ""]


def write_task(out: Path, task: str, scores: Sequence[dict[str, Any]], total: int) -> str:
    """Write ``TASK.md``, ``.csv`` and ``.json`` of `task_scores` into the folder `out`; returns the Markdown."""
    rows = [table_row(**row, total=total) for row in scores]
    text = tables.markdown(HEAD, rows)
    write_text_atomic(out / f"{task}.md", text + "\n")
    write_text_atomic(out / f"{task}.csv", tables.csv_text(HEAD, rows))
    write_json_atomic(out / f"{task}.json", plain(scores))
    return text


def plain(scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`task_scores` as JSON holds them."""
    return [
        {name: asdict(value) if isinstance(value, FieldScore) else value for name, value in row.items()}
        for row in scores
    ]
