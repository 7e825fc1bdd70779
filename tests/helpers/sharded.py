"""Runs of recipes in two CPU processes: what they are, and what all of them must show."""

import csv
import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from helpers.places import BASE, ROOT
from repic_core.models.loading import load_model
from repic_core.training import checkpoints

LIMIT = 900  # seconds for all cases: a safety net
# For a CPU and for a test; all other settings are the recipe's.
SETTINGS = {
    "model": BASE,
    "bf16": "false",
    "max_completion_length": 24,
    "max_steps": 3,
    "save_steps": 2,
    "report_to": "none",
    "disable_tqdm": "true",
}


def case(rows, out, config, kind="ddp", fault=None, captions="sampled", **more):
    """One run.

    Args:
        out: the output folder, in which ``{RANK}`` stands for the process's number.
        kind: ``ddp``, ``deepspeed`` or ``fsdp``.
        captions: ``sampled``; ``one draw`` (sampled, so that ZeRO-3 samples the same); ``made up``.
    """
    settings = {**SETTINGS, "config": config, "rows": rows, "output_dir": out, **more}
    if kind != "fsdp":
        settings["use_cpu"] = "true"
    arguments = [str(text) for name, value in settings.items() for text in (f"--{name}", value)]
    return {"arguments": arguments, "kind": kind, "fault": fault, "captions": captions}


def sessions(name, rows, out, **more):
    """Four runs: unbroken; one whose second process is killed in step 3, resumed; one whose reward raises."""
    broken = out / f"{name}_broken"
    return {
        name: case(rows, out / name, **more),
        f"{name}_killed": case(rows, broken, fault=("kill", 2), **more),
        f"{name}_resumed": case(rows, broken, **more, resume="true"),
        f"{name}_raised": case(rows, out / f"{name}_raised", fault=("raise", 1), **more),
    }


def run_cases(out, cases):
    """Run all; returns the exit statuses of the two processes by case."""
    (out / "cases.json").write_text(json.dumps(cases))
    script = ROOT / "tests" / "helpers" / "sharded_run.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, out], capture_output=True, text=True, timeout=LIMIT, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "found.json").read_text())


def said(out, name, rank):
    return (out / f"{name}_{rank}.log").read_text()


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def steps(folder):
    """Step -> (loss, norm of the gradient, reward), as logged."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    return {
        step: [float(row[name]) for name in ("loss", "grad_norm", "reward")] for step, row in rows.items()
    }


def check_whole_and_loaded(out, name, statuses):
    """Three steps; the whole adapter is saved and, loaded afresh, is what training ended with."""
    assert statuses[name] == [0, 0], said(out, name, 0)[-3000:]
    assert list(steps(out / name)) == [1, 2, 3] and any(norm > 0 for _, norm, _ in steps(out / name).values())
    ended = load_file(out / f"{name}.safetensors")
    model, _ = load_model(BASE, adapter=out / name)
    loaded = {key: p for key, p in model.named_parameters() if "lora_" in key}
    layers = model.config.get_text_config().num_hidden_layers
    assert set(loaded) == set(ended) and len(ended) == 2 * 7 * layers
    assert all(torch.equal(p, ended[key]) for key, p in loaded.items())
    assert any(p.abs().max() > 0 for key, p in ended.items() if "lora_B" in key)


def check_killed_and_resumed(out, name, statuses):
    """The other process ends with a message; resumed, the run has the bits of the unbroken one."""
    assert statuses[f"{name}_killed"] == [1, -9], said(out, f"{name}_killed", 0)[-3000:]
    told = said(out, f"{name}_killed", 0).splitlines()[-1]
    checkpoint = out / f"{name}_broken" / "checkpoint-2"
    assert told.startswith("repic_core.training.grpo: training stopped after step 2 of 3 (process 0 of 2): ")
    assert told.endswith(f"; with resume (--resume true) it continues from {checkpoint}")
    assert statuses[f"{name}_resumed"] == [0, 0], said(out, f"{name}_resumed", 0)[-3000:]
    assert checkpoints.last_whole(out / f"{name}_broken").name == "checkpoint-3"
    one, other = adapter(out / name), adapter(out / f"{name}_broken")
    assert set(one) == set(other) and all(torch.equal(value, other[key]) for key, value in one.items())
    assert steps(out / f"{name}_broken") == steps(out / name)


def check_raised(out, name, statuses):
    """Both processes end with a message."""
    assert statuses[f"{name}_raised"] == [1, 1], said(out, f"{name}_raised", 0)[-3000:]
    lines = [said(out, f"{name}_raised", rank).splitlines()[-1] for rank in range(2)]
    for rank, line in enumerate(lines):
        start = f"repic_core.training.grpo: training stopped after step 1 of 3 (process {rank} of 2): "
        assert line.startswith(start) and line.endswith("; no checkpoint was saved yet: start again")
    assert "reward 'personalization' raised ZeroDivisionError: on one process" in lines[1]
    assert not (out / f"{name}_raised" / "adapter_config.json").exists()


def check_same(out, name, reference):
    """Two ways to spread a run reach the same: logs, and what was learned, within 1e-3 (measured: 6e-5)."""
    for step, values in steps(out / reference).items():
        for value, other in zip(values, steps(out / name)[step], strict=True):
            assert abs(value - other) < 1e-4 + 1e-3 * abs(value), (step, values, steps(out / name)[step])
    one, other = adapter(out / reference), adapter(out / name)
    for key, value in one.items():
        if "lora_B" in key:  # 0 at the start
            error = (other[key] - value).norm() / value.norm()
            assert error <= 1e-3, (key, error)
