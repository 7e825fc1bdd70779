"""Verifiable rewards of the three tasks, in TRL's form: completions in, a list of floats out.

``profile="paper"`` is upstream's arithmetic to the letter (`grpo_multitask_multi_img_no_format.py`; paper,
section 3.2). ``profile="strict"`` closes its holes:

=====================  =============================================  =======  ==========================
task                   completion                                     paper    strict
=====================  =============================================  =======  ==========================
OCT, "yes"             "I know ..., yes"                              0        1 (whole words only)
OCT, "yes"             "Yesterday it rained"                          1        0 (whole words only)
OCT, "yes"             "yes or no"                                    1        0 (contradiction)
VLT                    the right box first, then other boxes          1        0 (exactly one box)
VLT                    "[9, 9, 9, 9]" and other degenerate boxes      0        0
ICT, ``<bo>``          "... <bo> ... <mia> ..." (mia is not there)    1        less: a wrong name costs
ICT, ``<bo>``          "... <bo> ... mia ..." (mia is not there)      1        less, as with brackets
ICT, ``<bo>``          "... <bo> ... <bo> ... <bo> ..."               1        less: each repeat costs
ICT, ``<bo>``          "<bo> <bo> ... a list of names"                1        at most 0 (no sentence)
ICT, ``<bo>``          the reference's info, word for word            1        at most 0 (copied)
ICT, ``<black>``       "... <black widow> ..."                        0        less: that is another tag
ICT, "bo"              "... bowl ..." or "... elbow ..."              1        0 (never inside a word)
ICT, ``<bo>``          "... <bo> ... </bo> ..."                       0        at most 0
multi ICT              "... <bo> ... </bo> ..." (no guard upstream)   1        at most 0
multi ICT              every tag of the prompt                        1        less: wrong names cost
ICT                    wrong names in a caption below the floor       0        less than 0: no way out
=====================  =============================================  =======  ==========================
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

from repic_core.names import TAG, find_names, fold, key

PAPER_MIN_LENGTH = 100  # characters; upstream's MIN_CONTENT_LEN
IOU_THRESHOLD = 0.5
_PAPER_BOX = re.compile(r"\[(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\]")
_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")
WORDS_PER_NAME = 2  # a caption with fewer other words a name is a list of names
COPY_WORDS = 6  # a run of this many words of an info, or a whole info of at least 4 words, is a copy


def oct_reward(completion: str, solution: str, profile: str = "strict") -> float:
    """1 if the answer is the right one of yes and no.

    `paper`: the first "yes" or "no" anywhere, also inside a word. `strict`: whole words, and no contradiction.

    >>> oct_reward("I know, yes.", "yes"), oct_reward("yes or no", "yes")
    (1.0, 0.0)
    >>> oct_reward("I know, yes.", "yes", "paper"), oct_reward("yes or no", "yes", "paper")
    (0.0, 1.0)
    """
    if profile == "paper":
        said, right = (re.search("yes|no", text.lower(), re.IGNORECASE) for text in (completion, solution))
        return float(bool(said and right) and said.group() == right.group())
    said, right = (set(re.findall(r"\b(?:yes|no)\b", text.lower())) for text in (completion, solution))
    return float(len(said) == 1 and said == right)


def vlt_reward(completion: str, solution: Sequence[float], profile: str = "strict") -> float:
    """1 if the answer's box ``[x1, y1, x2, y2]`` has an IoU of at least 0.5 with the solution's (same frame).

    `paper`: the first box of integers, upstream's inclusive-pixel IoU. `strict`: the answer must hold exactly
    one box (a JSON object may hold it), which must not be degenerate; end-exclusive IoU.

    >>> vlt_reward('[{"bbox_2d": [0, 0, 10, 10]}]', [0, 0, 10, 12])
    1.0
    """
    if len(solution) != 4:
        return 0.0
    if profile == "paper":
        found = _PAPER_BOX.search(completion)
        if found is None or max(map(len, found.groups())) > 18:  # no coordinate; int() refuses the longest
            return 0.0
        return float(paper_iou([int(v) for v in found.groups()], solution) >= IOU_THRESHOLD)
    boxes = _BOX.findall(completion)
    if len(boxes) != 1:
        return 0.0
    return float(iou([float(v) for v in boxes[0]], solution) >= IOU_THRESHOLD)


def paper_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Upstream's IoU: the overlap's far sides are one pixel nearer and inclusive, the areas are not.

    >>> paper_iou([0, 0, 10, 10], [0, 0, 10, 10]), paper_iou([0, 0, 10, 1], [0, 0, 10, 1])
    (1.0, 0.0)
    """
    x1, y1 = max(a[0], b[0]), max(a[1], b[1])
    x2, y2 = min(a[2] - 1, b[2] - 1), min(a[3] - 1, b[3] - 1)
    both = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    areas = sum(max(0, box[2] - box[0]) * max(0, box[3] - box[1]) for box in (a, b))
    return both / max(1, areas - both)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two end-exclusive boxes; 0 if one is degenerate.

    >>> iou([0, 0, 10, 10], [5, 0, 15, 10])
    0.3333333333333333
    """
    if not all(box[0] < box[2] and box[1] < box[3] for box in (a, b)):
        return 0.0
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - both)


def paper_ict_single_reward(completion: str, solution: str, min_length: int = PAPER_MIN_LENGTH) -> float:
    """Upstream's single ICT: long enough and the solution is in it; 0 if ``</name>`` is too (for ``<name>``)."""
    if len(completion) < min_length or solution not in completion:
        return 0.0
    return float(not (solution.startswith("<") and solution.replace("<", "</") in completion))


def paper_ict_multi_reward(
    completion: str, solution: Sequence[str], min_length: int = PAPER_MIN_LENGTH
) -> float:
    """Upstream's multi ICT: long enough, then the fraction of the solutions that are in it."""
    if len(completion) < min_length or not solution:
        return 0.0
    return sum(name in completion for name in solution) / len(solution)


def ict_reward(
    completion: str,
    solution: Sequence[str],
    candidates: Sequence[str] = (),
    infos: Sequence[str] = (),
    min_length: int = PAPER_MIN_LENGTH,
    penalty: float = 0.5,
    max_repeats: int = 1,
) -> float:
    """Strict identity consistency, single or multi: the right names, each once, in a sentence of its own.

    (different right names - `penalty` x (wrong names + repeats)) / names shown, at least -1; and at most 0 for
    a caption below `min_length`, a list of names, a copied info, or a closing tag such as ``</bo>``.

    Args:
        completion: the caption. A name counts as a whole tag, in any case; only a solution that is written
            without brackets counts without them, as a whole phrase.
        solution: the tags that the query shows, such as ``["<bo>", "<black widow>"]``.
        candidates: all tags in the prompt; a wrong one also counts when written without its brackets, by the
            rules of `names.find_names`. Any other name in brackets is wrong, too.
        infos: the references' infos; none may be copied word for word (`COPY_WORDS`).
        min_length: the length floor in characters.
        penalty: what a wrong name or a repeat takes away from the names that are right.
        max_repeats: how often a right name may stand in the caption.

    >>> ict_reward("<bo> sleeps in the sun, <mia> watches.", ["<bo>", "<mia>"], min_length=20)
    1.0
    >>> ict_reward("<bo> sleeps in the sun, <mia> watches.", ["<bo>"], min_length=20)
    0.5
    """
    if not solution:
        return 0.0
    right = {key(tag): tag for tag in solution}
    named = [key(tag) for tag in TAG.findall(completion)]
    rest = TAG.sub(" ", completion)  # what is said without brackets
    for _, _, tag in find_names(rest, dict.fromkeys((*solution, *candidates))):
        wanted = right.get(key(tag))
        if wanted is None or not wanted.startswith("<"):
            named.append(key(tag))
    hits = len(right.keys() & set(named))
    wrong = sum(name not in right for name in named)
    repeats = sum(max(0, named.count(name) - max_repeats) for name in right)
    value = max(-1.0, (hits - penalty * (wrong + repeats)) / len(right))
    hollow = (
        len(completion) < min_length
        or len(re.findall(r"\w+", rest)) < WORDS_PER_NAME * len(named)
        or any(fold(name) in right for name in re.findall(r"</([^<>]*)>", completion))
        or any(_copies(rest, info) for info in infos)
    )
    return min(0.0, value) if hollow else value


def _copies(text: str, info: str) -> bool:
    """Does the text hold `COPY_WORDS` words of the info in a row, or the whole of a shorter info (4 words up)?"""
    words, told = (re.findall(r"\w+", fold(TAG.sub(" ", t))) for t in (info, text))
    size = min(COPY_WORDS, len(words))
    if size < 4:
        return False
    runs = (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))
    return any(f" {run} " in f" {' '.join(told)} " for run in runs)


def personalization_reward(
    completions: Sequence[Any],
    solution: Sequence[Any],
    accu_reward_method: Sequence[str],
    profile: str = "strict",
    min_length: int | None = None,
    candidates: Sequence[Sequence[str]] | None = None,
    infos: Sequence[Sequence[str]] | None = None,
    penalty: float = 0.5,
    **kwargs: Any,
) -> list[float | None]:
    """The reward of each completion by its row's method; None where the method is none of the published ones.

    Args:
        completions: plain texts, or conversational (``[{"role": "assistant", "content": ...}]``).
        solution: per row: text, a list, or the JSON of a list.
        accu_reward_method: per row: ``yes_no``, ``iou``, ``yes_no_name`` or ``yes_no_name_multi``.
        profile: ``paper`` or ``strict``.
        min_length: characters below which ICT gets 0 (`strict`: at most 0); by default 100, as in the paper.
        candidates, infos: per row, for `strict` (`ict_reward`); a row's may be empty or None.
        penalty: of a wrong name or a repeat, for `strict`.

    >>> personalization_reward(["yes"], ["yes"], ["yes_no"])
    [1.0]

    Raises:
        ValueError: an unknown profile.
    """
    if profile not in ("paper", "strict"):
        raise ValueError(f"profile {profile!r}: use 'paper' or 'strict'")
    floor = PAPER_MIN_LENGTH if min_length is None else min_length
    rewards: list[float | None] = []
    none: list[Sequence[str]] = [()] * len(completions)
    rows = zip(completions, solution, accu_reward_method, candidates or none, infos or none, strict=True)
    for completion, raw, method, known, told in rows:
        text, answer = completion_text(completion), decode_solution(raw, method)
        if method == "yes_no":
            rewards.append(oct_reward(text, answer, profile))
        elif method == "iou":
            rewards.append(vlt_reward(text, answer, profile))
        elif method not in ("yes_no_name", "yes_no_name_multi"):
            rewards.append(None)
        elif profile == "strict":
            tags = [answer] if isinstance(answer, str) else answer
            rewards.append(ict_reward(text, tags, known or (), told or (), floor, penalty))
        elif method == "yes_no_name":
            rewards.append(paper_ict_single_reward(text, answer, floor))
        else:
            rewards.append(paper_ict_multi_reward(text, answer, floor))
    return rewards


def completion_text(completion: Any) -> str:
    """The text of a completion, plain or conversational (string content or text blocks)."""
    if isinstance(completion, str):
        return completion
    content = (completion[-1]["content"] if completion else "") or ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)


def decode_solution(solution: Any, method: str) -> Any:
    """A row's solution as its method wants it: text, a list of tags, or a list of four numbers.

    >>> decode_solution('["<bo>", "<mia>"]', "yes_no_name_multi"), decode_solution("<bo>", "yes_no_name_multi")
    (['<bo>', '<mia>'], ['<bo>'])
    """
    if isinstance(solution, str) and solution.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):
            solution = json.loads(solution)
    if method in ("yes_no", "yes_no_name"):
        listed = isinstance(solution, list | tuple) and len(solution) == 1
        return str(solution[0] if listed else solution)
    if isinstance(solution, str):
        return [solution] if method == "yes_no_name_multi" else []
    return list(solution) if isinstance(solution, list | tuple) else []
