"""GRPO and SFT on a random tiny model: what is tuned, what is logged, the exact resume, recipes."""

import csv

import pytest
import torch
import yaml

from repic_core import grpo, sft
from repic_core.models import load_model
from repic_core.tasks import read_rows
from repic_core.toyworld.dataset import write_training
from repic_core.toyworld.model import make_model, make_processor
from repic_core.training import read_recipe, recipe_path

SMALL = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(model folder, training folder)"""
    folder = tmp_path_factory.mktemp("world")
    processor = make_processor()
    make_model(processor, seed=5).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    write_training(folder / "train", 12)
    return folder / "model", folder / "train"


def by_length(completions, **_):
    """A reward that differs within every group, so that each step moves the parameters."""
    return [len(completion[0]["content"]) % 17 / 17 for completion in completions]


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def rows_of(train, count=8):
    return read_rows(train / "rows.jsonl")[:count]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_only_the_language_model_is_tuned(world, tmp_path, tune):
    model, processor = load_model(world[0])
    before = parameters(model)
    trainer = grpo.train(
        model, processor, rows_of(world[1]), tmp_path, root=world[1], tune=tune, max_steps=1, learning_rate=1e-2,
        warmup_steps=0, lr_scheduler_type="constant", reward_min_length=0, beta=0.04, **SMALL,
    )  # fmt: skip
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and not any("visual" in name for name in trained)
    if tune == "lora":
        assert all("lora_" in name for name in trained)
        assert (tmp_path / "adapter_model.safetensors").exists()
        load_model(world[0], adapter=tmp_path)
    else:
        after = parameters(load_model(tmp_path)[0])
        assert all(torch.equal(after[n], before[n]) for n in before if "visual" in n)


def test_metrics_by_method_and_further_rewards(world, tmp_path):
    model, processor = load_model(world[0])
    options = {"root": world[1], "rewards": [(by_length, 0.5)], "max_steps": 3, **SMALL}
    grpo.train(model, processor, rows_of(world[1]), tmp_path, **options)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    assert {"reward", "kl", "completions/mean_length", "rewards/by_length/mean"} <= set(rows[0])
    assert any(key.startswith("reward/yes_no") for key in rows[0])


def test_resume_gives_the_parameters_of_an_uninterrupted_run(world, tmp_path):
    options = {"root": world[1], "max_steps": 4, "save_steps": 2, "learning_rate": 1e-3, **SMALL}
    options |= {"rewards": [(by_length, 1.0)], "warmup_steps": 0}
    whole, processor = load_model(world[0])
    whole = grpo.train(whole, processor, rows_of(world[1]), tmp_path / "whole", **options).model

    from transformers import TrainerCallback

    class StopAtTwo(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 2

    first, processor = load_model(world[0])
    parts, options["save_total_limit"] = tmp_path / "parts", 5
    grpo.train(first, processor, rows_of(world[1]), parts, callbacks=[StopAtTwo()], **options)
    assert (parts / "checkpoint-2" / "optimizer.pt").exists()
    second, processor = load_model(world[0])
    resumed = grpo.train(second, processor, rows_of(world[1]), parts, resume=True, **options)
    assert resumed.state.global_step == 4
    again, start = parameters(resumed.model), parameters(load_model(world[0])[0])
    assert any(not torch.equal(p, start[n]) for n, p in parameters(whole).items())
    for name, parameter in parameters(whole).items():
        assert torch.allclose(parameter, again[name], atol=1e-7), name
    with open(parts / "metrics.csv") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]


def test_log_probabilities_are_those_of_the_processors_inputs(world, tmp_path):
    """TRL's pass over prompt and completion sees the same rope positions as the processor's own inputs."""
    from trl import GRPOConfig, GRPOTrainer

    model, processor = load_model(world[0])
    seen = {}

    class Spy(GRPOTrainer):
        def _get_per_token_logps_and_entropies(
            self, model, input_ids, attention_mask, logits_to_keep, **kwargs
        ):
            out = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **kwargs
            )
            seen.update(
                ids=input_ids, mask=attention_mask, keep=logits_to_keep, logps=out[0].detach(), **kwargs
            )
            return out

    options = {**SMALL, "output_dir": str(tmp_path), "max_steps": 1, "learning_rate": 0.0}
    _, config = read_recipe("toy", GRPOConfig, options)
    config.remove_unused_columns = False
    from repic_core.tasks import to_dataset

    dataset = to_dataset(rows_of(world[1]), world[1])
    Spy(
        model, grpo.make_reward("strict", 0), args=config, train_dataset=dataset, processing_class=processor
    ).train()
    row = 0
    keep, ids = seen["keep"], seen["ids"][row][seen["mask"][row].bool()]
    count = int(seen["num_images"][row])
    grid = seen["image_grid_thw"][:count]
    pixels = seen["pixel_values"][: int(grid.prod(1).sum())]
    inputs = {"input_ids": ids[None], "mm_token_type_ids": (ids[None] == model.config.image_token_id).long()}
    with torch.no_grad():
        logits = model(**inputs, pixel_values=pixels, image_grid_thw=grid).logits[0]
    real = int(seen["mask"][row][-keep:].sum())
    want = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[-real:, 0]
    assert torch.allclose(seen["logps"][row][:real], want, atol=1e-4)


def test_sft_learns_captions_and_nothing_else(world, tmp_path):
    model, processor = load_model(world[0])
    rows = read_rows(world[1] / "captions_multi.jsonl")
    trainer = sft.train(
        model, processor, rows, tmp_path, root=world[1], max_steps=12, learning_rate=5e-3, warmup_steps=0,
        per_device_train_batch_size=8, logging_steps=1, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    batch = next(iter(trainer.get_train_dataloader()))
    label = batch["labels"][0]
    text = processor.tokenizer.decode(label[label != -100])
    assert text.strip() in {f"{row.solution}<|im_end|>" for row in rows}
    assert "mm_token_type_ids" in batch
    with pytest.raises(ValueError, match="row 1: the solution must be a caption"):
        sft.train(
            model, processor, [r for r in rows_of(world[1]) if r.method == "iou"], tmp_path, root=world[1]
        )


def test_recipes():
    from trl import GRPOConfig

    tune, paper = read_recipe("paper", GRPOConfig, {"output_dir": "x", "bf16": False})
    assert (tune.tune, tune.lora_r, tune.lora_alpha, tune.lora_dropout) == ("lora", 64, 128, 0.05)
    assert (paper.learning_rate, paper.beta, paper.num_generations, paper.num_train_epochs) == (
        1e-5,
        0.04,
        8,
        2,
    )
    assert (paper.loss_type, paper.scale_rewards, paper.epsilon) == ("grpo", "group", 0.2)
    # TRL counts completions: one prompt a device and step, as published
    assert (
        paper.per_device_train_batch_size == paper.num_generations and paper.gradient_accumulation_steps == 2
    )
    assert yaml.safe_load(recipe_path("paper").read_text())["bf16"] is True
    with pytest.raises(ValueError, match=r"unknown key\(s\) learnig_rate"):
        read_recipe("toy", GRPOConfig, {"learnig_rate": 1.0})
    with pytest.raises(ValueError, match="no such recipe"):
        recipe_path("papper")


def test_command_line(world, tmp_path):
    options = {
        "config": "toy",
        "model": world[0],
        "rows": world[1] / "rows.jsonl",
        "output_dir": tmp_path / "out",
    }
    options |= {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 4, "report_to": "none"}
    grpo.main([text for key, value in options.items() for text in (f"--{key}", str(value))])
    load_model(tmp_path / "out")
