"""The shared-prefix trainer against stock TRL: the same samples, log-probabilities, gradients and training path."""

import dataclasses
import inspect
import logging
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer

from helpers.families import save_family
from helpers.places import ROOT
from helpers.stock import batch_of, log_probs, make, same_run
from repic_core.data.rows import read_rows
from repic_core.training import trainer
from repic_core.training.photos import EachPhotoOnce
from repic_core.training.trainer import SharedPrefixGRPOTrainer

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {family: save_family(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def ends_soon(model):
    """Makes the end of a completion as probable as all other tokens together."""
    end = model.config.get_text_config().eos_token_id
    model.lm_head.register_forward_hook(
        lambda module, args, out: out.index_fill(-1, torch.tensor([end]), 0).index_add(
            -1, torch.tensor([end]), out.logsumexp(-1, keepdim=True).detach()
        )
    )


@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_follows_stock(bases, data, tmp_path, family, tune):
    same_run(bases[family], data, tmp_path, tune=tune)


@pytest.mark.parametrize(
    "changed",
    [
        {"loss_type": "dr_grpo"},
        {"loss_type": "dapo", "beta": 0.0},
        {"loss_type": "bnpo", "mask_truncated_completions": True},
        {"loss_type": "cispo"},
        {"loss_type": "sapo"},
        {"loss_type": "vespo"},
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"num_iterations": 2, "max_steps": 4},
        {"importance_sampling_level": "sequence"},
        {"gradient_checkpointing": True},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())),
)
def test_settings_follow_stock(bases, data, tmp_path, changed):
    if changed.get("mask_truncated_completions"):
        changed = changed | {"prepare": ends_soon}  # otherwise all are masked
    same_run(bases["qwen2_5_vl"], data, tmp_path, **changed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("vision", ["frozen", "trained"])
def test_log_probabilities_and_gradients_of_one_batch(bases, data, tmp_path, family, vision):
    """The gradients of every trainable parameter, also with a trained vision tower."""
    found = []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        mine = make(kind, bases[family], data, tmp_path, tune="full", per_device_train_batch_size=12)
        for parameter in mine.model.model.visual.parameters():
            parameter.requires_grad_(vision == "trained")
        mine.model.train()
        batch = batch_of(mine)
        lengths = torch.tensor([10, 3, 0, 7] * 3)  # ragged, one without a token
        batch["completion_mask"] = (torch.arange(10) < lengths[:, None]).long()
        logps, entropies, _ = log_probs(mine, batch)
        weight = torch.linspace(-1, 1, logps.numel()).view_as(logps)
        (logps * weight).sum().backward()
        gradients = {n: p.grad for n, p in mine.model.named_parameters() if p.grad is not None}
        found.append((batch, logps, entropies, gradients, mine))
    (one, logps, entropies, gradients, _), (two, own_logps, own_entropies, own_gradients, own) = found
    assert (own._features is None) == (vision == "trained")
    assert torch.equal(one["completion_ids"], two["completion_ids"])
    torch.testing.assert_close(own_logps, logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_entropies, entropies, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == own_gradients.keys() and len(gradients) > 10
    assert any("visual" in name for name in gradients) == (vision == "trained")
    for name, gradient in gradients.items():
        error = (gradient - own_gradients[name]).norm() / gradient.norm().clamp(min=1e-6)
        assert error < 1e-4, (name, error)
    with torch.no_grad():
        torch.testing.assert_close(log_probs(own, two, batch_size=5)[0], own_logps, rtol=1e-5, atol=1e-5)


def test_photos_are_processed_once_and_groups_stay_whole(bases, data, tmp_path):
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    own = make(SharedPrefixGRPOTrainer, bases["qwen2_5_vl"], data, tmp_path, **sizes)
    seen, process = [], type(own.processing_class.image_processor).__call__

    def count(self, images, *args, **kwargs):
        seen.append(images)
        return process(self, images, *args, **kwargs)

    type(own.processing_class.image_processor).__call__ = count
    try:
        own.model.train()
        inputs = next(iter(own.get_train_dataloader()))
        parts = [own._prepare_inputs(inputs)]
    finally:
        type(own.processing_class.image_processor).__call__ = process
    assert isinstance(inputs[0]["images"][0], dict)  # not opened by the data loader
    assert len(seen) == 1  # one call of the image processor for the whole step
    parts = own._buffered_inputs
    assert [part["prompt_index"] for part in parts] == [[0] * 4] * 3
    for part in parts:
        assert len(part["image_grid_thw"]) == part["num_images"][0] == len(part["features"].pooler_output)
        assert part["pixel_values"].shape[0] == part["image_grid_thw"].prod(-1).sum()


def test_a_photo_of_several_prompts_is_processed_once(bases, data, tmp_path, monkeypatch):
    """Resized, patched and encoded once; the passes are those of stock TRL."""
    rows = [row for row in read_rows(data / "rows.jsonl") if row.method == "yes_no"][:1]
    rows += [dataclasses.replace(rows[0], problem=f"{rows[0].problem} Really?")]
    seen, encoded = [], []
    process, encode = EachPhotoOnce.__call__, trainer.image_features

    def count(self, images, **kwargs):
        own = self._own
        self._own = lambda photos, **rest: (seen.extend(photos), own(photos, **rest))[1]
        try:
            return process(self, images, **kwargs)
        finally:
            self._own = own

    def count_encoded(model, pixels, grids):
        encoded.extend(grids)
        return encode(model, pixels, grids)

    monkeypatch.setattr(EachPhotoOnce, "__call__", count)
    monkeypatch.setattr(trainer, "image_features", count_encoded)
    same_run(bases["qwen2_5_vl"], data, tmp_path, rows=rows, max_steps=1)
    assert len(seen) == len(encoded) == 2


def test_two_processes_give_the_gradients_of_one(bases, data, tmp_path):
    """With a whole group in each process, and with one group over both."""
    script = ROOT / "tests" / "helpers" / "spread_run.py"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, launcher in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *launcher, script, bases["qwen2_5_vl"], data, tmp_path / name, "8", "4"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for size in (8, 4):
        one, two = (load_file(tmp_path / f"{name}_{size}.safetensors") for name in ("one", "two"))
        moved = [name for name, value in one.items() if "lora_B" in name and value.abs().max() > 1e-6]
        assert len(moved) > 5
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-7, msg=name)


def test_groups_that_must_be_spread(bases, data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 1}
        same_run(bases["qwen2_5_vl"], data, tmp_path, **sizes, loss_type="dapo", scale_rewards="none")
    assert "groups are spread over micro-batches or processes" in caplog.text
    assert "computed in up to 2 of them" in caplog.text


def test_image_tokens_are_never_sampled(bases, data, tmp_path):
    own = make(SharedPrefixGRPOTrainer, bases["qwen2_5_vl"], data, tmp_path)
    config = own.model.get_base_model().config
    head = own.model.get_base_model().lm_head
    image = config.image_token_id
    head.register_forward_hook(lambda m, a, out: out.index_fill(-1, torch.tensor([image]), 1e4))
    assert not (batch_of(own)["completion_ids"] == image).any()


def test_evaluation_is_stocks(bases, data, tmp_path):
    found = []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        rows = read_rows(data / "rows.jsonl")[:4]
        mine = make(kind, bases["qwen2_5_vl"], data, tmp_path, per_device_eval_batch_size=8, eval=rows)
        torch.manual_seed(3)
        found.append(mine.evaluate())
        assert isinstance(mine.eval_dataset[0]["images"][0], dict) == (kind is SharedPrefixGRPOTrainer)
    for key in ("eval_loss", "eval_reward", "eval_entropy", "eval_completions/mean_length"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-5, abs=1e-6), key


def test_an_unsupported_model_is_trained_as_trl_does(bases, data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "FAMILIES", {})
    with caplog.at_level(logging.WARNING):
        same_run(bases["qwen2_5_vl"], data, tmp_path, max_steps=2)
    assert caplog.text.count("shared prefix: not used (a 'qwen2_5_vl' model)") == 1


def test_trl_has_what_is_overridden():
    """Fails first if an upgrade moves or renames what the trainer builds on."""
    wanted = {
        "_tokenize_prompts": ["self", "prompts"],
        "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_prepare_inputs": ["self", "generation_batch"],
        "_compute_loss": ["self", "model", "inputs"],
        "_get_per_token_logps_and_entropies": [
            "self",
            "model",
            "input_ids",
            "attention_mask",
            "logits_to_keep",
        ],
    }
    # Dunder names are the class's own; which there are depends on the version of Python.
    own = {name for name in vars(SharedPrefixGRPOTrainer) if hasattr(GRPOTrainer, name)}
    own = {name for name in own if not name.startswith("__")}
    assert own == set(wanted)
    for name, arguments in wanted.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[: len(arguments)] == arguments
