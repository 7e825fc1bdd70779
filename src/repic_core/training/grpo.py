"""GRPO post-training on verifiable rewards: ``train(...)`` or ``repic train grpo --config toy --rows rows.jsonl``.

This is TRL's `GRPOTrainer` with the published recipe: LoRA on the language model (vision frozen), one reward
that is chosen by each row's method, group-scaled advantages, a KL term against the untuned model. Each prompt is
computed once per group (`trainer.SharedPrefixGRPOTrainer`); with ``shared_prefix: false`` in the recipe, TRL's own
trainer is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repic_core.data.rows import TrainingExample, to_dataset
from repic_core.rewards import make_reward
from repic_core.training import run_record
from repic_core.training.checkpoints import check_free
from repic_core.training.command import exit_in_a_line, run_command
from repic_core.training.failures import checked_reward
from repic_core.training.fluency import fluency_reward, with_reference_log_probs
from repic_core.training.prompt_lengths import check_prompts, stored_photos
from repic_core.training.question_reward import load_reader, make_question_reward
from repic_core.training.recipe import (
    TuneArguments,
    need_packages,
    prepare_tuning,
    read_recipe,
    recipe_values,
)
from repic_core.training.run import metrics_callback, run_training
from repic_core.training.suffixes import with_redrawn_suffixes
from repic_core.training.validation import Validation, validation_callback


def train(
    model: Any,
    processor: Any,
    rows: Sequence[TrainingExample] | Any,
    output_dir: str | Path,
    recipe: str | Path = "toy",
    root: str | Path = ".",
    rewards: Sequence[tuple[Callable[..., list[float | None]], float]] = (),
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    validation: Validation | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> Any:
    """Post-train `model` in place with GRPO and save it; returns the trainer.

    Args:
        model, processor: from `repic_core.models.loading.load_model`.
        rows: tuning rows, or a dataset with the columns of `rows.to_dataset` (and any that `rewards` need).
        output_dir: gets the tuned model (an adapter for LoRA) and the processor, ``metrics.csv`` (one row per
            logged step: reward by method, length, KL, ...), ``run.json`` (`run_record`), checkpoints with optimizer
            and RNG state, and the files of TensorBoard or W&B.
        recipe: ``paper``, ``toy``, another name in ``recipes/``, or a YAML file.
        root: the folder that the rows' image paths are relative to.
        rewards: further reward functions (TRL's signature) with their weights.
        resume: continue from the last whole checkpoint in `output_dir`, if there is one; `model` is the one that
            training started from. The result is that of an uninterrupted run (with `num_iterations` above 1 only if
            the checkpoint was not saved between two uses of the same completions).
        callbacks: further `TrainerCallback` objects, such as `monitor.training_monitor`.
        validation: held-out rows, by which the best step becomes the result.
        overwrite: replace the result and the checkpoints of another run in `output_dir`.
        overrides: single values of the recipe, such as ``max_steps=20``.

    Raises:
        MissingExtra: the recipe asks for DeepSpeed or W&B, which is not installed.
        ValueError: an unknown recipe or key; a model that already has an adapter or (full tuning) that differs from
            its files; a run in `output_dir`, without `resume` or `overwrite`; prompts that are too long; fewer rows
            than a batch has prompts; with TRL's own trainer, rows with and without photos.
        TrainingError: the run stopped early; says why, and what it can be resumed from.
    """
    from trl import GRPOConfig

    if not len(rows):
        raise ValueError("rows: there are none to train on")
    need_packages({**recipe_values(recipe), **overrides})
    tune, config = read_recipe(recipe, GRPOConfig, {**overrides, "output_dir": str(output_dir)})
    if not overwrite:
        check_free(output_dir, resume)
    dataset = to_dataset(rows, root, config.seed) if isinstance(rows, Sequence) else rows
    source = {"recipe": recipe, "root": root}
    return _run(model, processor, dataset, tune, config, rewards, resume, callbacks, validation, **source)


def _run_rows(
    model: Any,
    processor: Any,
    examples: Sequence[TrainingExample],
    tune: TuneArguments,
    config: Any,
    resume: bool,
    validation: Validation | None,
    **source: Any,
) -> Any:
    dataset = to_dataset(examples, source["root"], config.seed)
    return _run(model, processor, dataset, tune, config, resume=resume, validation=validation, **source)


def _run(
    model: Any,
    processor: Any,
    dataset: Any,
    tune: TuneArguments,
    config: Any,
    rewards: Sequence[tuple[Callable[..., list[float | None]], float]] = (),
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    validation: Validation | None = None,
    **source: Any,
) -> Any:
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from repic_core.training.trainer import SharedPrefixGRPOTrainer

    output_dir = Path(config.output_dir)
    if config.push_to_hub:
        raise ValueError("push_to_hub: use `repic export ... --push`, which writes the model's card")
    if config.fsdp and not config.use_vllm:
        raise ValueError(
            "fsdp: FSDP2 can't generate from inside a PEFT model: captions must come from vLLM (use_vllm)"
        )
    given = rewards  # the record names these; the others follow from its settings
    rewards = [*given, *_optional_rewards(tune, config, dataset)]
    adapter = prepare_tuning(model, processor, tune)
    limit = tune.max_prompt_tokens or _context_length(model) - config.max_completion_length
    check_prompts(dataset, processor, limit, tune.published_resize)
    _check_row_count(dataset, config)
    record = run_record.begin("grpo", model, processor, dataset, (tune, config), given, **source)
    config.remove_unused_columns = False  # the rewards read the other columns
    if config.reward_weights is None:
        config.reward_weights = [1.0, *(weight for _, weight in rewards)]
    trainer_class = SharedPrefixGRPOTrainer if tune.shared_prefix else GRPOTrainer
    if tune.fluency_weight:
        trainer_class = with_reference_log_probs(trainer_class)
    if tune.ict_suffix != "row":
        trainer_class = with_redrawn_suffixes(trainer_class, tune.ict_suffix)
    trainer = trainer_class(
        model=model,
        reward_funcs=[
            checked_reward(make_reward(tune.reward_profile, tune.reward_min_length)),
            *(checked_reward(function) for function, _ in rewards),
        ],
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=adapter,
        callbacks=[metrics_callback(output_dir / "metrics.csv"), *callbacks],
    )
    trainer.published_resize = tune.published_resize
    if not getattr(trainer, "shares_prefix", False):
        if tune.published_resize:
            raise ValueError(
                "published_resize: this model needs TRL's own trainer, which does not resize photos"
            )
        _check_same_photos(dataset, config)
    if callbacks:  # they show the logs, which transformers would print too
        trainer.remove_callback(PrinterCallback)
    if trainer.ref_model is not None:
        _check_reference(trainer, model)
    best = validation and validation_callback(validation, processor, config.output_dir)
    if best:
        trainer.add_callback(best)
    run_training(trainer, resume, record, best)
    return trainer


def _optional_rewards(tune: TuneArguments, config: Any, dataset: Any) -> list[tuple[Any, float]]:
    """The rewards that the recipe turns on by a weight, with their weights."""
    rewards = []
    if tune.ict_suffix == "completion" and config.use_vllm:
        raise ValueError("ict_suffix: vLLM is given one prompt a group; use ict_suffix: group (or row)")
    if tune.fluency_weight:
        if not config.beta:
            raise ValueError("fluency_weight: needs the reference model, so beta must be above 0")
        rewards.append((fluency_reward, tune.fluency_weight))
    if tune.question_weight:
        if "questions" not in dataset.column_names:
            raise ValueError("question_weight: no row has questions; give rows with the field 'questions'")
        choose = load_reader(tune.question_reader)
        rewards.append((make_question_reward(choose, config.max_completion_length), tune.question_weight))
    return rewards


def _context_length(model: Any) -> int:
    """The number of tokens that the model can see."""
    return model.config.get_text_config().max_position_embeddings


def _check_row_count(dataset: Any, config: Any) -> None:
    """ValueError if not even one batch is full: TRL leaves out a batch that is not."""
    prompts = config.generation_batch_size // config.num_generations
    if len(dataset) < prompts:
        raise ValueError(
            f"rows: {len(dataset)} are fewer than the {prompts} prompts of a batch "
            f"({config.generation_batch_size} completions, {config.num_generations} of each): "
            "give more, or lower per_device_train_batch_size or gradient_accumulation_steps"
        )


def _check_same_photos(dataset: Any, config: Any) -> None:
    """ValueError if some rows show photos and others none: TRL can't put both into one batch."""
    shown = [bool(photos) for photos in stored_photos(dataset)]
    if config.generation_batch_size > config.num_generations and len(set(shown)) > 1:
        raise ValueError(
            f"rows: row {shown.index(False) + 1} shows no photo, row {shown.index(True) + 1} does, and TRL's own "
            "trainer can't put both into a batch: train them apart, or with shared_prefix"
        )


def _check_reference(trainer: Any, model: Any) -> None:
    """ValueError if a fully tuned `model` differs from its files, from which TRL reads the KL term's reference."""
    import torch

    from repic_core.models.vision import use_batched_vision

    use_batched_vision(trainer.ref_model)
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return  # sharded, so it can't be compared
    reference = dict(trainer.ref_model.named_parameters())
    if not all(torch.equal(p, reference[name]) for name, p in model.named_parameters()):
        raise ValueError(
            f"the model in memory differs from its files in {model.config._name_or_path}, which the KL term "
            "compares with: load it again, or save it and load it from there"
        )


def __getattr__(name: str) -> Any:
    if name == "SharedPrefixGRPOTrainer":  # TRL is slow to import
        from repic_core.training.trainer import SharedPrefixGRPOTrainer

        return SharedPrefixGRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def command(arguments: Sequence[str], program: str = "repic train grpo") -> Path:
    """Train as a command line says (`command.read_arguments`); returns the folder of the result.

    Raises:
        ValueError, ImportError, TrainingError: as `train` and `command.run_command`.
    """
    from trl import GRPOConfig

    return run_command(arguments, GRPOConfig, _run_rows, program)


def main(arguments: list[str] | None = None) -> None:
    """``accelerate launch -m repic_core.training.grpo --config RECIPE --rows FILE ...``."""
    exit_in_a_line("repic_core.training.grpo", command, arguments)


if __name__ == "__main__":
    main()
