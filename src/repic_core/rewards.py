"""Verifiable rewards of the three tasks, in TRL's form: completions in, a list of floats out.

``profile="paper"`` is upstream's arithmetic to the letter (`grpo_multitask_multi_img_no_format.py`; paper,
section 3.2). ``covip`` is the same with boxes under ``"bbox_2d"`` only, as in CoViP's reward for RePIC
(`qwen_module_repic.py` of github.com/oyt9306/CoViP at commit 0804834). ``strict`` closes its holes:

=====================  =============================================  =======  ==========================
task                   completion                                     paper    strict
=====================  =============================================  =======  ==========================
any                    "<think> ... </think> ..."                     counts   is not part of the answer
OCT, "yes"             "I know ..., yes"                              0        1 (whole words only)
OCT, "yes"             "Yesterday it rained"                          1        0 (whole words only)
OCT, "yes"             "yes or no", "It isn't a yes."                 1        0 (contradiction, negation)
OCT, "yes"             "no yes"                                       0        0 (contradiction)
OCT, "no"              "I see no difference: the same"                1        0 (first or last word only)
VLT                    the right box first, then other boxes          1        0 (exactly one box)
ICT, ``<bo>``          "<bo> ... <mia>", "... mia", "... </mia>"      1        less: a wrong name costs
ICT, ``<bo>``          "... _mia_", "... <|mia|>", "... &lt;mia&gt;"  1        less: as it is read
ICT, ``<bo>``          "... mias", "... M-i-a", "... m1a", "... @mia" 1        less: a reader sees it
ICT, ``<bo>``          "\\<bo\\> ...", "**<bo>** ..."                 0, 1     1: as it is read
ICT, ``<bo>``          "... <bo> ... <bo> ... <bo> ..."               1        less: each repeat costs
ICT, ``<bo>``          "<bo> bo bo bo ..."                            1        less: each repeat costs
ICT, ``<bo>``          "<bo> <bo> ... a list of names"                1        at most 0 (no sentence)
ICT, ``<bo>``          "<bo> a a a a ...", "<bo> is here........"     1        at most 0 (padding)
ICT, ``<bo>``          the reference's info, word for word            1        at most 0 (copied)
ICT, ``<black>``       "... <black widow> ..."                        0        less: that is another tag
ICT, "bo"              "... bowl ..." or "... elbow ..."              1        0 (never inside a word)
ICT, ``<bo>``          "... <bo> ... </bo> ..."                       0        at most 0
multi ICT              the same (no guard upstream)                   1        at most 0
multi ICT              every tag of the prompt                        1        less: wrong names cost
ICT                    wrong names in a caption below the floor       0        less than 0: no way out
=====================  =============================================  =======  ==========================

Open, as no rule sees it; each gets 1, like a faultless caption (`tests/test_rewards.py` keeps this list true):

- word salad: "<bo> umbrella seven quickly purple engine under ..."
- a refusal: "I can't say whether <bo> is in this picture, as ..."
- a caption of another photo
- an info with its words shuffled
- a wrong name inside a word ("miacat"), backwards ("aim"), or by another name of the same concept

Against the first there is a fluency term (`training.fluency`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from repic_core.concepts.disguises import disguised
from repic_core.concepts.names import read_names
from repic_core.concepts.scripts import length, runs, script, words
from repic_core.concepts.tags import key
from repic_core.models.boxes import iou, paper_iou, stated_box
from repic_core.models.verdicts import verdict
from repic_core.tasks import ICT, MULTI_ICT, OCT, SINGLE_ICT, TASKS, VLT, read_solution

PAPER_MIN_LENGTH = 100  # characters; upstream's MIN_CONTENT_LEN
IOU_THRESHOLD = 0.5
PROFILES = ("paper", "covip", "strict")
_NUMBERS = r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]"
# The first box of integers counts.
_BOXES = {
    "paper": re.compile(r"\[(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\]"),
    "covip": re.compile(rf'"bbox_2d"\s*:\s*{_NUMBERS}'),
}
WORDS_PER_NAME = 2  # with fewer distinct other words per name, a caption is only a list of names
COPY_WORDS = 6  # a run of this many words of an info is a copy, and so is a whole info of at least 4 words
# Beside the character itself.
_WEIGHTS = {"CJK": 2, "IDEOGRAPHIC": 2, "HIRAGANA": 1, "KATAKANA": 1, "HANGUL": 1}
COPY_CHARACTERS = 24  # so is a run of this many letters and digits, however they are joined


def oct_reward(completion: str, solution: str, profile: str = "strict") -> float:
    """1 if the answer is the right one of yes and no.

    `paper`: the first "yes" or "no" anywhere counts, even inside a word. `strict`: the `verdict` of the
    answer must be that of the solution; an answer without a verdict gets 0.

    >>> [oct_reward(text, "yes", p) for text in ("I know, yes.", "yes or no") for p in ("strict", "paper")]
    [1.0, 0.0, 0.0, 1.0]
    """
    if profile != "strict":
        said, right = (re.search("yes|no", text.lower(), re.IGNORECASE) for text in (completion, solution))
        return float(bool(said and right) and said.group() == right.group())
    said, right = verdict(completion), verdict(solution)
    return float(bool(said) and said == right)


def vlt_reward(completion: str, solution: Sequence[float], profile: str = "strict") -> float:
    """1 if the answer's box has an IoU of at least 0.5 with the solution's (same frame).

    `paper`: the first box of integers counts, with upstream's IoU of inclusive pixels (`paper_iou`). `covip`: the
    first one under ``"bbox_2d"``. `strict`: the answer must hold exactly one box that is not empty, in the form of
    any family (`models.boxes.stated_box`).

    >>> vlt_reward('[{"bbox_2d": [0, 0, 10, 10]}]', [0, 0, 10, 12])
    1.0
    """
    if len(solution) != 4:
        return 0.0
    if profile in _BOXES:
        found = _BOXES[profile].search(completion)
        box = [v.lstrip("0") or "0" for v in found.groups()] if found else []
        if not box or max(map(len, box)) > 18:  # too long for a coordinate, and int() refuses the longest
            return 0.0
        return float(paper_iou([int(v) for v in box], solution) >= IOU_THRESHOLD)
    box = stated_box(completion)
    return float(box is not None and iou(box, solution) >= IOU_THRESHOLD)


def paper_ict_single_reward(completion: str, solution: str, min_length: int = PAPER_MIN_LENGTH) -> float:
    """Upstream's single ICT: long enough, with the solution in it and, for ``<name>``, without ``</name>``."""
    if len(completion) < min_length or solution not in completion:
        return 0.0
    return float(not (solution.startswith("<") and solution.replace("<", "</") in completion))


def paper_ict_multi_reward(
    completion: str, solution: Sequence[str], min_length: int = PAPER_MIN_LENGTH
) -> float:
    """Upstream's multi ICT: if long enough, the fraction of the solutions that are in it."""
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
    """Strict identity consistency, single or multi: the right names, each once, in a real sentence.

    The reward is (distinct right names - `penalty` x (wrong names + repeats)) / names shown, and at least -1. It
    is at most 0 for a caption below `min_length`, a list of names (`WORDS_PER_NAME`), a copied info, or the closing
    tag of a right name such as ``</bo>``.

    Args:
        completion: the caption. A name counts if it is written as a tag, in any spelling (`tags.key`); only a
            solution without brackets also counts without them, as a whole phrase.
        solution: the tags that the query shows, such as ``["<bo>", "<black widow>"]``.
        candidates: all tags in the prompt; a wrong one also counts without its brackets, by the rules of
            `names.find_names`. Every other name in brackets is wrong as well, also as ``</mia>``.
        infos: the references' infos; none may be copied (`COPY_WORDS`, `COPY_CHARACTERS`).
        min_length: the least length in characters, not counting padding (`_length`).
        penalty: of a wrong name or a repeat, in right names.
        max_repeats: how often a right name may occur in the caption, with or without brackets.

    >>> caption = "<bo> sleeps in the sun, <mia> watches."
    >>> ict_reward(caption, ["<bo>", "<mia>"], min_length=20), ict_reward(caption, ["<bo>"], min_length=20)
    (1.0, 0.5)
    """
    solution, candidates, infos = map(_listed, (solution, candidates, infos))
    if not solution:
        return 0.0
    right = {key(tag): tag for tag in solution}
    known = list(dict.fromkeys((*solution, *candidates)))
    written = read_names(completion, known)
    tagged, closed = ([name for *_, name in places] for places in (written.tagged, written.closed))
    plain, rest = [key(tag) for *_, tag in written.plain], written.rest()
    hidden = [name for name in disguised(rest, known) if name not in right]
    named = [*tagged, *plain, *hidden, *(name for name in closed if name not in right)]
    hits = sum(name in tagged or (name in plain and not tag.startswith("<")) for name, tag in right.items())
    wrong = sum(name not in right for name in named)
    repeats = sum(max(0, named.count(name) - max_repeats) for name in right)
    value = max(-1.0, (hits - penalty * (wrong + repeats)) / len(right))
    hollow = (
        _length(written.read) < min_length
        or len(set(words(rest))) < WORDS_PER_NAME * len(named)
        or any(name in right for name in closed)
        or any(_copies(written.read, info) for info in infos)
    )
    return min(0.0, value) if hollow else value


def _listed(texts: Sequence[str]) -> Sequence[str]:
    """One text as a list of it, or as the list that it holds as JSON."""
    return texts if not isinstance(texts, str) else read_solution(texts, MULTI_ICT) if texts else ()


def _length(text: str) -> int:
    """The characters of `text` without padding.

    As translations are shorter in other scripts, a Chinese character counts as three; kana and Hangul as two.
    """
    condensed = _condensed(text)
    return len(condensed) + sum(_WEIGHTS.get(script(character), 0) for character in condensed)


def _condensed(text: str) -> str:
    """`text` without padding.

    A run of white space and punctuation is cut to two characters; what is repeated directly (up to four words) is
    kept once.
    """
    text = re.sub(r"([\W_]{2})[\W_]+", r"\1", text.strip())
    return re.sub(r"\b(\w+(?:\W+\w+){0,3})\b(?:\W+\1\b)+", r"\1", text, flags=re.IGNORECASE)


def _copies(text: str, info: str) -> bool:
    """Whether the text copies the info: `COPY_WORDS` words, `COPY_CHARACTERS` characters, or all of a shorter info.

    An info of fewer than 4 words is not enough for a copy by words. Words are those of `concepts.scripts`.
    """
    told, said = (words(re.sub(r"<[^<>]*>", " ", t)) for t in (info, text))
    size = min(COPY_WORDS, int(length(told)))
    by_letters = _share_a_run("".join(told), "".join(said), _windows)
    return by_letters or (size >= 4 and _share_a_run(told, said, lambda text: runs(text, size)))


def _share_a_run(
    a: Sequence[str], b: Sequence[str], spans: Callable[[Sequence[str]], Iterable[tuple[int, int]]]
) -> bool:
    """Whether two texts (of characters or of words) have a run in common; `spans` gives the runs of one."""
    one, two = ({tuple(text[start:end]) for start, end in spans(text)} for text in (a, b))
    return not one.isdisjoint(two)


def _windows(text: Sequence[str]) -> Iterable[tuple[int, int]]:
    return ((start, start + COPY_CHARACTERS) for start in range(len(text) - COPY_CHARACTERS + 1))


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
    """The reward of each completion by its row's method; None for a method that is not in `tasks.TASKS`.

    Args:
        completions: plain texts, or conversational (``[{"role": "assistant", "content": ...}]``).
        solution: per row: text, a list, or the JSON of a list.
        accu_reward_method: per row: ``yes_no``, ``iou``, ``yes_no_name`` or ``yes_no_name_multi``.
        profile: one of `PROFILES`.
        min_length: characters below which ICT gets 0 (`strict`: at most 0); by default 100, as in the paper.
        candidates, infos: per row, for `strict` (`ict_reward`); empty or None for a row without them.
        penalty: of a wrong name or a repeat, for `strict`.

    >>> personalization_reward(["yes"], ["yes"], ["yes_no"])
    [1.0]

    Raises:
        ValueError: an unknown profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r}: use one of {', '.join(PROFILES)}")
    floor = PAPER_MIN_LENGTH if min_length is None else min_length
    rewards: list[float | None] = []
    none: list[Sequence[str]] = [()] * len(completions)
    rows = zip(completions, solution, accu_reward_method, candidates or none, infos or none, strict=True)
    for completion, raw, method, tags_in_prompt, infos_in_prompt in rows:
        text, answer = completion_text(completion), read_solution(raw, method)
        if method == OCT:
            rewards.append(oct_reward(text, answer, profile))
        elif method == VLT:
            rewards.append(vlt_reward(text, answer, profile))
        elif method not in ICT:
            rewards.append(None)
        elif profile == "strict":
            tags = [answer] if isinstance(answer, str) else answer
            rewards.append(
                ict_reward(text, tags, tags_in_prompt or (), infos_in_prompt or (), floor, penalty)
            )
        elif method == SINGLE_ICT:
            rewards.append(paper_ict_single_reward(text, answer, floor))
        else:
            rewards.append(paper_ict_multi_reward(text, answer, floor))
    return rewards


def make_reward(profile: str, min_length: int) -> Callable[..., list[float | None]]:
    """`personalization_reward` with these settings; it also logs the mean reward of each method."""

    def personalization(
        completions: Sequence[Any], accu_reward_method: Sequence[str], log_metric: Any = None, **columns: Any
    ) -> list[float | None]:
        rewards = personalization_reward(
            completions,
            accu_reward_method=accu_reward_method,
            profile=profile,
            min_length=min_length,
            **columns,
        )
        if log_metric:
            of_method: dict[str, list[float]] = {}
            for method, reward in zip(accu_reward_method, rewards, strict=True):
                if reward is not None:
                    of_method.setdefault(method, []).append(reward)
            for method in TASKS:
                if method in of_method:
                    log_metric(f"reward/{method}", sum(of_method[method]) / len(of_method[method]))
        return rewards

    return personalization


def completion_text(completion: Any) -> str:
    """The text of a completion, plain or conversational (string content or text blocks)."""
    if isinstance(completion, str):
        return completion
    content = (completion[-1]["content"] if completion else "") or ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)
