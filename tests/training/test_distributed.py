"""The toy recipe in two processes (gloo, CPU): the same parameters as in one; the run ends if one of them fails."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers import spread_recipe
from helpers.places import ROOT
from repic_core.data.rows import read_rows, write_rows
from repic_core.training import checkpoints, grpo
from repic_core.training.run_record import read_record
from repic_core.training.trainer import SharedPrefixGRPOTrainer

LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
LAUNCH += " --main_process_port 0"  # a free one
LIMIT = 300  # seconds; a run that takes longer hangs
SETTINGS = {
    "config": "toy",
    "max_steps": 4,
    "save_steps": 2,
    "save_total_limit": 2,
    "num_generations": 4,
    "logging_steps": 1,
    "warmup_steps": 0,
    "report_to": "none",
    "disable_tqdm": "true",
    "use_cpu": "true",
}


@pytest.fixture(scope="module")
def rows(data):
    """Five rows, which neither two nor three divides."""
    found = [row for row in read_rows(data / "rows.jsonl") if row.method == "yes_no"]
    found += [dataclasses.replace(row, problem=f"{row.problem} Really?") for row in found]
    return write_rows(data / "five.jsonl", found[:5])


def arguments(base, rows, out, **more):
    options = {**SETTINGS, "model": base, "rows": rows, "output_dir": out, **more}
    return [str(text) for key, value in options.items() for text in (f"--{key}", value)]


def launched(fault, *given):
    """(exit status, all that was printed) of two processes; fails if they hang."""
    script = ROOT / "tests" / "helpers" / "spread_recipe.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), script, fault, *given]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def two(base, rows, tmp_path_factory):
    """Folder of a run in two processes, each with four rows, a whole group."""
    out = tmp_path_factory.mktemp("two") / "out"
    status, said = launched("none", *arguments(base, rows, out, per_device_train_batch_size=4))
    assert status == 0, said[-3000:]
    return out


def same_as_one(base, rows, out, monkeypatch, tmp_path, **settings):
    """Tolerance: the sums of two processes round differently, and Adam divides by them where they are small. Each
    value is within a tenth of one of its steps, each tensor within 1e-3 of its length (measured: 3e-5, 4e-5)."""
    monkeypatch.setattr(SharedPrefixGRPOTrainer, "_generate_single_turn", spread_recipe.made_up)
    grpo.main(arguments(base, rows, tmp_path / "one", **settings))
    assert read_record(out / "run.json")["sessions"][0]["processes"] == 2
    assert read_record(tmp_path / "one" / "run.json")["sessions"][0]["processes"] == 1
    one, spread = weights(tmp_path / "one"), weights(out)
    assert all(value.abs().max() > 1e-4 for name, value in one.items() if "lora_B" in name)
    for name, value in one.items():
        error = spread[name] - value
        assert error.abs().max() < 1e-4 and error.norm() < 1e-3 * value.norm(), name


def test_two_processes_train_what_one_does(base, rows, two, monkeypatch, tmp_path):
    """Five rows, two a step: both runs leave out the fifth of each epoch."""
    same_as_one(base, rows, two, monkeypatch, tmp_path, per_device_train_batch_size=8)


def test_groups_over_both_processes(base, rows, monkeypatch, tmp_path):
    """Six completions a process in groups of four: the second of three groups is in both."""
    out = tmp_path / "two"
    status, said = launched("none", *arguments(base, rows, out, per_device_train_batch_size=6, max_steps=2))
    assert status == 0, said[-3000:]
    assert "groups are spread over micro-batches or processes" in said
    same_as_one(base, rows, out, monkeypatch, tmp_path, per_device_train_batch_size=12, max_steps=2)


def test_a_batch_that_would_cut_a_group_is_refused(base, rows, tmp_path):
    with pytest.raises(SystemExit) as error:
        grpo.main(arguments(base, rows, tmp_path, per_device_train_batch_size=6))
    assert str(error.value) == (
        "repic_core.training.grpo: generation_batch_size (6) must be divisible by num_generations (4)."
    )
    with pytest.raises(SystemExit) as error:
        grpo.main(arguments(base, rows, tmp_path, per_device_train_batch_size=24))
    assert "repic_core.training.grpo: rows: 5 are fewer than the 6 prompts of a batch" in str(error.value)


def test_a_process_that_is_killed_ends_the_run(base, rows, two, tmp_path):
    """Resumed in two processes, it gives what it would have given."""
    given = arguments(base, rows, tmp_path, per_device_train_batch_size=4)
    status, said = launched("kill", *given)
    assert status != 0 and "Signal 9 (SIGKILL)" in said
    wanted = "repic_core.training.grpo: training stopped after step 3 of 4 (process 0 of 2): "
    # On a busy machine the launcher may end the other process before it can say so, or write on the same line.
    told = [line[line.index(wanted) :] for line in said.splitlines() if wanted in line]
    end = f"with resume (--resume true) it continues from {tmp_path / 'checkpoint-2'}"
    assert len(told) <= 1
    assert all(re.search(rf"; {re.escape(end)}(?:$|[A-Z]\d{{4}} )", line) for line in told), told
    assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-2"
    status, said = launched("none", *given, "--resume", "true")
    assert status == 0, said[-3000:]
    resumed = weights(tmp_path)
    assert all(torch.equal(value, resumed[name]) for name, value in weights(two).items())


def test_a_reward_that_raises_in_one_process_ends_the_run(base, rows, tmp_path):
    status, said = launched("raise", *arguments(base, rows, tmp_path, per_device_train_batch_size=4))
    assert status != 0
    stopped = "repic_core.training.grpo: training stopped after step 3 of 4 (process 1 of 2): "
    assert f"{stopped}reward 'personalization' raised ZeroDivisionError: on one" in said
    assert f"it continues from {tmp_path / 'checkpoint-2'}" in said
    assert not (tmp_path / "adapter_config.json").exists()


def test_processes_that_were_asked_for_and_not_started(base, rows, monkeypatch, tmp_path):
    """``accelerate launch --cpu --num_processes 2`` starts one process, with these variables."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(SystemExit, match="only this one was started"):
        grpo.main(arguments(base, rows, tmp_path, per_device_train_batch_size=8))
