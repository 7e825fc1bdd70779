"""What ends a training, said in one line: the step, the cause, and what resume goes on from; checked rewards."""

from __future__ import annotations

import math
import os
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from repic_core.training.checkpoints import last_whole, save_after_failure

SAVING = {
    "_save_checkpoint",
    "on_save",
    "save_result",
}  # functions; torch and safetensors don't name the file


class TrainingError(RuntimeError):
    """A training that ended before its last step; the message says why, and from where it can go on."""


class RunEnded(TrainingError):
    """There is nothing to go on with; the message says where the result is."""


class RewardError(ValueError):
    """A reward function that raised, or gave what is no reward; the message names it."""


def check_processes() -> None:
    """`TrainingError` where accelerate was asked for several processes and started one.

    ``accelerate launch --cpu --num_processes 2`` does (accelerate 1.15; without an MPI host file), and the run
    would have half the batch.
    """
    from accelerate import PartialState

    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ
    if asked and PartialState().num_processes == 1:
        raise TrainingError(
            "accelerate was asked for several processes and only this one was started, as --cpu starts others "
            "through MPI only: use `accelerate launch --multi_gpu --num_processes N`, and give this command "
            "`--use_cpu true`"
        )


def checked_reward(function: Any) -> Any:
    """`function`, which raises `RewardError` where it raises or gives no finite number; None stays "no reward".

    TRL takes NaN as None: the completion would silently not count. Reward models and functions that are awaited
    are given back as they are.
    """
    from torch.nn import Module
    from trl.trainer.utils import get_callable_name, is_async_callable

    if isinstance(function, str | Module) or is_async_callable(function):
        return function
    name = get_callable_name(function)

    @wraps(function)
    def checked(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            rewards = list(function(completions=completions, **columns))
        except Exception as error:
            raise RewardError(f"reward {name!r} raised {_said(error)}") from error
        for completion, reward in zip(
            completions, rewards, strict=False
        ):  # TRL says where the count is wrong
            if reward is not None and not _is_number(reward):
                text = completion if isinstance(completion, str) else completion[0]["content"]
                raise RewardError(
                    f"reward {name!r} gave {reward!r} for the completion {text[:80]!r}: give a finite number, "
                    "or None for no reward"
                )
        return rewards

    checked.__name__ = name  # a partial has none
    return checked


def _is_number(reward: Any) -> bool:
    try:
        return math.isfinite(reward)
    except (TypeError, ValueError):
        return False


@contextmanager
def failures_told(trainer: Any, keeper: Any) -> Iterator[None]:
    """Within: an exception is a `TrainingError` of one line, and the last finished step is saved where it can be.

    The first cause stays in its traceback.
    """
    try:
        yield
    except RunEnded:
        raise
    except Exception as error:
        done, args = trainer.state.global_step, trainer.args
        save_after_failure(trainer, keeper)
        checkpoint = last_whole(args.output_dir, tell=False)
        where = f"process {args.process_index} of {args.world_size}, " if args.world_size > 1 else ""
        if checkpoint is None:
            mend = "no checkpoint was saved yet: begin again"
        else:
            mend = f"with resume (--resume true) the run goes on from {checkpoint}"
        raise TrainingError(
            f"ended after {where}step {done} of {trainer.state.max_steps}: {_cause(error, trainer)}; {mend}"
        ) from error


def _cause(error: Exception, trainer: Any) -> str:
    if isinstance(error, RewardError):
        return str(error)
    if {frame.name for frame in traceback.extract_tb(error.__traceback__)} & SAVING:
        free = shutil.disk_usage(trainer.args.output_dir).free / 1e9
        return f"saving in {trainer.args.output_dir} failed ({free:.1f} GB free on its disk): {_said(error)}"
    if isinstance(error, OSError) and error.filename is not None:
        rows = _rows_with(trainer.train_dataset, str(error.filename))
        what = f"the photo of row {', '.join(map(str, rows))}, " if rows else ""
        return f"{what}{error.filename}: {error.strerror}"
    return _said(error)


def _rows_with(dataset: Any, path: str) -> list[int]:
    """The rows, from 1, that show the photo of this path."""
    from repic_core.training.photos import undecoded

    closed = undecoded(dataset)
    if "images" not in (getattr(closed, "column_names", None) or ()):
        return []
    photos = enumerate(closed["images"], 1)
    return [n for n, row in photos if any(isinstance(p, dict) and p.get("path") == path for p in row)]


def _said(error: Exception) -> str:
    """Kind, first line and place of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}{place}"
