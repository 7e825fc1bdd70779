"""The shared-prefix trainer against stock TRL: same samples, same log-probabilities, same gradients, same path."""

import dataclasses
import inspect
import logging
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import GenerationConfig
from trl import GRPOTrainer

from helpers.families import save_family
from helpers.places import ROOT
from helpers.stock import make, same_run
from repic_core.data.rows import read_rows, to_dataset
from repic_core.models.loading import load_model
from repic_core.training import shared_prefix, trainer
from repic_core.training.photos import EachPhotoOnce
from repic_core.training.trainer import SharedPrefixGRPOTrainer

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {family: save_family(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


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
    same_run(bases["qwen2_5_vl"], data, tmp_path, **changed)


def batch_of(found):
    """One generated and scored batch, before it is split."""
    torch.manual_seed(3)
    return found._generate_and_score_completions(next(iter(found.get_train_dataloader())))


def log_probs(found, batch, rows=slice(None), batch_size=None):
    return found._get_per_token_logps_and_entropies(
        found.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[rows],
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[rows],
        batch["completion_ids"].shape[1],
        batch_size=batch_size,
        compute_entropy=True,
        **{k: batch.get(k) for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("vision", ["frozen", "trained"])
def test_log_probabilities_and_gradients_of_one_batch(bases, data, tmp_path, family, vision):
    """Of every trainable parameter, with a trained vision tower, too."""
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


def dense_attention(query, key, value, layout, scaling, sees):
    """The same by one mask over the whole row: `sees`(segment of query, its prompt, segment of key, its prompt)."""
    prompts = (layout.prompt_tokens.flatten()[layout.prompt_places], layout.prompt_tokens.shape[1])
    kind = []  # of each token: (segment, or -1 for a prompt; prompt)
    kind += [(-1, int(place) // prompts[1]) for place in layout.prompt_places]
    longest = layout.segment_tokens.shape[1]
    kind += [(int(p) // longest, int(layout.prompt_index[int(p) // longest])) for p in layout.segment_places]
    mask = torch.tensor([[j <= i and sees(*a, *b) for j, b in enumerate(kind)] for i, a in enumerate(kind)])
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return out.transpose(1, 2)


def own_prompt_and_self(segment, prompt, other, its_prompt):
    return prompt == its_prompt and other in (-1, segment)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_attention_is_that_of_the_dense_mask(prompt_lengths, segments):
    """Also its gradients; lengths as they come, completions without a token among them."""
    index = torch.tensor([prompt % len(prompt_lengths) for prompt, _ in segments])
    layout = shared_prefix._layout(prompt_lengths, [length for _, length in segments], index)
    tokens = sum(prompt_lengths) + sum(length for _, length in segments)
    found = []
    for attention in (shared_prefix.group_attention, partial(dense_attention, sees=own_prompt_and_self)):
        torch.manual_seed(0)
        query, *rest = (torch.randn(1, heads, tokens, 8, requires_grad=True) for heads in (4, 2, 2))
        out = attention(query, *rest, layout, 0.3)
        (out * torch.randn(out.shape)).sum().backward()
        found.append((out, query.grad, *(x.grad for x in rest)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_completions_do_not_see_each_other(bases, data, tmp_path, monkeypatch):
    """The tests above fail with a mask that lets them."""
    own = make(SharedPrefixGRPOTrainer, bases["qwen2_5_vl"], data, tmp_path)
    batch = batch_of(own)
    with torch.no_grad():
        right = log_probs(own, batch)[0]
        for sees, same in ((own_prompt_and_self, True), (lambda s, p, other, its: p == its, False)):
            monkeypatch.setattr(shared_prefix, "group_attention", partial(dense_attention, sees=sees))
            assert ((log_probs(own, batch)[0] - right).abs().max() < 1e-5) == same


def test_half_precision_is_as_good_as_stocks(bases, data, tmp_path):
    errors = []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        found = make(kind, bases["qwen2_5_vl"], data, tmp_path)
        batch = batch_of(found)
        with torch.no_grad():
            exact = log_probs(found, batch)[0]
            with torch.autocast("cpu", torch.bfloat16):
                rounded = log_probs(found, batch)[0]
        errors.append((rounded - exact).abs().mean())
    assert 0 < errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_rollouts_are_generates(bases, data, family):
    """Token for token, for prompts of mixed length and photos; both ways to give the photos."""
    toy = ROOT / "assets" / "toy-base"  # a random one says the same of every photo
    model, processor = load_model(toy if family == "qwen2_5_vl" else bases[family])
    rows = [to_dataset(read_rows(data / "rows.jsonl"), data, 0)[i] for i in (0, 1, 5, 9)]
    texts = [
        processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    once = processor(text=texts, images=[row["images"] for row in rows], padding=True, return_tensors="pt")
    index = [0, 0, 0, 1, 2, 2, 3, 1]
    every = processor(
        text=[texts[i] for i in index],
        images=[rows[i]["images"] for i in index],
        padding=True,
        return_tensors="pt",
    )
    banned = [model.config.image_token_id, model.config.video_token_id]
    config = GenerationConfig(
        max_new_tokens=12, do_sample=False, suppress_tokens=banned, eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )  # fmt: skip
    stock = model.generate(**every, generation_config=config)
    features = shared_prefix.image_features(model, once["pixel_values"], once["image_grid_thw"])
    given = {name: once[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    for chosen in (None, features):
        with shared_prefix.shared_generate(model, index, chosen):
            shared = model.generate(
                input_ids=every["input_ids"],
                attention_mask=every["attention_mask"],
                generation_config=config,
                **given,
            )
        assert torch.equal(shared, stock)
    assert len({tuple(row.tolist()) for row in stock[:, every["input_ids"].shape[1] :]}) == len(set(index))


def test_photos_are_processed_once_and_groups_stay_whole(bases, data, tmp_path):
    own = make(
        SharedPrefixGRPOTrainer, bases["qwen2_5_vl"], data, tmp_path, per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
    )  # fmt: skip
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
    """Resized, patched and encoded; the passes are those of stock."""
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
        same_run(
            bases["qwen2_5_vl"], data, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            max_steps=1, loss_type="dapo", scale_rewards="none",
        )  # fmt: skip
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
        mine = make(
            kind, bases["qwen2_5_vl"], data, tmp_path, per_device_eval_batch_size=8,
            eval=read_rows(data / "rows.jsonl")[:4],
        )  # fmt: skip
        torch.manual_seed(3)
        found.append(mine.evaluate())
        assert isinstance(mine.eval_dataset[0]["images"][0], dict) == (kind is SharedPrefixGRPOTrainer)
    for key in ("eval_loss", "eval_reward", "eval_entropy", "eval_completions/mean_length"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-5, abs=1e-6), key


def test_an_unproven_model_is_trained_as_trl_does(bases, data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "FAMILIES", {})
    with caplog.at_level(logging.WARNING):
        same_run(bases["qwen2_5_vl"], data, tmp_path, max_steps=2)
    assert caplog.text.count("shared prefix: not used (a 'qwen2_5_vl' model)") == 1


def test_trl_has_what_is_overridden():
    """An upgrade that moves or renames what this builds on fails here first."""
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
    own = {name for name in vars(SharedPrefixGRPOTrainer) if hasattr(GRPOTrainer, name)} - {
        "__init__",
        "__doc__",
        "__module__",
    }
    assert own == set(wanted)
    for name, arguments in wanted.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[: len(arguments)] == arguments
