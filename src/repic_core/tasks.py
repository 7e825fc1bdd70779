"""The tasks of post-training: what each row asks, and how its ``solution`` is written and read.

=============  =====================  ================================================================
task           method                 solution
=============  =====================  ================================================================
OCT            ``yes_no``             "yes" or "no": do two photos show the same object?
VLT            ``iou``                a box ``[x1, y1, x2, y2]`` in the frame that the model sees
single ICT     ``yes_no_name``        one tag, ``"<bo>"``
multi ICT      ``yes_no_name_multi``  a list of tags
=============  =====================  ================================================================

The method strings are the values of ``accu_reward_method`` in the authors' rows
(`grpo_multitask_multi_img_no_format.py`; paper, section 3.2).
"""

from __future__ import annotations

import ast
import contextlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """One task: its name in the paper, and its colour in charts (of `display.caption_grid`'s palette)."""

    label: str
    color: str


# The answer to a question about what a caption must not say, and always the last option.
NOT_SAID = "The caption does not say."

OCT, VLT, SINGLE_ICT, MULTI_ICT = "yes_no", "iou", "yes_no_name", "yes_no_name_multi"
ICT = (SINGLE_ICT, MULTI_ICT)
TASKS = {
    OCT: Task("OCT", "#1d70c9"),
    VLT: Task("VLT", "#c2410c"),
    SINGLE_ICT: Task("single ICT", "#15803d"),
    MULTI_ICT: Task("multi ICT", "#8b3fd9"),
}


def check_solution(solution: Any, method: str) -> str | None:
    """What the solution of a row must be, if it is not so; None if it is right.

    >>> check_solution([1, 2, 3, 4], "iou"), check_solution("maybe", "yes_no")
    (None, "must be 'yes' or 'no'")
    """
    if method == OCT and not (isinstance(solution, str) and solution.strip().lower() in ("yes", "no")):
        return "must be 'yes' or 'no'"
    if method == SINGLE_ICT and not (isinstance(solution, str) and solution.strip()):
        return "must be one name"
    if method == MULTI_ICT:
        names = solution if isinstance(solution, list) else [solution]
        if not all(isinstance(name, str) and name.strip() for name in names):
            return "must be a list of names"
    if method == VLT:
        numbers = isinstance(solution, list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in solution
        )
        if not numbers or len(solution) != 4:
            return "must be a box [x1, y1, x2, y2]"
        if not (solution[0] < solution[2] and solution[1] < solution[3]):
            return "must be a box with x1 < x2 and y1 < y2"
    return None


def write_solution(solution: Any) -> str:
    """A solution as text, since a column of a dataset has one type: text is unchanged, a list becomes JSON.

    >>> write_solution("yes"), write_solution(["<bo>", "<mia>"])
    ('yes', '["<bo>", "<mia>"]')
    """
    return solution if isinstance(solution, str) else json.dumps(solution, ensure_ascii=False)


def read_solution(solution: Any, method: str) -> Any:
    """A solution in the form that its method needs: text, a list of tags, or a list of four numbers.

    >>> read_solution('["<bo>", "<mia>"]', "yes_no_name_multi"), read_solution("<bo>", "yes_no_name_multi")
    (['<bo>', '<mia>'], ['<bo>'])
    """
    if hasattr(solution, "tolist"):  # an array
        solution = solution.tolist()
    if isinstance(solution, str) and solution.lstrip().startswith("["):
        for reader in (json.loads, ast.literal_eval):  # as JSON or as Python writes a list
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                solution = reader(solution)
                break
    if method in (OCT, SINGLE_ICT):
        listed = isinstance(solution, list | tuple) and len(solution) == 1
        return str(solution[0] if listed else solution)
    if isinstance(solution, str):
        return [solution] if method == MULTI_ICT else []
    return list(solution) if isinstance(solution, list | tuple) else []
