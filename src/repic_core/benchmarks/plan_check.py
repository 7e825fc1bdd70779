"""The plan against a real step: ``repic plan --measure --preset cpu`` (``7b-random`` on a GPU).

On a CPU, torch's profiler reports every allocation and release; what is held when a step begins (parameters,
gradients, optimizer) is added. On CUDA it is the allocator's own peak of each phase.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repic_core.benchmarks.presets import PRESETS, build_dataset, build_model

PHASES = ("photos", "rollout", "reference", "policy", "optimizer")
MARK = "repic:"


def check(
    preset: str, tune: str = "lora", checkpointing: bool = False, **changes: int
) -> dict[str, dict[str, int]]:
    """Planned and measured peak bytes of each phase, and of the step, for a preset of the benchmark.

    changes: instead of the preset's ``prompts``, ``generations``, ``completion``, ``references``, ``side``.
    """
    from repic_core.planning.memory import peak_bytes

    if preset not in PRESETS:
        raise ValueError(f"preset: {preset!r} is not one of {', '.join(PRESETS)}")
    settings = {**PRESETS[preset], **changes}
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(preset, settings, tune, checkpointing, folder)
        step = step_of(trainer, settings)
        tune_arguments = trainer.tune_arguments
        config = trainer.base_config
        measured = measure(trainer)
    planned = peak_bytes(config, tune_arguments, step, trainer.args.optim)
    return {name: {"planned": planned[name], "measured": measured[name]} for name in measured}


def build_trainer(preset: str, settings: dict[str, int], tune: str, checkpointing: bool, folder: str) -> Any:
    """A `SharedPrefixGRPOTrainer` on the preset's model with the toy recipe; captions have full length."""
    import torch
    from trl import GRPOConfig

    from repic_core.models.loading import load_model
    from repic_core.models.vision import use_batched_vision
    from repic_core.training.recipe import prepare_tuning, read_recipe
    from repic_core.training.trainer import SharedPrefixGRPOTrainer

    dataset = build_dataset(Path(folder), **settings)
    model, processor = build_model(preset)
    if tune == "full":  # the KL term's reference is read from files
        for part in (model, processor):
            part.save_pretrained(Path(folder) / "model")
        model, processor = load_model(Path(folder) / "model")
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    arguments, config = read_recipe(
        "toy",
        GRPOConfig,
        {
            "output_dir": folder,
            "tune": tune,
            "lora_r": 64,
            "lora_alpha": 128,
            "gradient_checkpointing": checkpointing,
            "per_device_train_batch_size": settings["prompts"] * settings["generations"],
            "num_generations": settings["generations"],
            "max_completion_length": settings["completion"],
            "generation_kwargs": {"do_sample": False, "min_new_tokens": settings["completion"]},
            "bf16": torch.cuda.is_available(),
            "dataloader_pin_memory": torch.accelerator.is_available(),
            "max_steps": 1000,
            "shuffle_dataset": False,
            "report_to": "none",
            "disable_tqdm": True,
        },
    )
    config.remove_unused_columns = False
    base_config = model.config
    trainer = SharedPrefixGRPOTrainer(
        model=use_batched_vision(model),
        reward_funcs=[lambda completions, **_: [float(i % 2) for i in range(len(completions))]],
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=prepare_tuning(model, processor, arguments),
    )
    trainer.tune_arguments, trainer.base_config = arguments, base_config
    return trainer


def step_of(trainer: Any, settings: dict[str, int]) -> Any:
    """The trainer's step as the plan takes it, with the tokens that its processor makes of the first prompt."""
    import torch
    from trl.data_utils import prepare_multimodal_messages

    from repic_core.planning.dry_run import Step
    from repic_core.training.photos import decoded_once

    row = decoded_once([trainer.train_dataset[0]])[0]
    messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
    ids = trainer.processing_class.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    return Step(
        prompts=settings["prompts"],
        prompt=len(ids),
        photos=sum(token == trainer.base_config.image_token_id for token in ids),
        generations=settings["generations"],
        completion=settings["completion"],
        bf16=trainer.args.bf16,
        checkpointing=trainer.args.gradient_checkpointing,
        gpu=torch.cuda.is_available(),
    )


def measure(trainer: Any) -> dict[str, int]:
    """Peak bytes of each phase of the second step, and of that step (the first makes the optimizer's state)."""
    import torch

    trainer.create_optimizer_and_scheduler(1000)
    trainer.model.train()
    if trainer.args.gradient_checkpointing:  # as Trainer.train does
        trainer.model.activation_checkpointing_enable(trainer.args.activation_checkpointing_kwargs)
    trainer.current_gradient_accumulation_steps = 1
    loader = iter(trainer.get_train_dataloader())
    peaks: dict[str, int] = {}
    mark = _cuda_phase(peaks) if torch.cuda.is_available() else _marked

    def phase(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            with mark(name):
                return work(*args, **kwargs)

        return inside

    passes = trainer._get_per_token_logps_and_entropies

    def a_pass(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return passes(*args, **kwargs)
        with mark("reference"):
            return passes(*args, **kwargs)

    trainer._tokenize_prompts = phase("photos", trainer._tokenize_prompts)
    trainer._generate_single_turn = phase("rollout", trainer._generate_single_turn)
    trainer._get_per_token_logps_and_entropies = a_pass

    def step() -> None:
        inputs = trainer._prepare_inputs(next(loader))
        with mark("policy"):
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(trainer.model, inputs)
            trainer.accelerator.backward(loss)
        with mark("optimizer"):
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
            trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    step()
    if torch.cuda.is_available():
        peaks.clear()
        step()
        return {**peaks, "step": max(peaks.values())}
    held = _bytes_held(trainer)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        step()
    return _profiled(profiler, held)


@contextmanager
def _marked(name: str) -> Iterator[None]:
    import torch

    with torch.profiler.record_function(MARK + name):
        yield


def _cuda_phase(peaks: dict[str, int]) -> Callable[[str], Any]:
    """A context that notes the CUDA allocator's peak within it."""
    import torch

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        yield
        torch.cuda.synchronize()
        peaks[name] = max(peaks.get(name, 0), torch.cuda.max_memory_allocated())

    return phase


def _bytes_held(trainer: Any) -> int:
    """Bytes of parameters, buffers, gradients and the optimizer's state, of the reference model too; each once."""
    import torch

    models = [m for m in (trainer.model, trainer.ref_model) if m is not None]
    tensors = [t for m in models for t in (*m.parameters(), *m.buffers())]
    tensors += [p.grad for p in trainer.model.parameters() if p.grad is not None]
    for state in trainer.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _profiled(profiler: Any, held: int) -> dict[str, int]:
    """Peaks of the marked phases from the profiler's allocations and releases, and the bytes `held` before."""
    events = profiler.profiler.kineto_results.events()
    marks = [
        (event.name().removeprefix(MARK), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.name().startswith(MARK)
    ]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peaks = {name: 0 for name in PHASES if any(name == mark for mark, _, _ in marks)} | {"step": 0}
    now = held
    for moment, size in changes:
        now += size
        peaks["step"] = max(peaks["step"], now)
        for name, start, end in marks:
            if start <= moment <= end:
                peaks[name] = max(peaks[name], now)
    return peaks


def report(found: dict[str, dict[str, int]], preset: str) -> str:
    """Planned against measured as a Markdown table, with the machine."""
    from repic_core.benchmarks.training_step import machine

    lines = [f"| {preset} | planned | measured | planned / measured |", "|---|---|---|---|"]
    for name, one in found.items():
        sizes = (f"{one[kind] / 2**20:,.1f} MiB" for kind in ("planned", "measured"))
        lines.append(f"| {name} | {' | '.join(sizes)} | {one['planned'] / one['measured']:.2f} |")
    return "\n".join([*lines, "", ", ".join(f"{name} {value}" for name, value in machine().items())])
