"""Checkpoints that are whole or don't count: a marker written last, the newest whole one, the save of the result.

A run can be killed at any time. A checkpoint is resumed only if `MARKER` stands in it, which is written when
all its files are on the disk, and if they have the sizes that it names. Older checkpoints are deleted after that.
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
CONFIGS = (
    "config.json",
    "adapter_config.json",
)  # without its configuration a folder is no model to any loader


def mark_whole(folder: Path) -> None:
    """Write the marker of a checkpoint whose files are all written; they are brought to the disk before it."""
    sizes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MARKER):
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        _to_disk(path)
    write_json_atomic(folder / MARKER, {"files": sizes})


def fault(folder: Path) -> str | None:
    """Why a checkpoint is not whole, if so."""
    if (folder / EARLIER).is_file():
        return "of an earlier run in this folder"
    if not (folder / MARKER).is_file():
        return f"no {MARKER} in it: its saving was cut off"
    try:
        sizes = dict(read_json(folder / MARKER, ValueError)["files"])
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} is no list of its files"
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


def last_whole(output_dir: str | Path, tell: bool = True) -> Path | None:
    """The newest whole checkpoint; says which ones it skips, and why."""
    for folder in checkpoints(output_dir):
        why = fault(folder)
        if why is None:
            return folder
        if tell:
            logger.warning("%s: skipped (%s)", folder, why)
    return None


def set_aside(output_dir: str | Path, torn_only: bool) -> None:
    """Take the marker from checkpoints that a run will write anew: those that are not whole; all, if it begins."""
    for folder in checkpoints(output_dir):
        if not (folder / MARKER).is_file():
            continue
        if fault(folder) is not None:
            (folder / MARKER).unlink()
        elif not torn_only:
            os.replace(folder / MARKER, folder / EARLIER)
            logger.warning("%s: of an earlier run; a new one begins in its folder (resume goes on)", folder)


def delete_older(output_dir: str | Path, limit: int | None, protected: str | None = None) -> None:
    """Keep the `limit` newest whole checkpoints and the `protected`; delete the others, whole or not."""
    if not limit or limit < 1:
        return
    kept = [folder for folder in checkpoints(output_dir) if fault(folder) is None][:limit]
    for folder in checkpoints(output_dir):
        if folder not in kept and str(folder) != protected:
            (folder / MARKER).unlink(missing_ok=True)  # first: what is half deleted is not whole
            shutil.rmtree(folder, ignore_errors=True)


def checkpoint_keeper(trainer: Any) -> Any:
    """A `TrainerCallback` that marks each checkpoint, then deletes older ones in the trainer's place.

    It also keeps the random states of the last finished step, with which `save_after_failure` saves.
    """
    from transformers import TrainerCallback

    class CheckpointKeeper(TrainerCallback):
        limit, states, weights_are_a_steps = trainer.args.save_total_limit, None, True

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
            self.states, self.weights_are_a_steps = random_states(), True

        def on_evaluate(self, *_: Any, **__: Any) -> None:
            self.states = random_states()

    trainer.args.save_total_limit = None  # the trainer deletes before a marker could be written
    return CheckpointKeeper()


def save_after_failure(trainer: Any, keeper: Any) -> None:
    """Save the last finished step as a checkpoint where that gives what an unbroken run has; else do nothing.

    Not with several processes (the others are in the midst of the step), nor where the step's failure came while
    the weights were changed, nor between two uses of the same completions.
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
    except Exception as error:  # the disk is full, say, which may be what failed before
        logger.warning("%s: not saved (%s)", folder, error)
        shutil.rmtree(folder, ignore_errors=True)


def begins_with_rollout(trainer: Any, step: int) -> bool:
    """Does GRPO draw new completions after this step? Else a resumed run would, and an unbroken one would not."""
    args = trainer.args
    uses = getattr(args, "steps_per_generation", 1) * getattr(args, "num_iterations", 1)
    return step * args.gradient_accumulation_steps % uses == 0


def mend_resume(trainer: Any, checkpoint: str) -> None:
    """Let `trainer` go on from `checkpoint` exactly; optimizer, scheduler and RNG are restored without this.

    - `transformers` 5.23 does not find the weights of a fully tuned Qwen2.5-VL in its own checkpoint: they are
      saved under the hub's names and looked for under the module's (it only warns). The model's loader does.
    - TRL 1.16's sampler of prompts draws a new order in each epoch, and after a resume begins with the first
      epoch's again. The orders that were used up are drawn first.
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
            "%s lies between two uses of the same completions: the run goes on with new ones, and differs from an "
            "unbroken one; save_steps should be a multiple of the steps that share completions",
            checkpoint,
        )
    epochs = int(state.epoch + 1e-6)
    make_sampler = trainer._get_train_sampler

    def train_sampler(*args: Any, **kwargs: Any) -> Any:
        sampler = make_sampler(*args, **kwargs)
        for _ in range(epochs if isinstance(sampler, RepeatSampler) else 0):
            next(iter(sampler))
        return sampler

    trainer._get_train_sampler = train_sampler


def save_result(trainer: Any) -> None:
    """Save the model in the output folder: in a folder beside first, then moved, the configuration last.

    A kill in the midst leaves no file that is half written, and no configuration beside the old or new weights.
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
        _check_weights(part)  # before anything of an earlier result goes
        for folder in (part, out):  # TRL's card names folders of this machine; `export` writes one
            (folder / "README.md").unlink(missing_ok=True)
        for path in part.rglob("*"):
            if path.is_file():
                _to_disk(path)
        for name in CONFIGS:
            (out / name).unlink(missing_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.name in CONFIGS):
            if path.is_dir():
                shutil.rmtree(out / path.name, ignore_errors=True)
            os.replace(path, out / path.name)
        part.rmdir()
    accelerator.wait_for_everyone()


def _check_weights(folder: Path) -> None:
    """RuntimeError if nothing was saved: FSDP saves no adapter, or an empty one, under some of its settings."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if len(list(file.keys())):
                return
    raise RuntimeError(
        f"no weights were written to {folder.name} (FSDP: state_dict_type must be FULL_STATE_DICT, without "
        "activation_checkpointing)"
    )


def random_states() -> tuple[Any, ...]:
    """Of Python, NumPy, torch on the CPU and on each CUDA device in use."""
    import numpy
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), numpy.random.get_state(), torch.random.get_rng_state(), cuda


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put back what `random_states` gave."""
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


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
