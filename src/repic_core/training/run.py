"""What GRPO and SFT share when they run: the metrics file, resuming, the run record and saving the result."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

from repic_core.io.files import write_text_atomic
from repic_core.models.parts import conditional_model
from repic_core.training.checkpoints import (
    CONFIGS,
    checkpoint_keeper,
    last_whole,
    make_resume_exact,
    save_result,
    set_aside,
)
from repic_core.training.failures import RunEnded, TrainingError, explained_failures
from repic_core.training.run_record import complete_record, write_record

logger = logging.getLogger(__name__)


def metrics_callback(path: str | Path) -> Any:
    """A `TrainerCallback` that writes what the trainer logs to a CSV, one row per logged step.

    A resumed run keeps the rows up to the step that it resumes from.
    """
    from transformers import TrainerCallback

    path = Path(path)

    class MetricsCSV(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.rows: list[dict[str, Any]] = []
            if state.global_step and path.exists():
                with open(path, newline="", encoding="utf-8") as file:
                    self.rows = [r for r in csv.DictReader(file) if int(r["step"]) <= state.global_step]

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero or not logs or "train_runtime" in logs:
                return
            self.rows.append({"step": state.global_step, **logs})
            columns = list(dict.fromkeys(key for row in self.rows for key in row))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text_atomic(path, text.getvalue())

    return MetricsCSV()


def run_training(
    trainer: Any, resume: bool, record: dict[str, Any] | None = None, validation: Any = None
) -> None:
    """Train and save the result; with `resume`, from the newest whole checkpoint in the output folder, if any.

    However it ends, the model is then ready to caption (`make_ready`).

    Args:
        record: from `run_record.begin`; written as ``run.json`` at the start and completed at the end.
        validation: from `validation.validation_callback`, one of the trainer's callbacks; the result is then that
            of the best step.

    Raises:
        TrainingError: the run stopped early; the last finished step is saved where it can be resumed exactly.
    """
    import torch

    args = trainer.args
    if not torch.accelerator.is_available():
        args.dataloader_pin_memory = False  # else torch warns at each start
    checkpoint = last_whole(args.output_dir, warn=args.should_save) if resume else None
    if resume and checkpoint is None:
        logger.warning(
            "%s: no whole checkpoint to resume from; the run starts from the beginning", args.output_dir
        )
    _check_same_checkpoint(args, checkpoint)
    if args.should_save:
        set_aside(args.output_dir, torn_only=resume)
    if record is not None and args.should_save:
        write_record(args.output_dir, record, checkpoint)
    # The trainer set it to False, which would be saved, too; passes that need no cache say so themselves.
    conditional_model(trainer.model).config.use_cache = True
    keeper = checkpoint_keeper(trainer)
    trainer.add_callback(keeper)
    try:
        with explained_failures(trainer, keeper):
            if checkpoint:
                make_resume_exact(trainer, str(checkpoint))
            if not (checkpoint and _load_if_finished(trainer, checkpoint)):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if validation is not None:
                validation.restore(trainer.model)
            save_result(trainer)
            if record is not None and args.should_save:
                complete_record(args.output_dir, trainer.state, validation and validation.summary())
    finally:
        make_ready(trainer)
    trainer.remove_callback(keeper)
    args.save_total_limit = keeper.limit


def _check_same_checkpoint(args: Any, checkpoint: Path | None) -> None:
    """`TrainingError` unless all processes found the same checkpoint; nodes may have output folders of their own.

    Such nodes train, and the first has the result; but only its process writes whole checkpoints.
    """
    from accelerate.utils import gather_object

    if args.world_size == 1:
        return
    found = gather_object([checkpoint.name if checkpoint else "no whole checkpoint"])
    for process, name in enumerate(found):
        if name != found[0]:
            raise TrainingError(
                f"resume: process 0 finds {found[0]} in its output folder, process {process} finds {name} in its "
                "own: give all nodes one output folder that they share, or copy the checkpoint into the folder "
                "of each"
            )
    random_state = f"rng_state_{args.process_index}.pth"
    if checkpoint and not (checkpoint / random_state).is_file():
        logger.warning(
            "%s: has no %s, so process %d draws other captions than in an unbroken run",
            checkpoint,
            random_state,
            args.process_index,
        )


def make_ready(trainer: Any) -> None:
    """Let the trained model generate like one that was loaded afresh: undo what the trainer changed in it.

    That is training mode, activation checkpointing, autocast and the attention's name.
    """
    from repic_core.training.shared_prefix import GROUPED

    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    model.eval()
    whole = conditional_model(model)
    whole.activation_checkpointing_disable()
    text = whole.base_model.language_model.config
    text._attn_implementation = text._attn_implementation.removeprefix(GROUPED)


def _load_if_finished(trainer: Any, checkpoint: Path) -> bool:
    """Is the checkpoint that of the last step? If so, load its weights; `train` would do one more step."""
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME

    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if state.global_step < values[-1]:
        return False
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        out = Path(trainer.args.output_dir)
        saved = any((out / name).is_file() for name in CONFIGS)
        where = f"its result is in {out}" if saved else f"the adapter is in {checkpoint}, not in {out}"
        raise RunEnded(f"the run is already finished ({checkpoint} is its last step); {where}")
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    return True
