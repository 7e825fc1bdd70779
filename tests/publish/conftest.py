"""A toy model, an adapter as training leaves it, and both merged."""

import pytest
import torch

from helpers.tiny_model import save_tiny
from repic_core.models.loading import load_model
from repic_core.publish.merge import merge_adapter
from repic_core.training.recipe import LORA_TARGETS


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny"
    return save_tiny(path, seed=3)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """As training leaves it: with the kit's targets, and with files that are not published."""
    from peft import LoraConfig, get_peft_model

    path = tmp_path_factory.mktemp("adapter") / "lora"
    model, processor = load_model(base, device="cpu", dtype="float32")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn_like(weight) * 0.2
    model.save_pretrained(path)
    processor.save_pretrained(path)
    torch.save({}, path / "training_args.bin")
    (path / "checkpoint-80").mkdir()
    return path


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "merged"
    merge_adapter(base, adapter, out, system=None, max_new_tokens=4, device="cpu")
    return out
