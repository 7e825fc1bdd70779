"""`repic benchmark gpu` on a CPU, with the toy: it can't fail for a silly reason on the day that there is a GPU."""

import json
import time
from pathlib import Path

import psutil
import pytest

from repic_core.benchmarks import gpu
from repic_core.benchmarks.presets import (
    PRESETS,
    build_dataset,
    build_trainer,
    make_ready,
    step_arguments,
)
from repic_core.cli import main


def test_the_parts_end_before_the_time_is_up():
    assert sum(limit for _, _, limit in gpu.PARTS) <= 25 * 60
    assert all(of in PRESETS for _, of, _ in gpu.PARTS) and set(gpu.NAMES) == set(gpu.WORK)


@pytest.mark.parametrize("name", [name for name in gpu.NAMES if name != "four bits"])
def test_a_part_on_a_cpu(name):
    found = json.loads(json.dumps(gpu.WORK[name]("toy", True)))
    line = gpu._line(name, {"found": found})
    assert "nan" not in line
    if name == "attention":
        assert all(one["difference"] < 1e-5 for one in found["ways"].values())
    if name == "half precision":
        # The verdict itself hangs on how this processor rounds: these are two completions of eight tokens.
        errors = [found[one][error] for one in ("stock", "shared") for error in ("mean", "gradient")]
        assert all(0 < error < 0.2 for error in errors)


def test_stock_may_run_out_of_memory_alone(monkeypatch):
    def measured(preset, contender, sizes, repeats):
        if contender == "stock":
            raise RuntimeError("toy, stock: the run failed\nOutOfMemoryError: CUDA out of memory")
        return {"seconds": {"step": 2.0, "rollout": 1.0}, "peak_bytes": 3 * 2**30}

    monkeypatch.setattr(gpu.training_step, "in_a_process", measured)
    line = gpu._line("step", {"found": gpu.WORK["step"]("toy", True)})
    assert line == (
        "stock failed: OutOfMemoryError: CUDA out of memory; shared 2.00 s a step (rollout 1.00), 3.0 GiB"
    )


def test_four_bits_say_what_is_missing():
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="bitsandbytes"):
            gpu.WORK["four bits"]("toy", True)


def test_what_is_done_is_kept_and_what_failed_is_tried_again(tmp_path, monkeypatch, capsys):
    asked = []

    def part(name, preset, quick, limit):
        asked.append(name)
        if name in ("captions", "plan") and asked.count(name) == 1:
            return {"failed": "a | b"}
        return {"found": {"tokens": 3, "ways": {"x": {"seconds": 0.001}}}}

    monkeypatch.setattr(gpu, "_in_a_process", part)
    monkeypatch.setattr(gpu, "_line", lambda name, part: part.get("failed", "found"))
    first = gpu.run(tmp_path, "toy", quick=True, tell=lambda line: None)
    assert "| plan, toy | a / b |" in (tmp_path / "gpu.md").read_text()
    again = gpu.run(tmp_path, "toy", quick=True, tell=lambda line: None)
    assert asked == [*gpu.NAMES, "plan", "captions"]
    assert list(again["parts"]) != [] and all("failed" not in one for one in again["parts"].values())
    assert json.loads((tmp_path / "gpu.json").read_text()) == again and first != again
    gpu.run(tmp_path, "toy", quick=False, tell=lambda line: None)  # a trial is no measurement
    assert asked[-len(gpu.NAMES) :] == list(gpu.NAMES)


def test_a_part_that_fails_says_why():
    found = gpu._in_a_process("step", "none", True, 60)
    assert "none" in found["failed"]


def test_a_part_that_is_stopped_leaves_no_process(tmp_path, monkeypatch):
    """The contenders of a step run in processes of their own, which would keep the GPU's memory."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/pid\nwait\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(stand_in))
    assert gpu._in_a_process("step", "toy", True, 3) == {"failed": "not done after 3 s"}
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):  # it ends soon after it was told to
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} still runs")


def test_the_large_presets_recompute_activations(tmp_path):
    """Else stock TRL's step would not fit on a card of 80 GB."""
    sizes = {**PRESETS["toy"], **gpu.QUICK, "prompts": 1, "checkpointing": 1}
    assert all(PRESETS[of]["checkpointing"] for name, of, _ in gpu.PARTS if name == "step")
    trainer = build_trainer(
        "toy", "stock", build_dataset(tmp_path, **sizes), *step_arguments(sizes, tmp_path)
    )
    make_ready(trainer)
    layers = next(m for n, m in trainer.model.named_modules() if n.endswith("language_model")).layers
    assert all(layer.gradient_checkpointing and layer.training for layer in layers)


def test_a_trial_on_a_cpu_is_not_written_among_the_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "_in_a_process", lambda *_: {"failed": "left out"})
    assert main(["benchmark", "gpu", "--preset", "toy", "--quick"]) == 0
    assert capsys.readouterr().out == "runs/gpu-on-cpu/gpu.md\n"
    assert Path("runs/gpu-on-cpu/gpu.md").read_text().startswith("# Tried on a CPU: no result\n")
    assert not Path("assets").exists()


def test_without_a_gpu_the_command_says_what_to_do(tmp_path, capsys):
    assert main(["benchmark", "gpu", "--out", str(tmp_path)]) == 2
    assert "--preset cpu" in capsys.readouterr().err
