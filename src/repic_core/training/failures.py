"""How a training that fails ends: one message with the step, the cause and the checkpoint to resume from.

Rewards are checked here too, so that a bad one stops the run with its name.
"""

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

# Functions that save: errors of torch and safetensors do not name the file, but their traceback has one of these.
SAVING = {"_save_checkpoint", "on_save", "save_result"}
# Files of functions that open photos and resize them.
DECODERS = ("/PIL/", "/datasets/features/", "/image_processing")


class TrainingError(RuntimeError):
    """A training that stopped before its last step; the message says why, and what it can be resumed from."""


class RunEnded(TrainingError):
    """A training that is already finished, so there is nothing to resume; the message says where its result is."""


class RewardError(ValueError):
    """A reward function that raised, or returned something that is no reward; the message names it."""


def check_processes() -> None:
    """`TrainingError` if accelerate was asked for several processes and started only one.

    ``accelerate launch --cpu --num_processes 2`` does that (accelerate 1.15, without an MPI host file), and the run
    would have half the batch.
    """
    from accelerate import PartialState

    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ
    if asked and PartialState().num_processes == 1:
        raise TrainingError(
            "accelerate was asked for several processes and only this one was started, because --cpu starts others "
            "only through MPI: use `accelerate launch --multi_gpu --num_processes N`, and give this command "
            "`--use_cpu true`"
        )


def checked_reward(function: Any) -> Any:
    """`function`, made to raise `RewardError` if it raises or returns no finite number; None stays "no reward".

    TRL treats NaN as None, so the completion would silently not count. Reward models (a module or a name) and async
    functions are returned as they are.
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
            raise RewardError(f"reward {name!r} raised {_described(error)}") from error
        # Not strict: a wrong number of rewards is TRL's own error.
        for completion, reward in zip(completions, rewards, strict=False):
            if reward is not None and not _is_number(reward):
                text = completion if isinstance(completion, str) else completion[0]["content"]
                raise RewardError(
                    f"reward {name!r} returned {reward!r} for the completion {text[:80]!r}: return a finite "
                    "number, or None for no reward"
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
def explained_failures(trainer: Any, keeper: Any) -> Iterator[None]:
    """Context manager that turns an exception into a `TrainingError` of one line, which keeps it as its cause.

    Before that, the last finished step is saved where `save_after_failure` can.
    """
    try:
        yield
    except RunEnded:
        raise
    except Exception as error:
        done, args = trainer.state.global_step, trainer.args
        save_after_failure(trainer, keeper)
        checkpoint = last_whole(args.output_dir, warn=False)
        where = f" (process {args.process_index} of {args.world_size})" if args.world_size > 1 else ""
        if checkpoint is None:
            fix = "no checkpoint was saved yet: start again"
        else:
            fix = f"with resume (--resume true) it continues from {checkpoint}"
        step = f"step {done} of {trainer.state.max_steps}{where}"
        raise TrainingError(f"training stopped after {step}: {_cause(error, trainer)}; {fix}") from error


def _cause(error: Exception, trainer: Any) -> str:
    if isinstance(error, RewardError):
        return str(error)
    if {frame.name for frame in traceback.extract_tb(error.__traceback__)} & SAVING:
        free = shutil.disk_usage(trainer.args.output_dir).free / 1e9
        return f"saving in {trainer.args.output_dir} failed ({free:.1f} GB free on its disk): {_described(error)}"
    if isinstance(error, OSError) and error.filename is not None:
        photo = getattr(error, "photo", None) or {"path": str(error.filename), "bytes": None}
        rows = [row for row, shown in _photos(trainer.train_dataset) if photo in shown]
        where = f"the photo of row {', '.join(map(str, rows))}, " if rows else ""
        return f"{where}{error.filename}: {error.strerror}"
    return _bad_photo(error, trainer.train_dataset) or _described(error)


def _bad_photo(error: Exception, dataset: Any) -> str | None:
    """Which photo made `datasets` or Pillow raise `error`, which does not name it; None if none did."""
    from repic_core.io.images import image_fault

    frames = traceback.extract_tb(error.__traceback__)
    if not any(part in frame.filename for frame in frames for part in DECODERS):
        return None
    for row, photos in _photos(dataset):
        for photo in photos:
            kept = photo.get("bytes")
            fault = image_fault(Path(photo["path"]) if kept is None else kept)
            if fault:
                return f"the photo of row {row}, {photo['path'] or 'a photo in memory'}: {fault}"
    return None


def _photos(dataset: Any) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The photos of each row, counted from 1, as ``{"bytes", "path"}``."""
    from repic_core.training.photos import undecoded

    closed = undecoded(dataset)
    if "images" in (getattr(closed, "column_names", None) or ()):
        for row, photos in enumerate(closed["images"], 1):
            yield row, [photo for photo in photos if isinstance(photo, dict)]


def _described(error: Exception) -> str:
    """Type, first line and place of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}{place}"
