"""Killed, failed and odd runs: what resumes is to the bit the unbroken run; what stops says why."""

import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from helpers.families import At, save_family, varied
from helpers.killed_run import CASES, SETTINGS
from helpers.places import ROOT
from repic_core.data.rows import read_rows
from repic_core.models.loading import ModelError, load_model
from repic_core.training import checkpoints, grpo
from repic_core.training.failures import RewardError, TrainingError, checked_reward
from repic_core.training.trainer import SharedPrefixGRPOTrainer

RESUMED_FROM = {  # each session
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
def base(tmp_path_factory):
    return save_family("qwen2_5_vl", tmp_path_factory.mktemp("base"))


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
    sessions = mine["record"]["sessions"]  # one that resumes from nothing begins a new record
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
    assert killed_one["whole"] == ["checkpoint-2"]  # save_total_limit 1, and it is still there
    assert "checkpoint-4: skipped (no whole.json in it: its saving was cut off)" in resumed["log"]
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
    assert "checkpoint-4: skipped (whole.json is no list of its files)" in caplog.text
    checkpoints.set_aside(tmp_path, torn_only=True)  # they will be written again: an old marker must not fit
    (twelve / "part" / "rng.pth").write_text("random")
    assert checkpoints.last_whole(tmp_path) == two
    checkpoints.delete_older(tmp_path, None)
    assert len(checkpoints.checkpoints(tmp_path)) == 4
    checkpoints.delete_older(tmp_path, 1)
    assert checkpoints.checkpoints(tmp_path) == [two]
    checkpoints.set_aside(tmp_path, torn_only=False)
    assert checkpoints.last_whole(tmp_path) is None and "of an earlier run in this folder" in caplog.text
    assert checkpoints.last_whole(tmp_path / "none") is None


# Failures

QUICK = {**SETTINGS, "max_steps": 4, "save_steps": 100}


class FailingOptimizer(TrainerCallback):
    def on_optimizer_step(self, args, state, control, **_):
        if state.global_step == 3:
            raise RuntimeError("in the midst of the step")


def run(base, data, out, rewards=((varied, 1.0),), **settings):
    rows = read_rows(data / "rows.jsonl")[:3]
    settings = {"root": data, "rewards": list(rewards), **QUICK, **settings}
    return grpo.train(*load_model(base), rows, out, **settings)


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(base, data, tmp_path_factory):
    """Weights of the unbroken run, by whether the prefix is shared."""
    found = {}
    for shared in (True, False):
        out = tmp_path_factory.mktemp("unbroken")
        run(base, data, out, shared_prefix=shared)
        found[shared] = weights(out)
    return found


def failing(fault):
    """`varied`, with another answer in the third step."""

    def judge(completions, trainer_state=None, **_):
        return fault(varied(completions)) if trainer_state.global_step == 2 else varied(completions)

    return judge


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda r: 1 / 0,
            r"reward 'judge' raised ZeroDivisionError: division by zero \(test_failures.py, line \d+\)",
        ),
        (
            lambda r: [math.nan, *r[1:]],
            r"reward 'judge' gave nan for the completion '.*': give a finite number",
        ),
        (lambda r: [*r[1:], -math.inf], r"reward 'judge' gave -inf for the completion"),
        (lambda r: ["good", *r[1:]], r"reward 'judge' gave 'good' for the completion"),
        (lambda r: r[1:], r"ValueError: The reward function 'judge' returned 3 rewards, but 4 were expected"),
    ],
)
def test_a_bad_reward_ends_the_run_with_a_message_and_a_state(base, data, tmp_path, unbroken, fault, message):
    with pytest.raises(TrainingError, match=f"^ended after step 2 of 4: {message}") as error:
        run(base, data, tmp_path, [(failing(fault), 1.0)])
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"the run goes on from {tmp_path / 'checkpoint-2'}")
    run(base, data, tmp_path, [(failing(lambda r: r), 1.0)], resume=True)
    assert weights(tmp_path) == unbroken[True]


def test_no_reward_is_no_fault():
    def some(completions, **_):
        return [None, 1, torch.tensor(0.5)]

    assert checked_reward(some)(completions=["a", "b", "c"]) == [None, 1, 0.5]
    assert checked_reward(some).__name__ == "some"
    with pytest.raises(RewardError, match="reward 'some' gave 1j"):
        checked_reward(type("some", (), {"__call__": lambda self, completions: [1j]})())(completions=["a"])

    async def slow(completions, **_):
        return [1.0]

    assert checked_reward(slow) is slow and checked_reward("a-model") == "a-model"


@pytest.mark.parametrize("shared", [True, False])
def test_a_photo_that_vanished(base, data, tmp_path, unbroken, shared):
    photo = data / read_rows(data / "rows.jsonl")[2].images[0]
    kept = photo.read_bytes()
    out, settings = tmp_path / "out", {"shared_prefix": shared, "shuffle_dataset": False}
    run(base, data, tmp_path / "whole", **settings)
    try:
        with pytest.raises(TrainingError, match="ended after step") as error:
            run(base, data, out, callbacks=[At(1, photo.unlink)], **settings)
    finally:
        photo.write_bytes(kept)
    assert f"the photo of row 3, {photo}: No such file or directory; with resume" in str(error.value)
    run(base, data, out, resume=True, **settings)
    assert weights(out) == weights(tmp_path / "whole") != unbroken[shared]


def test_a_photo_that_was_overwritten(base, data, tmp_path):
    photo = data / read_rows(data / "rows.jsonl")[2].images[0]
    kept = photo.read_bytes()
    try:
        with pytest.raises(TrainingError, match=rf"photo of row 3, {photo}: cannot identify image file"):
            run(
                base, data, tmp_path, callbacks=[At(1, lambda: photo.write_bytes(b"none"))], shuffle_dataset=False
            )  # fmt: skip
    finally:
        photo.write_bytes(kept)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt"])
def test_disk_full(base, data, tmp_path, unbroken, file):
    """The system refuses to let files grow past the size of a checkpoint's file, as a full disk does."""
    run(base, data, tmp_path / "first", max_steps=1)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "first" / "checkpoint-1").iterdir()}
    assert sizes["adapter_model.safetensors"] < sizes["optimizer.pt"] - 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    full = At(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[file] - 4096, hard)))
    try:
        with pytest.raises(TrainingError) as error:
            run(base, data, out, save_steps=2, save_total_limit=1, callbacks=[full])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(error.value)
    assert message.startswith(f"ended after step 4 of 4: saving in {out} failed (") and "GB free" in message
    assert message.endswith(f"goes on from {out / 'checkpoint-2'}") and "\n" not in message
    assert [path.name for path in checkpoints.checkpoints(out)] == ["checkpoint-2"]
    assert not (out / "adapter_config.json").exists()
    run(base, data, out, save_steps=2, resume=True)
    assert weights(out) == unbroken[True]


def test_no_state_is_saved_from_the_midst_of_an_update(base, data, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint was saved yet: begin again"):
        run(base, data, tmp_path, callbacks=[FailingOptimizer()])
    with pytest.raises(TrainingError, match=r"after step 3 .*: in the midst .*goes on from .*checkpoint-2$"):
        run(base, data, tmp_path, callbacks=[FailingOptimizer()], save_steps=2)


def test_a_new_run_does_not_go_on_from_an_earlier_ones_checkpoint(base, data, tmp_path, unbroken):
    run(base, data, tmp_path, seed=7)
    with pytest.raises(TrainingError, match="no checkpoint was saved yet"):
        run(base, data, tmp_path, [(lambda completions, **_: [math.nan] * 4, 1.0)])
    run(base, data, tmp_path, resume=True)
    assert weights(tmp_path) == unbroken[True]


def test_a_run_that_has_ended_is_not_trained_on(base, data, tmp_path, unbroken):
    """In the midst of an epoch; as after a kill in the last save."""
    run(base, data, tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    trainer = run(base, data, tmp_path, resume=True)
    assert trainer.state.global_step == 4 and weights(tmp_path) == unbroken[True]


def test_fewer_rows_than_a_batch_has_prompts(base, data, tmp_path):
    with pytest.raises(ValueError, match=r"rows: 3 are fewer than the 4 prompts of a batch \(16"):
        run(base, data, tmp_path, per_device_train_batch_size=16)


# Odd groups


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_groups_of_equal_rewards_teach_nothing(base, data, tmp_path, loss_type, shared):
    def same(completions, **_):
        return [0.7] * len(completions)

    trainer = run(
        base, data, tmp_path, [(same, 1.0)], loss_type=loss_type, shared_prefix=shared, beta=0.0, max_steps=2
    )
    for entry in logged(trainer):
        assert entry["loss"] == entry["grad_norm"] == entry["reward_std"] == 0
        assert entry["frac_reward_zero_std"] == 1
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    assert not any(value.any() for name, value in adapter.items() if "lora_B" in name)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_completions_that_end_at_once(base, data, tmp_path, loss_type, shared):
    """Nothing but the end token can be sampled."""
    model, processor = load_model(base)
    others = set(range(model.config.text_config.vocab_size)) - {processor.tokenizer.eos_token_id}
    trainer = run(
        base, data, tmp_path, loss_type=loss_type, shared_prefix=shared, max_steps=2,
        generation_kwargs={"suppress_tokens": sorted(others)},
    )  # fmt: skip
    for entry in logged(trainer):
        assert entry["completions/mean_length"] == 1 and entry["reward"] == 0
        assert math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"])
    assert all(value.isfinite().all() for value in load_file(tmp_path / "adapter_model.safetensors").values())


def test_one_completion_of_a_group_ends_at_once(base, data, tmp_path, monkeypatch):
    def short(self, prompt_ids, *_, **__):
        end = [self.processing_class.tokenizer.eos_token_id]
        return [[100 + i for i in range(row % 4)] + end for row in range(len(prompt_ids))], None

    monkeypatch.setattr(SharedPrefixGRPOTrainer, "_generate_single_turn", short)
    trainer = run(base, data, tmp_path, max_steps=2)
    assert all(entry["completions/min_length"] == 1 for entry in logged(trainer))
    assert all(
        math.isfinite(entry["loss"]) and 0 < entry["grad_norm"] < math.inf for entry in logged(trainer)
    )
    assert all(value.isfinite().all() for value in load_file(tmp_path / "adapter_model.safetensors").values())
