"""Stock TRL against the shared prefix, phase by phase: ``repic benchmark training-step --preset cpu``.

The contenders (`presets.build_trainer`) run one after the other, each in its own process, with the same model,
prompts, completions and settings. The report has medians over the repetitions, ratios (stock over shared), and the
tokens that the language model computes in the policy pass, against the minimum of P + G * C per prompt.

- prompts: `_tokenize_prompts`, from photos to patches. The shared trainer also encodes photos here, once for all
  phases (with a frozen vision tower); stock TRL encodes them in each phase.
- rollout: `_generate_single_turn`, each with its own prompts and image inputs; greedy, to the full length.
- reference: log-probabilities without gradient.
- policy: log-probabilities with gradient, and their backward pass.
- step: a whole `training_step` with optimizer, from opening the photos to the update.
"""

from __future__ import annotations

import datetime
import gc
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
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
from repic_core.io.files import write_json_atomic

PHASES = ("prompts", "rollout", "reference", "policy", "step")
SWEEPS = {"references": (1, 2, 4, 7), "generations": (2, 4, 8, 16, 32)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that `work` takes, with the device's queue empty before and after, and its result."""
    _wait_for_device()
    started = time.perf_counter()
    result = work()
    _wait_for_device()
    return time.perf_counter() - started, result


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(trainer: Any, repeats: int) -> dict[str, Any]:
    """Seconds of each phase, tokens in the language model's policy pass, and peak memory in bytes."""
    import torch

    make_ready(trainer)
    loader = iter(trainer.get_train_dataloader())
    phases = PhaseTimes(trainer)

    def step() -> None:
        trainer.training_step(trainer.model, next(loader), None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for repeat in range(repeats + 1):
        spent, _ = timed(step)
        phases.seconds["step"].append(spent)
        if repeat == 0:  # the first step is the warm-up
            for values in phases.seconds.values():
                values.clear()
    return {
        "seconds": {name: statistics.median(values) for name, values in phases.seconds.items()},
        "raw_seconds": phases.seconds,
        "policy_tokens": phases.tokens[-1],
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss(),
    }


class PhaseTimes:
    """Wraps a trainer's methods, so that each call adds its `seconds` to a phase, and each pass its `tokens`."""

    def __init__(self, trainer: Any) -> None:
        self.seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
        self.tokens: list[int] = []
        self._log_probs = trainer._get_per_token_logps_and_entropies
        self._backward = trainer.accelerator.backward
        trainer._tokenize_prompts = self._timed("prompts", trainer._tokenize_prompts)
        trainer._generate_single_turn = self._timed("rollout", trainer._generate_single_turn)
        trainer._get_per_token_logps_and_entropies = self._timed_log_probs
        trainer.accelerator.backward = self._timed_backward
        language = next(m for n, m in trainer.model.named_modules() if n.endswith("language_model"))
        language.register_forward_pre_hook(self._count_tokens, with_kwargs=True)

    def _timed(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed_work(*args: Any, **kwargs: Any) -> Any:
            spent, result = timed(lambda: work(*args, **kwargs))
            self.seconds[phase].append(spent)
            return result

        return timed_work

    def _timed_log_probs(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        phase = "policy" if torch.is_grad_enabled() else "reference"
        return self._timed(phase, self._log_probs)(*args, **kwargs)

    def _timed_backward(self, *args: Any, **kwargs: Any) -> None:
        spent, _ = timed(lambda: self._backward(*args, **kwargs))
        self.seconds["policy"][-1] += spent

    def _count_tokens(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.tokens.append(kwargs["inputs_embeds"].shape[:2].numel())


def peak_rss() -> int:
    """The largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")  # on Linux, `getrusage` may report the parent's
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if platform.system() == "Darwin":  # in bytes there, elsewhere in KiB
        return largest
    return 1024 * largest


def run(
    preset: str, repeats: int = 3, contenders: tuple[str, ...] | None = None, **changes: int
) -> dict[str, Any]:
    """Measure the contenders, one after the other; `changes` replace values of the preset.

    Raises:
        RuntimeError: a contender's process failed; has its last lines.
    """
    settings = {**PRESETS[preset], **changes}
    if contenders is None:
        contenders = ("stock", "stock+vision", "shared")
        if find_spec("prefix_grouper") and settings["prompts"] == 1:
            contenders += ("prefix_grouper",)
    found = {name: in_a_process(preset, name, settings, repeats) for name in contenders}
    stock, shared = found["stock"], found["shared"]
    minimum = shared["prompt_tokens"] + settings["prompts"] * settings["generations"] * settings["completion"]
    return {
        "preset": preset,
        "settings": settings,
        **{f"{name}_ratio": stock["seconds"][name] / shared["seconds"][name] for name in PHASES},
        "tokens_over_minimum": shared["policy_tokens"] / minimum,
        "peak_memory_ratio": stock["peak_bytes"] / shared["peak_bytes"],
        "minimum_tokens": minimum,
        "prompt_tokens": shared["prompt_tokens"] / settings["prompts"],
        "parameters": shared["parameters"],
        "machine": machine(),
        "contenders": found,
    }


def in_a_process(preset: str, contender: str, settings: dict[str, int], repeats: int) -> dict[str, Any]:
    """`measure` in a fresh process, so that no contender's memory is counted for another."""
    with tempfile.TemporaryDirectory() as folder:
        task = [preset, contender, settings, repeats, str(Path(folder) / "measured.json")]
        command = [sys.executable, "-m", "repic_core.benchmarks.training_step", json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{preset}, {contender}: the run failed\n{done.stderr[-2000:]}")
        return json.loads(Path(task[-1]).read_text())


def measure_one(preset: str, contender: str, settings: dict[str, int], repeats: int, out: str) -> None:
    """What the fresh process does: measure a contender and write the results to `out`."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = build_dataset(Path(folder), **settings)
        trainer = build_trainer(preset, contender, dataset, *step_arguments(settings, folder))
        prompts = [prompt_ids(trainer.processing_class, dataset[i]) for i in range(settings["prompts"])]
        gc.collect()
        found = measure(trainer, repeats)
        found["prompt_tokens"] = sum(map(len, prompts))
        found["parameters"] = sum(p.numel() for p in trainer.model.parameters())
        write_json_atomic(out, found)


def machine() -> dict[str, Any]:
    """Device, versions and date, which are printed with every measurement."""
    import torch
    import transformers
    import trl

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "date": datetime.date.today().isoformat(),
    }


def report(found: dict[str, Any]) -> str:
    """What was measured, on what, and a Markdown table."""
    shape = f"{found['parameters']:,} parameters, P = {found['prompt_tokens']:.0f}"
    where = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    return f"{found['preset']}: {shape}, {found['settings']}\n{where}\n\n{table(found)}"


def table(found: dict[str, Any]) -> str:
    """The measurements as a Markdown table."""
    contenders = found["contenders"]
    lines = [
        f"| {found['preset']} | " + " | ".join(contenders) + " | stock / shared |",
        "|---" * (len(contenders) + 2) + "|",
    ]
    for name in PHASES:
        cells = [f"{one['seconds'][name]:.3f} s" for one in contenders.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | **{found[f'{name}_ratio']:.1f}** |")
    tokens = [f"{one['policy_tokens'] / found['minimum_tokens']:.2f}" for one in contenders.values()]
    lines.append("| policy tokens / (P + G C) | " + " | ".join(tokens) + " | |")
    peaks = [f"{one['peak_bytes'] / 2**30:.2f} GiB" for one in contenders.values()]
    lines.append("| peak memory | " + " | ".join(peaks) + f" | {found['peak_memory_ratio']:.1f} |")
    return "\n".join(lines)


def sweep(preset: str, repeats: int, tell: Callable[[str], Any] = print) -> list[dict[str, Any]]:
    """`run` with stock and shared for each number of references and each group size of `SWEEPS`.

    `tell` gets a line for each.
    """
    points = []
    for name, values in SWEEPS.items():
        for value in values:
            points.append({"sweep": name, **run(preset, repeats, ("stock", "shared"), **{name: value})})
            tell(f"{name} {value}: step {points[-1]['step_ratio']:.1f} x faster")
    return points


if __name__ == "__main__":  # the fresh process of `in_a_process`
    measure_one(*json.loads(sys.argv[1]))
