"""What GRPO and SFT share when they run: the metrics file, resuming, the record, the save of the result."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

from repic_core.io.files import write_text_atomic
from repic_core.training.checkpoints import checkpoint_keeper, last_whole, mend_resume, save_result, set_aside
from repic_core.training.failures import RunEnded, failures_told
from repic_core.training.run_record import complete_record, write_record

logger = logging.getLogger(__name__)


def metrics_callback(path: str | Path) -> Any:
    """A `TrainerCallback` that keeps what the trainer logs in a CSV, a row a logged step.

    A resumed run goes on with the rows up to the step that it resumes from.
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


def run_training(trainer: Any, resume: bool, record: dict[str, Any] | None = None) -> None:
    """Train, from the newest whole checkpoint in the output folder if `resume` and there is one, and save.

    Args:
        record: of `run_record.begin`; written as ``run.json`` at the start and completed at the end.

    Raises:
        TrainingError: the run ended before its end; the last finished step is saved where that can be exact.
    """
    import torch

    args = trainer.args
    args.dataloader_pin_memory &= (
        torch.accelerator.is_available()
    )  # without one, torch warns of it at each start
    checkpoint = last_whole(args.output_dir, tell=args.should_save) if resume else None
    if resume and checkpoint is None:
        logger.warning("%s: no whole checkpoint to go on from; the run begins at its start", args.output_dir)
    if args.should_save:
        set_aside(args.output_dir, torn_only=resume)
    if record is not None and args.should_save:
        write_record(args.output_dir, record, checkpoint)
    keeper = checkpoint_keeper(trainer)
    trainer.add_callback(keeper)
    with failures_told(trainer, keeper):
        if checkpoint:
            mend_resume(trainer, str(checkpoint))
        if not (checkpoint and _is_finished(trainer, checkpoint)):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        save_result(trainer)
        if record is not None and args.should_save:
            complete_record(args.output_dir, trainer.state)
    trainer.remove_callback(keeper)
    args.save_total_limit = keeper.limit


def _is_finished(trainer: Any, checkpoint: Path) -> bool:
    """Is the checkpoint the last step's? Then the trainer takes its weights; `train` would do one step more."""
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME

    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if state.global_step < values[-1]:
        return False
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        out = Path(trainer.args.output_dir)
        there = any((out / name).is_file() for name in ("adapter_config.json", "config.json"))
        where = f"its result is in {out}" if there else f"the adapter is in {checkpoint}, not in {out}"
        raise RunEnded(f"the run has ended ({checkpoint} is the last step's); {where}")
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    return True
