"""Failed and odd runs: a run that stops says why, and is resumed to the uninterrupted one bit for bit."""

import math
import resource

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from helpers.families import At, varied
from helpers.killed_run import SETTINGS
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.training import checkpoints, grpo
from repic_core.training.failures import RewardError, TrainingError, checked_reward
from repic_core.training.trainer import SharedPrefixGRPOTrainer

QUICK = {**SETTINGS, "max_steps": 4, "save_steps": 100}


class FailingOptimizer(TrainerCallback):
    def on_optimizer_step(self, args, state, control, **_):
        if state.global_step == 3:
            raise RuntimeError("while the weights change")


def run(base, data, out, rewards=((varied, 1.0),), **settings):
    rows = read_rows(data / "rows.jsonl")[:3]
    settings = {"root": data, "rewards": list(rewards), **QUICK, **settings}
    return grpo.train(*load_model(base), rows, out, **settings)


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(base, data, tmp_path_factory):
    """Weights of the uninterrupted run, by whether the prefix is shared."""
    found = {}
    for shared in (True, False):
        out = tmp_path_factory.mktemp("unbroken")
        run(base, data, out, shared_prefix=shared)
        found[shared] = weights(out)
    return found


def failing(fault):
    """`varied`, changed by `fault` in the third step."""

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
            r"reward 'judge' returned nan for the completion '.*': return a finite number",
        ),
        (lambda r: [*r[1:], -math.inf], r"reward 'judge' returned -inf for the completion"),
        (lambda r: ["good", *r[1:]], r"reward 'judge' returned 'good' for the completion"),
        (lambda r: r[1:], r"ValueError: The reward function 'judge' returned 3 rewards, but 4 were expected"),
    ],
)
def test_a_bad_reward_ends_the_run_with_a_message_and_a_state(base, data, tmp_path, unbroken, fault, message):
    with pytest.raises(TrainingError, match=f"^training stopped after step 2 of 4: {message}") as error:
        run(base, data, tmp_path, [(failing(fault), 1.0)])
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"it continues from {tmp_path / 'checkpoint-2'}")
    run(base, data, tmp_path, [(failing(lambda r: r), 1.0)], resume=True)
    assert weights(tmp_path) == unbroken[True]


def test_no_reward_is_no_fault():
    def some(completions, **_):
        return [None, 1, torch.tensor(0.5)]

    assert checked_reward(some)(completions=["a", "b", "c"]) == [None, 1, 0.5]
    assert checked_reward(some).__name__ == "some"
    with pytest.raises(RewardError, match="reward 'some' returned 1j"):
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
        with pytest.raises(TrainingError, match="training stopped after step") as error:
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
            overwrite = At(1, lambda: photo.write_bytes(b"none"))
            run(base, data, tmp_path, callbacks=[overwrite], shuffle_dataset=False)
    finally:
        photo.write_bytes(kept)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt"])
def test_disk_full(base, data, tmp_path, unbroken, file):
    """The system refuses to let files grow beyond the size of a checkpoint's file, as a full disk does."""
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
    assert message.startswith(f"training stopped after step 4 of 4: saving in {out} failed (")
    assert "GB free" in message
    assert message.endswith(f"it continues from {out / 'checkpoint-2'}") and "\n" not in message
    assert [path.name for path in checkpoints.checkpoints(out)] == ["checkpoint-2"]
    assert not (out / "adapter_config.json").exists()
    run(base, data, out, save_steps=2, resume=True)
    assert weights(out) == unbroken[True]


def test_no_state_is_saved_while_the_weights_change(base, data, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint was saved yet: start again"):
        run(base, data, tmp_path, callbacks=[FailingOptimizer()])
    with pytest.raises(TrainingError, match=r"after step 3 .*: while the .*continues from .*checkpoint-2$"):
        run(base, data, tmp_path, callbacks=[FailingOptimizer()], save_steps=2)


def test_a_new_run_does_not_resume_an_earlier_ones_checkpoint(base, data, tmp_path, unbroken):
    run(base, data, tmp_path, seed=7)
    with pytest.raises(TrainingError, match="no checkpoint was saved yet"):
        run(base, data, tmp_path, [(lambda completions, **_: [math.nan] * 4, 1.0)], overwrite=True)
    with pytest.raises(ValueError, match="holds the result of a run"):  # of the first one
        run(base, data, tmp_path, resume=True)
    run(base, data, tmp_path, resume=True, overwrite=True)
    assert weights(tmp_path) == unbroken[True]


def test_a_run_that_has_ended_is_not_trained_on(base, data, tmp_path, unbroken):
    """Within an epoch; as after a kill in the last save."""
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
    settings = {"loss_type": loss_type, "shared_prefix": shared, "max_steps": 2}
    trainer = run(base, data, tmp_path, generation_kwargs={"suppress_tokens": sorted(others)}, **settings)
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
