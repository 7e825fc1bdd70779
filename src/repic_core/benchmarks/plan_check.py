"""The plan against a real step: ``repic plan --measure --preset cpu`` (``7b-random`` on a GPU).

In goes a preset of the benchmark; out come planned and measured bytes by phase.

On a CPU, torch's profiler reports every allocation and release; what is held when a step begins (parameters,
gradients, optimizer) is added. On CUDA it is the allocator's own peak of each phase.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repic_core.benchmarks.presets import (
    PRESETS,
    build_dataset,
    build_trainer,
    make_ready,
    prompt_ids,
    step_arguments,
)

PHASES = ("photos", "rollout", "reference", "policy", "optimizer")
MARK = "repic:"


def check(
    preset: str, tune: str = "lora", checkpointing: bool = False, **changes: int
) -> dict[str, dict[str, int]]:
    """Planned and measured peak bytes of each phase, and of the step, for a preset of the benchmark.

    Args:
        tune: ``lora`` or ``full``.
        checkpointing: recompute activations in the backward pass.
        changes: instead of the preset's ``prompts``, ``generations``, ``completion``, ``references``, ``side``.

    Raises:
        ValueError: an unknown preset.
    """
    from repic_core.models.parts import conditional_model
    from repic_core.planning.dry_run import build, peaks
    from repic_core.planning.memory import phase_bytes, weight_bytes
    from repic_core.planning.settings import Settings

    if preset not in PRESETS:
        raise ValueError(f"preset: {preset!r} is not one of {', '.join(PRESETS)}")
    sizes = {**PRESETS[preset], **changes}
    with tempfile.TemporaryDirectory() as folder:
        arguments, config = step_arguments(sizes, folder, tune=tune, gradient_checkpointing=checkpointing)
        dataset = build_dataset(Path(folder), **sizes)
        trainer = build_trainer(preset, "shared", dataset, arguments, config)
        base = conditional_model(trainer.model).config
        step = step_of(sizes, config, prompt_ids(trainer.processing_class, dataset[0]), base.image_token_id)
        measured = measure(trainer)
    settings = Settings("toy", preset, base, arguments, config, step, images=sizes["references"] + 1)
    model = build(base, arguments, bf16=step.gpu)
    terms = phase_bytes(settings, model, weight_bytes(model, arguments), peaks(model, step))
    planned = {phase: sum(terms[phase].values()) for phase in terms}
    planned["step"] = max(planned.values())
    return {name: {"planned": planned[name], "measured": measured[name]} for name in measured}


def step_of(sizes: dict[str, int], config: Any, prompt: list[int], image_token: int) -> Any:
    """The trainer's step as the plan takes it, with the tokens that the processor makes of a prompt."""
    import torch

    from repic_core.planning.settings import Step

    return Step(
        prompts=sizes["prompts"],
        prompt=len(prompt),
        photos=prompt.count(image_token),
        generations=sizes["generations"],
        completion=sizes["completion"],
        bf16=config.bf16,
        checkpointing=config.gradient_checkpointing,
        gpu=torch.cuda.is_available(),
    )


def measure(trainer: Any) -> dict[str, int]:
    """Peak bytes of each phase of the second step, and of that step (the first makes the optimizer's state)."""
    import torch

    make_ready(trainer)
    loader = iter(trainer.get_train_dataloader())
    peaks: dict[str, int] = {}
    mark = _cuda_phase(peaks) if torch.cuda.is_available() else _marked
    passes = trainer._get_per_token_logps_and_entropies
    reference = mark("reference")(passes)
    trainer._tokenize_prompts = mark("photos")(trainer._tokenize_prompts)
    trainer._generate_single_turn = mark("rollout")(trainer._generate_single_turn)
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
        passes(*args, **kwargs) if torch.is_grad_enabled() else reference(*args, **kwargs)
    )

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
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profiler:
        step()
    return _profiled(profiler, held)


def _marked(name: str) -> Any:
    """Context manager, or decorator, that marks a phase in the profiler's events."""
    import torch

    return torch.profiler.record_function(MARK + name)


def _cuda_phase(peaks: dict[str, int]) -> Callable[[str], Any]:
    """Context manager, or decorator, that notes the CUDA allocator's peak of a phase in `peaks`."""
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
    peaks = {phase: 0 for phase in PHASES if any(phase == name for name, _, _ in marks)} | {"step": 0}
    now = held
    for moment, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
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
