"""Stock TRL against the shared prefix, phase by phase: ``python -m repic_core.benchmarks.training_step --preset cpu``.

The contenders (`presets.build_trainer`) run in turn, each in a process of its own, on the same model,
prompts, completions and settings. Reported are medians over the repetitions, ratios (stock over ours), and the
tokens that the language model computes in the policy pass against the minimum, P + G * C a prompt.

- prompts: `_tokenize_prompts`, photos to patches; ours also encodes frozen photos here, once for the other phases,
  where stock does it in each;
- rollout: `_generate_single_turn`, each with its own prompts and image inputs; greedy, to the full length;
- reference: log-probabilities without gradient; policy: with gradient, and its backward;
- step: a whole `training_step` with optimizer, from opening the photos to the update.
"""

from __future__ import annotations

import argparse
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

from repic_core.benchmarks.presets import PRESETS, build_dataset, build_trainer, prompt_ids, step_arguments
from repic_core.io.files import write_json_atomic

PHASES = ("prompts", "rollout", "reference", "policy", "step")
SWEEPS = {"references": (1, 2, 4, 7), "generations": (2, 4, 8, 16, 32)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of `work`, with the device's queue empty before and after, and its result."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    wait()
    started = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - started, result


def measure(trainer: Any, repeats: int) -> dict[str, Any]:
    """Seconds of each phase, tokens through the language model in the policy pass, peak memory in bytes."""
    import torch

    trainer.create_optimizer_and_scheduler(1000)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    loader = iter(trainer.get_train_dataloader())
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    tokens: list[int] = []
    passes, backward = trainer._get_per_token_logps_and_entropies, trainer.accelerator.backward

    def phase(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed_work(*args: Any, **kwargs: Any) -> Any:
            spent, out = timed(lambda: work(*args, **kwargs))
            seconds[name].append(spent)
            return out

        return timed_work

    def timed_pass(*args: Any, **kwargs: Any) -> Any:
        spent, out = timed(lambda: passes(*args, **kwargs))
        seconds["policy" if torch.is_grad_enabled() else "reference"].append(spent)
        return out

    def timed_backward(*args: Any, **kwargs: Any) -> None:
        seconds["policy"][-1] += timed(lambda: backward(*args, **kwargs))[0]

    def step() -> None:
        trainer.training_step(trainer.model, next(loader), None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    trainer._tokenize_prompts = phase("prompts", trainer._tokenize_prompts)
    trainer._generate_single_turn = phase("rollout", trainer._generate_single_turn)
    trainer._get_per_token_logps_and_entropies = timed_pass
    trainer.accelerator.backward = timed_backward
    language = next(m for n, m in trainer.model.named_modules() if n.endswith("language_model"))
    hook = language.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for repeat in range(repeats + 1):
        spent, _ = timed(step)
        seconds["step"].append(spent)
        if repeat == 0:  # warm-up
            for values in seconds.values():
                values.clear()
    hook.remove()
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "raw_seconds": seconds,
        "policy_tokens": tokens[-1],
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss(),
    }


def peak_rss() -> int:
    """The largest resident size of this process so far, in bytes (on Linux, `getrusage` also has its parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def run(
    preset: str, repeats: int = 3, contenders: tuple[str, ...] | None = None, **changes: int
) -> dict[str, Any]:
    """Measure the contenders, one after the other; `changes` replace values of the preset.

    Raises:
        RuntimeError: a contender's process failed, with its last lines.
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
    """`measure` in a fresh process, so that none inherits another's memory."""
    with tempfile.TemporaryDirectory() as folder:
        task = [preset, contender, settings, repeats, str(Path(folder) / "measured.json")]
        command = [sys.executable, "-m", "repic_core.benchmarks.training_step", "--one", json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{preset}, {contender}: the run failed\n{done.stderr[-2000:]}")
        return json.loads(Path(task[-1]).read_text())


def measure_one(preset: str, contender: str, settings: dict[str, int], repeats: int, out: str) -> None:
    """What the fresh process does."""
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
    """Device, versions and date, as they are printed beside every figure."""
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


def sweep(preset: str, repeats: int) -> list[dict[str, Any]]:
    """`run` for each number of references and each group size of `SWEEPS`, stock and ours."""
    points = []
    for name, values in SWEEPS.items():
        for value in values:
            points.append({"sweep": name, **run(preset, repeats, ("stock", "shared"), **{name: value})})
            print(f"{name} {value}: step {points[-1]['step_ratio']:.1f} x faster", flush=True)
    return points


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m repic_core.benchmarks.training_step", description=__doc__
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write everything to this file")
    parser.add_argument(
        "--figure", help="instead: cost by references and group size, as a figure (.png, .pdf)"
    )
    for name in ("prompts", "generations", "completion", "references"):
        parser.add_argument(f"--{name}", type=int, help="instead of the preset's")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = vars(parser.parse_args(arguments))
    if one := options.pop("one"):
        return measure_one(*json.loads(one))
    path, figure = options.pop("json"), options.pop("figure")
    if figure:
        from repic_core.display.charts import cost_figure

        found: Any = sweep(options["preset"], options["repeats"])
        cost_figure(found, figure)
    else:
        found = run(**{name: value for name, value in options.items() if value is not None})
        shape = f"{found['parameters']:,} parameters, P = {found['prompt_tokens']:.0f}"
        print(f"{found['preset']}: {shape}, {found['settings']}")
        print(", ".join(f"{name} {value}" for name, value in found["machine"].items()) + "\n")
        print(report(found))
    if path:
        write_json_atomic(path, found)
    return None


if __name__ == "__main__":
    main()
