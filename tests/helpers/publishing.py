"""What the tests of publishing share: a model with a head of its own, random adapters, facts for cards."""

from pathlib import Path

import torch

from helpers.tiny_model import processor_to_save, tiny_model
from repic_core.models.loading import load_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HUB_BASE = "Qwen/Qwen2.5-VL-7B-Instruct"
FACTS = {
    "base": HUB_BASE,
    "base_revision": "cc594898137f460bfe9f0759e9844b3ce807cfb5",
    "license": "apache-2.0",
    "datasets": ["someone/concepts"],
    "data": {"sources": "my photos", "license": "cc-by-4.0", "consent": "written consent of all"},
    "recipe": {"name": "paper-7b-8gpu"},
    "rewards": ["personalization"],
    "evaluation": [{"set": "4 references", "F1": "85.0 [81.0, 89.0]"}],
    "notes": "none",
}


def save_untied_model(path: Path) -> Path:
    """Save a random model whose head is not tied to its embeddings (the toy's is), as that of Qwen2.5-VL 7B."""
    processor = processor_to_save()
    model = tiny_model(processor, seed=3)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.2)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def make_adapter(base, path, targets=TARGETS, size=0.2, alpha=8, exclude=".*visual.*", dtype=None):
    """Save a LoRA of r 4 to `path`, with a random B of this size."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_model(base, device="cpu", dtype=dtype or "float32")
    torch.manual_seed(0)
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, exclude_modules=exclude)
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn_like(weight) * size
    model.save_pretrained(path)
    return path
