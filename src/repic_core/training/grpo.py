"""GRPO post-training on verifiable rewards: ``train(...)`` or ``repic train grpo --config toy --rows rows.jsonl``.

This is TRL's `GRPOTrainer` with the published recipe: LoRA on the language model (vision frozen), one reward
that routes by each row's method, group-scaled advantages, a KL term against the untuned model. Each prompt is
computed once a group (`SharedPrefixGRPOTrainer`); ``shared_prefix: false`` in the recipe is TRL's own trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repic_core.data.rows import TrainingExample, to_dataset
from repic_core.rewards import make_reward
from repic_core.training import run_record
from repic_core.training.command import exit_in_a_line, run_command
from repic_core.training.failures import checked_reward
from repic_core.training.prompt_lengths import check_prompts
from repic_core.training.recipe import TuneArguments, prepare_tuning, read_recipe
from repic_core.training.run import metrics_callback, run_training


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
    **overrides: Any,
) -> Any:
    """Post-train `model` in place with GRPO and save it; returns the trainer.

    Args:
        model, processor: from `repic_core.models.loading.load_model`.
        rows: tuning rows, or a dataset with the columns of `rows.to_dataset` (and any that `rewards` need).
        output_dir: gets the tuned model (an adapter for LoRA) and the processor, ``metrics.csv`` (a row a
            logged step: reward by method, length, KL, ...), ``run.json`` (`run_record`), checkpoints with optimizer
            and RNG state, and TensorBoard's or W&B's files.
        recipe: ``paper``, ``toy``, or a YAML file.
        root: the folder that the rows' image paths are relative to.
        rewards: further reward functions (TRL's signature) with their weights.
        resume: go on from the last whole checkpoint in `output_dir`, if there is one; give the model that training
            started from. The result is that of an uninterrupted run (with `num_iterations` above 1 only if the
            checkpoint does not fall between two uses of the same completions).
        overrides: single values of the recipe, such as ``max_steps=20``.

    Raises:
        ValueError: an unknown recipe or key; a model that has an adapter already, or (full tuning) that is no
            longer the one in its files; fewer rows than a batch has prompts.
        TrainingError: the run ended before its end; says why, and what `resume` goes on from.
    """
    from trl import GRPOConfig

    if not len(rows):
        raise ValueError("rows: there is none to train on")
    tune, config = read_recipe(recipe, GRPOConfig, {**overrides, "output_dir": str(output_dir)})
    dataset = to_dataset(rows, root, config.seed) if isinstance(rows, Sequence) else rows
    return _run(model, processor, dataset, tune, config, rewards, resume, callbacks, recipe=recipe, root=root)


def _run_rows(
    model: Any,
    processor: Any,
    examples: Sequence[TrainingExample],
    tune: TuneArguments,
    config: Any,
    resume: bool,
    **source: Any,
) -> Any:
    dataset = to_dataset(examples, source["root"], config.seed)
    return _run(model, processor, dataset, tune, config, resume=resume, **source)


def _run(
    model: Any,
    processor: Any,
    dataset: Any,
    tune: TuneArguments,
    config: Any,
    rewards: Sequence[tuple[Callable[..., list[float | None]], float]] = (),
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    **source: Any,
) -> Any:
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from repic_core.training.trainer import SharedPrefixGRPOTrainer

    output_dir = Path(config.output_dir)
    if config.push_to_hub:
        raise ValueError(
            "push_to_hub: use `repic export ... --push` after the training, which writes the model's card"
        )
    if config.fsdp and not config.use_vllm:
        raise ValueError(
            "fsdp: FSDP2 can't roll out within a PEFT model: captions must come from vLLM (use_vllm)"
        )
    adapter = prepare_tuning(model, processor, tune)
    check_prompts(
        dataset, processor, tune.max_prompt_tokens or _context(model) - config.max_completion_length
    )
    prompts = config.generation_batch_size // config.num_generations
    if len(dataset) < prompts:  # TRL leaves out a batch that is not full
        raise ValueError(
            f"rows: {len(dataset)} are fewer than the {prompts} prompts of a batch "
            f"({config.generation_batch_size} completions, {config.num_generations} of each): "
            "give more, or lower per_device_train_batch_size or gradient_accumulation_steps"
        )
    record = run_record.begin("grpo", model, processor, dataset, (tune, config), rewards, **source)
    config.remove_unused_columns = False  # the rewards read the other columns
    if config.reward_weights is None:
        config.reward_weights = [1.0, *(weight for _, weight in rewards)]
    trainer_class = SharedPrefixGRPOTrainer if tune.shared_prefix else GRPOTrainer
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
    if callbacks:  # they show the logs, which transformers would print as well
        trainer.remove_callback(PrinterCallback)
    if trainer.ref_model is not None:
        _check_reference(trainer, model)
    run_training(trainer, resume, record)
    return trainer


def _context(model: Any) -> int:
    """Tokens that the model can see."""
    return model.config.get_text_config().max_position_embeddings


def _check_reference(trainer: Any, model: Any) -> None:
    """Full tuning: TRL reads the model that the KL term compares with from the files that `model` came from."""
    import torch

    from repic_core.models.vision import use_batched_vision

    use_batched_vision(trainer.ref_model)
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return  # sharded: not to be compared
    reference = dict(trainer.ref_model.named_parameters())
    if not all(torch.equal(p, reference[name]) for name, p in model.named_parameters()):
        raise ValueError(
            f"the model in memory differs from {model.config._name_or_path}, its files, which the KL term compares "
            "with: load it afresh, or save it and load it from there"
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
