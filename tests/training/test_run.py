"""What GRPO tunes, on a random tiny model: only the language model, as an adapter or whole."""

import pytest
import torch

from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.toyworld.dataset import write_training
from repic_core.toyworld.model import make_model, make_processor
from repic_core.training import grpo

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


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def rows_of(train, count=8):
    return read_rows(train / "rows.jsonl")[:count]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_only_the_language_model_is_tuned(world, tmp_path, tune):
    model, processor = load_model(world[0])
    before = parameters(model)
    settings = {**SMALL, "max_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0, "beta": 0.04}
    settings |= {"lr_scheduler_type": "constant", "reward_min_length": 0, "root": world[1], "tune": tune}
    trainer = grpo.train(model, processor, rows_of(world[1]), tmp_path, **settings)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and not any("visual" in name for name in trained)
    if tune == "lora":
        assert all("lora_" in name for name in trained)
        assert (tmp_path / "adapter_model.safetensors").exists()
        load_model(world[0], adapter=tmp_path)
    else:
        after = parameters(load_model(tmp_path)[0])
        assert all(torch.equal(after[n], before[n]) for n in before if "visual" in n)
