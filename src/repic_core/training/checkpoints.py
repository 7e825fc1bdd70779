"""Checkpoints that count only when they are whole: mark, find, delete and resume them; save the result.

A run can be killed at any time. A checkpoint is resumed only if it holds `MARKER`, which is written after all its
files are on the disk, and only if the files have the sizes that the marker lists. Only then are older ones deleted.
"""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

from repic_core.io.files import read_json, write_json_atomic

logger = logging.getLogger(__name__)

MARKER = "whole.json"
EARLIER = "whole_in_an_earlier_run.json"  # the marker's name after a new run began in the same folder
# Without its configuration no loader takes a folder for a model.
CONFIGS = ("config.json", "adapter_config.json")


def mark_whole(folder: Path) -> None:
    """Flush all files of a checkpoint to the disk, then write its marker."""
    sizes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MARKER):
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        _flush(path)
    write_json_atomic(folder / MARKER, {"files": sizes})


def fault(folder: Path) -> str | None:
    """Why a checkpoint is not whole; None if it is."""
    if (folder / EARLIER).is_file():
        return "it belongs to an earlier run in this folder"
    if not (folder / MARKER).is_file():
        return f"it has no {MARKER}: saving it was interrupted"
    try:
        sizes = dict(read_json(folder / MARKER, ValueError)["files"])
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} does not list its files"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not the {size} that were saved"
    return None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders ``checkpoint-N``, whole or not, highest N first."""
    found = [p for p in Path(output_dir).glob("checkpoint-*") if p.is_dir() and _step(p) is not None]
    return sorted(found, key=lambda path: _step(path) or 0, reverse=True)


def last_whole(output_dir: str | Path, warn: bool = True) -> Path | None:
    """The newest whole checkpoint; with `warn`, logs which ones are skipped, and why."""
    for folder in checkpoints(output_dir):
        why = fault(folder)
        if why is None:
            return folder
        if warn:
            logger.warning("%s: skipped (%s)", folder, why)
    return None


def check_free(output_dir: str | Path, resume: bool) -> None:
    """ValueError if the folder holds a run's result or a whole checkpoint that a new run would replace.

    With `resume` a run with a whole checkpoint is continued, so nothing of it is lost.
    """
    out = Path(output_dir)
    finished = any((out / name).is_file() for name in CONFIGS)
    checkpoint = last_whole(out, warn=False)
    if (resume and checkpoint) or not (finished or checkpoint):
        return
    held = "the result of a run" if finished else f"an unfinished run ({checkpoint.name})"
    on = ", continue it (--resume, in Python resume=True)" if checkpoint else ""
    raise ValueError(
        f"{out}: holds {held}: give another folder{on} or replace it (--overwrite, in Python overwrite=True)"
    )


def set_aside(output_dir: str | Path, torn_only: bool) -> None:
    """Take away the markers of checkpoints that a run will write again.

    A resumed run (`torn_only`) takes those of checkpoints that are not whole. A new run takes all of them; the
    markers of whole checkpoints are then renamed to `EARLIER`.
    """
    for folder in checkpoints(output_dir):
        if not (folder / MARKER).is_file():
            continue
        if fault(folder) is not None:
            (folder / MARKER).unlink()
        elif not torn_only:
            os.replace(folder / MARKER, folder / EARLIER)


def delete_older(output_dir: str | Path, limit: int | None, protected: str | None = None) -> None:
    """Keep the `limit` newest whole checkpoints and the `protected` one; delete the others, whole or not."""
    if not limit or limit < 1:
        return
    kept = [folder for folder in checkpoints(output_dir) if fault(folder) is None][:limit]
    for folder in checkpoints(output_dir):
        if folder not in kept and str(folder) != protected:
            (folder / MARKER).unlink(missing_ok=True)  # first: what is half deleted is not whole
            shutil.rmtree(folder, ignore_errors=True)


def checkpoint_keeper(trainer: Any) -> Any:
    """A `TrainerCallback` that marks each checkpoint, then deletes older ones in the trainer's place.

    It also keeps the random states after the last finished step; `save_after_failure` saves with them.
    """
    from transformers import TrainerCallback

    class CheckpointKeeper(TrainerCallback):
        limit = trainer.args.save_total_limit
        states = None
        weights_are_a_steps = True  # False while a step changes them

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer.accelerator.wait_for_everyone()  # each process writes its own random state
            if args.should_save:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                (folder / EARLIER).unlink(missing_ok=True)
                mark_whole(folder)
                delete_older(args.output_dir, self.limit, state.best_model_checkpoint)

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.weights_are_a_steps = False

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.states = random_states()
            self.weights_are_a_steps = True

        def on_evaluate(self, *_: Any, **__: Any) -> None:
            self.states = random_states()

    trainer.args.save_total_limit = None  # the trainer deletes before a marker could be written
    return CheckpointKeeper()


def save_after_failure(trainer: Any, keeper: Any) -> None:
    """Save the last finished step as a checkpoint, if the resumed run would equal an uninterrupted one.

    Nothing is saved with several processes (the others are still in the step), nor if the step failed while it
    changed the weights, nor between two uses of the same completions.
    """
    step = trainer.state.global_step
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if keeper.states is None or not keeper.weights_are_a_steps or trainer.args.world_size > 1:
        return
    if fault(folder) is None or not begins_with_rollout(trainer, step):
        return
    set_random_states(keeper.states)
    try:
        trainer._save_checkpoint(trainer.model, None)
        keeper.on_save(trainer.args, trainer.state, trainer.control)
    except Exception as error:  # a full disk, for example, which may be what failed before
        logger.warning("%s: not saved (%s)", folder, error)
        shutil.rmtree(folder, ignore_errors=True)


def begins_with_rollout(trainer: Any, step: int) -> bool:
    """Does GRPO draw new completions after this step? If not, a resumed run would, but an uninterrupted one would
    not."""
    args = trainer.args
    uses = getattr(args, "steps_per_generation", 1) * getattr(args, "num_iterations", 1)
    return step * args.gradient_accumulation_steps % uses == 0


def make_resume_exact(trainer: Any, checkpoint: str) -> None:
    """Prepare `trainer` to resume `checkpoint` exactly. Optimizer, scheduler and RNG need no preparation.

    - `transformers` 5.23 does not find the weights of a fully tuned Qwen2.5-VL in its own checkpoint, and only
      warns: they are saved under the hub's names and looked up under the module's. The model's own loader finds
      them.
    - TRL 1.16's sampler of prompts draws a new order in each epoch, and after a resume starts with the first
      epoch's order again. So the orders of the finished epochs are drawn first.
    """
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME
    from trl.trainer.utils import RepeatSampler

    model = trainer.accelerator.unwrap_model(trainer.model)

    def load_weights(folder: str, *_: Any, **__: Any) -> None:
        saved = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
        model.load_state_dict(saved.state_dict())

    if not hasattr(model, "peft_config"):
        trainer._load_from_checkpoint = load_weights

    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    if not begins_with_rollout(trainer, state.global_step):
        logger.warning(
            "%s was saved between two uses of the same completions: the resumed run draws new ones, so it differs "
            "from an uninterrupted run; make save_steps a multiple of the steps that share completions",
            checkpoint,
        )
    epochs = int(state.epoch + 1e-6)
    make_sampler = trainer._get_train_sampler

    def train_sampler(*args: Any, **kwargs: Any) -> Any:
        sampler = make_sampler(*args, **kwargs)
        if isinstance(sampler, RepeatSampler):
            for _ in range(epochs):
                next(iter(sampler))
        return sampler

    trainer._get_train_sampler = train_sampler


def save_result(trainer: Any) -> None:
    """Save the model in the output folder: first in a folder inside it, then moved, the configuration last.

    So a kill at any point leaves no file that is half written, and no configuration with missing or mixed weights.
    """
    args, accelerator = trainer.args, trainer.accelerator
    out = Path(args.output_dir)
    part = out / ".saving"
    if args.should_save:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    trainer.save_model(str(part), _internal_call=True)
    accelerator.wait_for_everyone()
    if args.should_save:
        _check_weights(part)  # before anything of an earlier result is removed
        for folder in (part, out):  # TRL's card names folders of this machine; `export` writes one
            (folder / "README.md").unlink(missing_ok=True)
        for path in part.rglob("*"):
            if path.is_file():
                _flush(path)
        for name in CONFIGS:
            (out / name).unlink(missing_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.name in CONFIGS):
            if path.is_dir():
                shutil.rmtree(out / path.name, ignore_errors=True)
            os.replace(path, out / path.name)
        part.rmdir()
    accelerator.wait_for_everyone()


def _check_weights(folder: Path) -> None:
    """RuntimeError if nothing was saved: under some settings FSDP saves no adapter, or an empty one."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if len(list(file.keys())):
                return
    raise RuntimeError(
        f"no weights were written to {folder.name}; with FSDP, set state_dict_type to FULL_STATE_DICT and leave "
        "activation_checkpointing out"
    )


def random_states() -> tuple[Any, ...]:
    """The states of the random generators of Python, NumPy, torch on the CPU and on each CUDA device in use."""
    import numpy
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), numpy.random.get_state(), torch.random.get_rng_state(), cuda


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put back the states that `random_states` returned."""
    import numpy
    import torch

    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.random.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])


def _step(folder: Path) -> int | None:
    found = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(found[1]) if found else None


def _flush(path: Path) -> None:
    """Wait until the file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
