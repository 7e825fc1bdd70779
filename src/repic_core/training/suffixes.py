"""When the sentence at the end of an ICT prompt is drawn: once for a row, once for a group, or for each completion.

Upstream draws it whenever its data set is accessed (`grpo_multitask_multi_img_no_format.py`, lines 178 to 188), and
its sampler yields a row's index once for each completion (`grpo_trainer.py`, lines 108 to 112). So the completions
of one group have different prompts: that is ``completion``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from repic_core.prompts import redrawn_suffix

TIMES = ("row", "group", "completion")


def redrawn(
    rows: Sequence[dict[str, Any]], each: str, seed: int, step: int, process: int
) -> list[dict[str, Any]]:
    """A batch's rows with the suffixes of their ICT prompts drawn anew; other prompts stay as they are.

    What is drawn depends on nothing but the arguments: a resumed run draws the same, the run's random states do not
    change, and with ``group`` all processes that hold rows of a group draw the same.

    Args:
        rows: with ``prompt`` (messages) and ``accu_reward_method``, a row for each completion.
        each: ``group``, one draw for equal prompts; or ``completion``, one draw for each row.
        step: the optimizer step.
        process: the number of this process.
    """
    new = []
    for number, row in enumerate(rows):
        own = (process, number) if each == "completion" else ()
        rng = random.Random(repr((seed, step, row["prompt"][-1]["content"][-1].get("text"), *own)))
        new.append({**row, "prompt": redrawn_suffix(row["prompt"], row["accu_reward_method"], rng)})
    return new


def with_redrawn_suffixes(trainer: type, each: str) -> type:
    """A subclass of a `GRPOTrainer` that draws the suffixes anew (`redrawn`) whenever completions are generated."""

    class WithRedrawnSuffixes(trainer):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            place = (self.state.global_step, self.accelerator.process_index)
            return super()._generate_and_score_completions(redrawn(inputs, each, self.args.seed, *place))

    return WithRedrawnSuffixes
