"""Tiny random models of the real classes, with the toy tokenizer and their family's own processor; a reward."""

from pathlib import Path

import torch
from transformers import TrainerCallback

from helpers.tiny_model import TEXT, processor_to_save, save_tiny, tiny_model


def varied(completions, **_):
    """A reward that differs within every group, so that each step moves the parameters."""
    texts = (one if isinstance(one, str) else one[0]["content"] for one in completions)
    return [sum(map(ord, text)) % 7 / 7 for text in texts]


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.act()


def save_family(family: str, folder: Path) -> Path:
    """Save a tiny random model of ``qwen2_vl``, ``qwen2_5_vl`` or ``qwen3_vl`` and its processor under `folder`."""
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        Qwen2VLProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    if family == "qwen2_5_vl":
        return save_tiny(folder)
    toy = processor_to_save()
    model = tiny_model(toy)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = {name: getattr(model.config, name) for name in names}
    text = TEXT | {
        "num_hidden_layers": 2,
        "vocab_size": model.config.text_config.vocab_size,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "eos_token_id": toy.tokenizer.eos_token_id,
        "pad_token_id": toy.tokenizer.pad_token_id,
    }
    vision = {"depth": 2, "num_heads": 2, "patch_size": 8, "initializer_range": 0.3}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision, **tokens)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    video = toy.video_processor
    if family == "qwen3_vl":
        video = Qwen3VLVideoProcessor(patch_size=8, merge_size=2, temporal_patch_size=2)
    {"qwen2_vl": Qwen2VLProcessor, "qwen3_vl": Qwen3VLProcessor}[family](
        image_processor=toy.image_processor,
        tokenizer=toy.tokenizer,
        video_processor=video,
        chat_template=toy.chat_template,
    ).save_pretrained(folder)
    return folder
