"""Checkpoints: a killed run resumes to the uninterrupted run bit for bit; only whole checkpoints count."""

import json
import logging
import os
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from helpers.killed_run import CASES
from helpers.places import ROOT
from repic_core.models.loading import ModelError, load_model
from repic_core.training import checkpoints

RESUMED_FROM = {  # the checkpoint of each session
    "in the first rollout": [None, None],
    "in a rollout of the second epoch": [None, 4],
    "after the weights": [None, 2],
    "after the optimizer": [None, 2],
    "before the state": [None, 2],
    "before the marker": [None, 2],
    "while the older one is deleted": [None, 4],
    "right after a save": [None, 4],
    "in the second epoch's second step": [None, 3],
    "in the last save": [None, 6],
    "three times": [None, 2, 2, 4],
}


@pytest.fixture(scope="module")
def killed(base, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("killed")
    script = ROOT / "tests" / "helpers" / "killed_run.py"
    done = subprocess.run(
        [sys.executable, script, base, data, out],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads((out / "found.json").read_text())


@pytest.mark.parametrize("case", RESUMED_FROM)
def test_a_killed_run_resumes_to_the_bit(killed, case):
    _, found = killed
    unbroken, mine = found["unbroken"], found[case]
    *broken, last = mine["sessions"]
    assert [session["status"] for session in broken] == [-signal.SIGKILL] * len(broken)
    assert last["status"] == 0, last["log"][-3000:]
    wanted = [f"checkpoint-{step}" if step else None for step in RESUMED_FROM[case]]
    sessions = mine["record"]["sessions"]  # a session that finds no checkpoint starts a new record
    assert [s["from"] for s in sessions] == (wanted if any(wanted) else wanted[:1])
    assert unbroken["weights"] is not None and mine["weights"] == unbroken["weights"]
    steps = [line.split(",")[0] for line in mine["metrics"].splitlines()]
    assert steps == ["step", "1", "2", "3", "4", "5", "6"]


def test_killed_cases_are_all_tested_and_the_runs_train(killed):
    out, found = killed
    assert set(CASES) == set(found) == {"unbroken", *RESUMED_FROM}
    weights = load_file(out / "0" / "adapter_model.safetensors")
    assert all(value.any() for name, value in weights.items() if "lora_B" in name)


@pytest.mark.parametrize(
    "case", ["after the weights", "after the optimizer", "before the state", "before the marker"]
)
def test_a_torn_checkpoint_is_skipped_with_a_message(killed, case):
    _, found = killed
    killed_one, resumed = found[case]["sessions"]
    assert killed_one["whole"] == ["checkpoint-2"]  # kept in spite of save_total_limit 1
    assert "checkpoint-4: skipped (it has no whole.json: saving it was interrupted)" in resumed["log"]
    assert resumed["whole"] == ["checkpoint-6"]


def test_a_result_that_is_half_saved_is_no_model(base, killed):
    out, found = killed
    broken, last = found["in the last save"]["sessions"]
    assert not broken["loadable"] and last["loadable"]
    half = out / "half"
    (half / ".saving").mkdir(parents=True)
    (half / ".saving" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"half: no adapter_config.json in this folder"):
        load_model(base, adapter=half)


def checkpoint(folder, step, text="weights"):
    made = folder / f"checkpoint-{step}"
    (made / "part").mkdir(parents=True)
    (made / "adapter_model.safetensors").write_text(text)
    (made / "part" / "rng.pth").write_text("random")
    checkpoints.mark_whole(made)
    return made


def test_a_folder_with_a_run_is_refused_and_kept(tmp_path):
    checkpoints.check_free(tmp_path / "new", resume=False)
    checkpoint(tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"unfinished run \(checkpoint-2\): give .*--resume, .*--overwrite"
    ) as no:
        checkpoints.check_free(tmp_path, resume=False)
    assert str(no.value).startswith(f"{tmp_path}: holds") and "\n" not in str(no.value)
    checkpoints.check_free(tmp_path, resume=True)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds the result of a run: give another folder, continue it"):
        checkpoints.check_free(tmp_path, resume=False)
    checkpoints.check_free(tmp_path, resume=True)
    (tmp_path / "checkpoint-2" / "adapter_model.safetensors").unlink()
    for resume in (False, True):  # there is nothing to continue from
        with pytest.raises(ValueError, match=r"give another folder or replace it \(--overwrite"):
            checkpoints.check_free(tmp_path, resume)


def test_only_whole_checkpoints_count(tmp_path, caplog):
    two, four, ten, twelve = (checkpoint(tmp_path, step) for step in (2, 4, 10, 12))
    (tmp_path / "checkpoint-x").mkdir()
    assert checkpoints.last_whole(tmp_path) == twelve
    (twelve / "part" / "rng.pth").write_text("rand")
    (ten / "adapter_model.safetensors").unlink()
    (four / "whole.json").write_text("[1]")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.last_whole(tmp_path) == two
    assert "checkpoint-12: skipped (part/rng.pth has 4 bytes, not the 6 that were saved)" in caplog.text
    assert "checkpoint-10: skipped (adapter_model.safetensors is missing)" in caplog.text
    assert "checkpoint-4: skipped (whole.json does not list its files)" in caplog.text
    # They will be written again, and an old marker must not fit the new files.
    checkpoints.set_aside(tmp_path, torn_only=True)
    (twelve / "part" / "rng.pth").write_text("random")
    assert checkpoints.last_whole(tmp_path) == two
    checkpoints.delete_older(tmp_path, None)
    assert len(checkpoints.checkpoints(tmp_path)) == 4
    checkpoints.delete_older(tmp_path, 1)
    assert checkpoints.checkpoints(tmp_path) == [two]
    checkpoints.set_aside(tmp_path, torn_only=False)
    assert (
        checkpoints.last_whole(tmp_path) is None
        and "it belongs to an earlier run in this folder" in caplog.text
    )
    assert checkpoints.last_whole(tmp_path / "none") is None
