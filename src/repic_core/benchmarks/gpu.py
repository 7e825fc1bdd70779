"""Everything that waits for a GPU, in under 25 minutes and without a network: ``repic benchmark gpu``.

Each part runs in a process of its own, so that its memory is given back, within its share of the time. What is done
is written after each part, and the same command goes on from there; a part that failed has its message, and the
others are run. ``--preset cpu`` tries all parts on a CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repic_core.benchmarks import attention, captions, plan_check, training_step
from repic_core.benchmarks.presets import PRESETS, build_dataset, build_trainer, make_ready, step_arguments
from repic_core.io.files import read_json, write_json_atomic, write_text_atomic

# (part, preset, seconds that it may take): 24 minutes together
PARTS = (
    ("step", "3b-random", 180),
    ("step", "7b-random", 300),
    ("attention", "7b-random", 90),
    ("plan", "7b-random", 180),
    ("captions", "7b-random", 240),
    ("half precision", "3b-random", 150),
    ("four bits", "7b-random", 300),
)
NAMES = tuple(dict.fromkeys(name for name, _, _ in PARTS))
QUICK = {"generations": 2, "completion": 8, "references": 1}  # of a trial run


def _step(preset: str, quick: bool) -> dict[str, Any]:
    """A training step, stock TRL against the shared prefix; one may fail alone, such as for want of memory."""
    sizes = {**PRESETS[preset], **(QUICK if quick else {})}
    found: dict[str, Any] = {}
    for contender in ("stock", "shared"):
        try:
            found[contender] = training_step.in_a_process(preset, contender, sizes, 1 if quick else 2)
        except RuntimeError as error:
            found[contender] = {"failed": str(error).splitlines()[-1][:200]}
    if all("failed" in one for one in found.values()):
        raise RuntimeError(found["shared"]["failed"])
    return found


def _plan(preset: str, quick: bool) -> dict[str, Any]:
    """The plan's bytes against the measured peaks."""
    return plan_check.check(preset, **(QUICK if quick else {}))


def _attention(preset: str, quick: bool) -> dict[str, Any]:
    return attention.run(preset, 1 if quick else 5)


def _captions(preset: str, quick: bool) -> dict[str, Any]:
    """Captions a second, of rows as in the paper's 4-concept setting."""
    rows, references, tokens = (2, 1, 8) if quick else (32, 4, 64)
    return captions.run(preset, 1, rows, references, tokens)


def _half_precision(preset: str, quick: bool) -> dict[str, Any]:
    """How far log-probabilities and gradients in bfloat16 are from those in float32, in stock TRL and packed.

    ``mean`` and ``largest``: errors of a log-probability; ``gradient``: the norm of the gradients' error over that
    of the gradients. The packed pass is as good where its mean and its gradient are at most 1.5 times stock's.
    """
    import torch

    sizes = {**PRESETS[preset], **(QUICK if quick else {})}
    found: dict[str, Any] = {}
    for contender in ("stock", "shared"):
        with tempfile.TemporaryDirectory() as folder:
            dataset = build_dataset(Path(folder), **sizes)
            trainer = build_trainer(preset, contender, dataset, *step_arguments(sizes, folder, bf16=False))
            make_ready(trainer)
            batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
            rounded, its_gradient = _pass(trainer, batch, torch.bfloat16)
            exact, gradient = _pass(trainer, batch, torch.float32)
        errors = (rounded - exact).abs()
        found[contender] = {
            "mean": errors.mean().item(),
            "largest": errors.max().item(),
            "gradient": ((its_gradient - gradient).norm() / gradient.norm()).item(),
        }
        del trainer, batch
    stock, shared = found["stock"], found["shared"]
    found["as good"] = all(shared[name] <= 1.5 * stock[name] for name in ("mean", "gradient"))
    return found


def _pass(trainer: Any, batch: dict[str, Any], dtype: Any) -> tuple[Any, Any]:
    """Log-probabilities of a batch's completions with the weights in another precision, and the adapter's gradients
    (in one row) of their sum. Greedy completions of a group are alike, so that advantages would cancel out."""
    import torch

    for parameter in trainer.model.parameters():  # not buffers: rope's frequencies are float32 in both
        parameter.grad, parameter.data = None, parameter.data.to(dtype)
    if batch.get("features") is not None:
        batch["features"].pooler_output = tuple(one.to(dtype) for one in batch["features"].pooler_output)
    images = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    log_probs = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
        **{name: batch.get(name) for name in images},
    )[0].float()
    log_probs.sum().backward()
    gradients = [p.grad.float().flatten() for p in trainer.model.parameters() if p.grad is not None]
    return log_probs.detach(), torch.cat(gradients)


def _four_bits(preset: str, quick: bool) -> dict[str, Any]:
    """A step with the base in 4 bits, checkpointing and paged 8-bit AdamW, as in recipe ``7b-1gpu-24gb``."""
    sizes = {**PRESETS[preset], **(QUICK if quick else {})}
    changes = {"load_in_4bit": True, "gradient_checkpointing": True, "optim": "paged_adamw_8bit"}
    with tempfile.TemporaryDirectory() as folder:
        dataset = build_dataset(Path(folder), **sizes)
        trainer = build_trainer(preset, "shared", dataset, *step_arguments(sizes, folder, **changes))
        return training_step.measure(trainer, 1)


WORK: dict[str, Callable[[str, bool], dict[str, Any]]] = {
    "step": _step,
    "attention": _attention,
    "plan": _plan,
    "captions": _captions,
    "half precision": _half_precision,
    "four bits": _four_bits,
}


def run(
    out: str | Path,
    preset: str | None = None,
    fresh: bool = False,
    quick: bool = False,
    tell: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Run all parts and write ``gpu.json`` and ``gpu.md`` into `out` after each; returns what ``gpu.json`` holds.

    Args:
        preset: one for all parts, instead of those of `PARTS`.
        fresh: repeat what is done. It is repeated on another machine or with other versions, too.
        quick: a trial: small prompts, one repetition.
        tell: is given a line for each part.
    """
    path = Path(out) / "gpu.json"
    where = training_step.machine() | _driver() | {"commit": _commit()}
    parts = [(name, preset, 600) for name in NAMES] if preset else PARTS
    found: dict[str, Any] = {"machine": where, "quick": quick, "parts": {}}
    if path.exists() and not fresh:
        old = read_json(path, ValueError)
        same = {**old.get("machine", {}), "date": None} == {**where, "date": None}
        if same and old.get("quick") == quick:
            found["parts"] = {name: part for name, part in old["parts"].items() if "failed" not in part}
    for name, of, limit in parts:
        key = f"{name}, {of}"
        if key in found["parts"]:
            tell(f"{key}: done before")
            continue
        started = time.perf_counter()
        part = _in_a_process(name, of, quick, limit)
        part["took"] = round(time.perf_counter() - started, 1)
        found["parts"][key] = part
        tell(f"{key}: {_line(name, part)}")
        write_json_atomic(path, found)
        write_text_atomic(Path(out) / "gpu.md", report(found))
    return found


def _in_a_process(name: str, preset: str, quick: bool, limit: int) -> dict[str, Any]:
    """{"found": what the part measured}, or {"failed": why not}."""
    with tempfile.TemporaryDirectory() as folder:
        task = [name, preset, quick, str(Path(folder) / "part.json")]
        command = [sys.executable, "-m", "repic_core.benchmarks.gpu", json.dumps(task)]
        # In a session of its own, so that a part's own processes, which hold the GPU's memory, end with it.
        done = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, said = done.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(done.pid, signal.SIGKILL)
            done.wait()
        if done.returncode:
            last = (said.strip() or f"exit status {done.returncode}").splitlines()[-1]
            return {"failed": last[:300]}
        return {"found": read_json(Path(task[-1]), ValueError)}


def _driver() -> dict[str, str]:
    """CUDA's version and the driver's, where there is a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    return {"cuda": torch.version.cuda, "driver": driver}


def _commit() -> str:
    """The commit of the repository that this file is in; the package's version outside of one."""
    from repic_core import __version__

    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__


def report(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    where = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    title = "# On a GPU" if "cuda" in found["machine"] else "# Tried on a CPU: no result"
    lines = [title, "", f"`repic benchmark gpu`: {where}.", "", "| part | result |", "|---|---|"]
    for key, part in found["parts"].items():
        lines.append(f"| {key} | {_line(key.split(',')[0], part).replace('|', '/')} |")
    return "\n".join([*lines, ""])


def _line(name: str, part: dict[str, Any]) -> str:
    """What a part found, in a line."""
    if "failed" in part:
        return f"failed: {part['failed']}"
    found = part["found"]
    if name == "step":
        return _step_line(found)
    if name == "attention":
        ways = [f"{way} {one['seconds'] * 1000:.2f} ms" for way, one in found["ways"].items()]
        apart = max(one["difference"] for one in found["ways"].values())
        return f"a layer, {found['tokens']} tokens: {', '.join(ways)}; outputs differ by at most {apart:.1g}"
    if name == "plan":
        return ", ".join(
            f"{phase} {one['planned'] / one['measured']:.2f} of {one['measured'] / 2**30:.2f} GiB"
            for phase, one in found.items()
        )
    if name == "captions":
        rows = found["settings"]["rows"]
        rates = [f"{case} {rows / spent:.2f}" for case, spent in found["seconds"].items()]
        return f"captions a second: {', '.join(rates)}"
    if name == "half precision":
        means, gradients = (
            ", ".join(f"{one} {found[one][name]:.2g}" for one in ("stock", "shared"))
            for name in ("mean", "gradient")
        )
        verdict = "as good: at most" if found["as good"] else "worse: more than"
        return (
            f"mean error of a log-probability: {means}; of the gradients, over their norm: {gradients} ({verdict} "
            "1.5 times stock's)"
        )
    return f"{found['seconds']['step']:.2f} s a step, peak {found['peak_bytes'] / 2**30:.2f} GiB"


def _step_line(found: dict[str, Any]) -> str:
    told = []
    for contender, one in found.items():
        if "failed" in one:
            told.append(f"{contender} failed: {one['failed']}")
            continue
        phases = ", ".join(
            f"{phase} {spent:.2f}" for phase, spent in one["seconds"].items() if phase != "step"
        )
        peak = one["peak_bytes"] / 2**30
        told.append(f"{contender} {one['seconds']['step']:.2f} s a step ({phases}), {peak:.1f} GiB")
    if not any("failed" in one for one in found.values()):
        stock, shared = (found[name]["seconds"]["step"] for name in ("stock", "shared"))
        told.append(f"{stock / shared:.1f} times as fast")
    return "; ".join(told)


if __name__ == "__main__":  # the fresh process of a part
    part, of_preset, is_quick, result = json.loads(sys.argv[1])
    write_json_atomic(result, WORK[part](of_preset, is_quick))
