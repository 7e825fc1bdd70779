"""An optional reward for what a caption conveys: a reader who sees no photo answers questions from it.

After CoViP (Oh et al. 2026, arXiv 2602.03454), whose training code is in github.com/oyt9306/CoViP at 0804834
(``VLM-R1-Qwen3/src/open-r1-multimodal/src/open_r1/vlm_modules/qwen_module.py``): `return_VRs_final_pos`,
`return_VRs_final_neg`, `has_heavy_repetition` and `yes_no_reward_caps`. As there, an unclear answer counts as "not
said". Two things differ. There each right answer earns 1/3, so a caption can earn more than it can lose; here it
earns its share of 1. There the tokens of a caption are counted anew; here those that were sampled count.

Questions are in the field ``questions`` of a row (`data.rows`); `question_weight` in a recipe turns the term on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from repic_core.rewards import completion_text
from repic_core.tasks import NOT_SAID

# CoViP's `has_heavy_repetition`: sentences count from four on, runs of 5 words from 20 words on, longer runs from
# two of them on. A share is that of copies, or of runs that occur twice or more.
FEWEST_SENTENCES, COPIED_SENTENCES = 4, 0.3
SHORT_RUN, FEWEST_WORDS, COPIED_RUNS = 5, 20, 0.3
LONG_RUNS, RECURRING_RUNS = (10, 20, 30), 0.2

Choose = Callable[[str, str, Sequence[str]], int | None]


class QuestionRewardError(ValueError):
    """Questions that can't be asked; the message says what to change."""


def question_share(choose: Choose, caption: str, questions: Sequence[dict[str, Any]]) -> tuple[float, int]:
    """The share of right answers minus the share of failed negatives, in [-1, 1]; and the number of clear answers.

    Args:
        choose: (caption, question, options) -> the index of the chosen option, None if the choice is unclear; the
            last option is always `tasks.NOT_SAID`.
        questions: ``text``, ``options`` and ``answer`` of each; those whose answer is `NOT_SAID` are the negatives.

    >>> from repic_core.tasks import NOT_SAID
    >>> def choose(caption, text, options):
    ...     return next((i for i, option in enumerate(options) if option in caption), len(options) - 1)
    >>> who = {"text": "Who is it?", "options": ["<bo>", "<mia>"], "answer": "<bo>"}
    >>> where = {"text": "Where is <tom>?", "options": ["left", "right"], "answer": NOT_SAID}
    >>> question_share(choose, "<bo> and, at the left, <tom>", [who, where])
    (0.0, 2)
    """
    right, failed, clear = [], [], 0
    for question in questions:
        options = [*question["options"], NOT_SAID]
        chosen = choose(caption, question["text"], options)
        clear += chosen is not None
        answer = NOT_SAID if chosen is None else options[chosen]
        if question["answer"] == NOT_SAID:
            failed.append(answer != NOT_SAID)
        else:
            right.append(answer == question["answer"])
    return _share(right) - _share(failed), clear


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0


def repeats(text: str) -> bool:
    """Whether a caption says the same again and again, by CoViP's three tests.

    >>> repeats("A dog. A cat. A cat. A cat."), repeats("A dog and a cat on a red sofa.")
    (True, False)
    """
    words = text.lower().split()
    sentences = [part.strip() for part in re.split("[.!?]+", " ".join(words)) if part.strip()]
    if len(sentences) >= FEWEST_SENTENCES and _copied(sentences) >= COPIED_SENTENCES:
        return True
    if len(words) >= FEWEST_WORDS and _copied(_runs(words, SHORT_RUN)) >= COPIED_RUNS:
        return True
    return any(
        len(words) >= 2 * size and _recurring(_runs(words, size)) >= RECURRING_RUNS for size in LONG_RUNS
    )


def _runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def _copied(parts: Sequence[Any]) -> float:
    """The share of parts that are a copy of an earlier one."""
    return 1 - len(set(parts)) / len(parts)


def _recurring(parts: Sequence[Any]) -> float:
    """The share of parts that occur twice or more."""
    return sum(count for count in Counter(parts).values() if count > 1) / len(parts)


def make_question_reward(choose: Choose, max_tokens: int) -> Callable[..., list[float | None]]:
    """A reward function in TRL's form: `question_share`, but -1 for a caption that `repeats` or is too long.

    Args:
        max_tokens: a completion of this many tokens or more was cut off; CoViP's limit is 512.
    """

    def question_reward(
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        questions: Sequence[str | None],
        log_metric: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """None for a row without questions.

        Args:
            completion_ids: the tokens of each completion.
            questions: per row, the JSON of a list of questions (`data.rows.to_dataset`).

        Raises:
            QuestionRewardError: the reader gives not one clear answer in this batch.
        """
        rewards: list[float | None] = []
        asked = clear = 0
        for completion, ids, written in zip(completions, completion_ids, questions, strict=True):
            about = json.loads(written) if written else []
            text = completion_text(completion)
            if not about:
                rewards.append(None)
            elif len(ids) >= max_tokens or repeats(text):
                rewards.append(-1.0)
            else:
                reward, answered = question_share(choose, text, about)
                rewards.append(reward)
                asked, clear = asked + len(about), clear + answered
        if asked and not clear:
            raise QuestionRewardError(
                f"the reader gave no clear answer to any of {asked} questions: give a reader that knows their "
                "form (question_reader)"
            )
        told = [reward for reward in rewards if reward is not None]
        if log_metric and told:
            log_metric("reward/questions", sum(told) / len(told))
        return rewards

    return question_reward


def load_reader(name: str) -> Choose:
    """`choose` of a reader by its place, ``module:class``; the class is called without arguments.

    Raises:
        QuestionRewardError: there is no such reader.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)().choose
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise QuestionRewardError(
            f"question_reader: {name!r} can't be used ({error}): give MODULE:CLASS of a reader with "
            "`choose(caption, text, options)`, such as repic_core.toyworld.questions:CaptionReader"
        ) from None
