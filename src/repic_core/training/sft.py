"""Supervised fine-tuning on captions, the baseline: ``train(...)`` or ``repic train sft --config toy_sft ...``.

Prompts and tuned layers are those of GRPO. A row's `solution` is the caption to write, as text; the loss counts the
caption's tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.data.rows import TrainingExample, to_dataset
from repic_core.training import run_record
from repic_core.training.checkpoints import check_free
from repic_core.training.command import exit_in_a_line, run_command
from repic_core.training.recipe import (
    TuneArguments,
    need_packages,
    prepare_tuning,
    read_recipe,
    recipe_values,
)
from repic_core.training.run import metrics_callback, run_training
from repic_core.training.validation import Validation, validation_callback


def train(
    model: Any,
    processor: Any,
    rows: Sequence[TrainingExample],
    output_dir: str | Path,
    recipe: str | Path = "toy_sft",
    root: str | Path = ".",
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    validation: Validation | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> Any:
    """Fine-tune `model` in place with TRL's `SFTTrainer` and save it; returns the trainer.

    Args as in `repic_core.training.grpo.train`; each row's `solution` is its caption.

    Raises:
        MissingExtra: the recipe asks for DeepSpeed or W&B, which is not installed.
        ValueError: an unknown recipe or key, a model that already has an adapter, a run in `output_dir` (without
            `resume` or `overwrite`), a row whose solution is not text.
        TrainingError: the run stopped early; says why, and what it can be resumed from.
    """
    from trl import SFTConfig

    need_packages({**recipe_values(recipe), **overrides})
    tune, config = read_recipe(recipe, SFTConfig, {**overrides, "output_dir": str(output_dir)})
    if not overwrite:
        check_free(output_dir, resume)
    source = {"recipe": recipe, "root": root}
    return _run(model, processor, rows, tune, config, resume, callbacks, validation, **source)


def _run(
    model: Any,
    processor: Any,
    examples: Sequence[TrainingExample],
    tune: TuneArguments,
    config: Any,
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    validation: Validation | None = None,
    **source: Any,
) -> Any:
    from trl import SFTTrainer

    for number, row in enumerate(examples, 1):
        if not isinstance(row.solution, str):
            raise ValueError(f"row {number}: the solution must be a caption (text), not {row.solution!r}")
    dataset = caption_dataset(examples, source["root"], config.seed)
    record = run_record.begin("sft", model, processor, dataset, (tune, config), **source)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=prepare_tuning(model, processor, tune),
        callbacks=[metrics_callback(Path(config.output_dir) / "metrics.csv"), *callbacks],
    )
    best = validation and validation_callback(validation, processor, config.output_dir)
    if best:
        trainer.add_callback(best)
    run_training(trainer, resume, record, best)
    return trainer


def caption_dataset(rows: Sequence[TrainingExample], root: str | Path, seed: int) -> Any:
    """`rows.to_dataset` with TRL's columns for SFT: ``prompt``, ``images`` and ``completion``, the caption."""
    dataset = to_dataset(rows, root, seed)
    contents = [[{"type": "text", "text": caption}] for caption in dataset["solution"]]
    captions = [[{"role": "assistant", "content": content}] for content in contents]
    return dataset.select_columns(["prompt", "images"]).add_column("completion", captions)


def command(arguments: Sequence[str], program: str = "repic train sft") -> Path:
    """Train as a command line says (`command.read_arguments`); returns the folder of the result.

    Raises:
        ValueError, ImportError, TrainingError: as `train` and `command.run_command`.
    """
    from trl import SFTConfig

    return run_command(arguments, SFTConfig, _run, program)


def main(arguments: list[str] | None = None) -> None:
    """``accelerate launch -m repic_core.training.sft --config RECIPE --rows FILE ...``."""
    exit_in_a_line("repic_core.training.sft", command, arguments)


if __name__ == "__main__":
    main()
