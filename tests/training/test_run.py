"""What GRPO tunes, on a random tiny model: only the language model, as an adapter or whole."""

import pytest
import torch

from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.training import grpo

SMALL = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_only_the_language_model_is_tuned(base, data, tmp_path, tune):
    model, processor = load_model(base)
    before = parameters(model)
    settings = {**SMALL, "max_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0, "beta": 0.04}
    settings |= {"lr_scheduler_type": "constant", "reward_min_length": 0, "root": data, "tune": tune}
    trainer = grpo.train(model, processor, read_rows(data / "rows.jsonl")[:8], tmp_path, **settings)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and not any("visual" in name for name in trained)
    if tune == "lora":
        assert all("lora_" in name for name in trained)
        assert (tmp_path / "adapter_model.safetensors").exists()
        load_model(base, adapter=tmp_path)
    else:
        after = parameters(load_model(tmp_path)[0])
        assert all(torch.equal(after[n], before[n]) for n in before if "visual" in n)
