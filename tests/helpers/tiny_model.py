"""A random Qwen2.5-VL, far smaller than the toy base: for tests that need a model and none of its skills.

Its weights are so large that what it says depends on the photos and on every word of the prompt. Its tokenizer, its
processor, the sides of its patches and what it merges are the toy base's; two heads share one key head, as in 7B.
"""

from functools import cache
from pathlib import Path
from typing import Any

from repic_core.toyworld.model import make_processor

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    "bos_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "num_heads": 2,
    "patch_size": 8,
    "window_size": 224,
    "initializer_range": 0.3,
}


def tiny_model(processor: Any, seed: int = 5, layers: int = 2, depth: int = 2) -> Any:
    """The model, for a processor of `toyworld.model.make_processor`; `depth` is the tower's."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    token = processor.tokenizer.convert_tokens_to_ids
    end = {"eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")}
    names = {name: token(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end")}
    config = Qwen2_5_VLConfig(
        text_config=TEXT
        | end
        | {
            "num_hidden_layers": layers,
            "max_position_embeddings": 1024,
            "vocab_size": -(-len(processor.tokenizer) // 8) * 8,
        },
        vision_config=VISION | {"depth": depth, "fullatt_block_indexes": list(range(depth))},
        image_token_id=names["image_pad"],
        video_token_id=names["video_pad"],
        vision_start_token_id=names["vision_start"],
        vision_end_token_id=names["vision_end"],
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, value in end.items():
        setattr(model.generation_config, name, value)
    return model


def save_tiny(folder: Path, **options: int) -> Path:
    """Save the model and its processor under `folder`; `options` as in `tiny_model`."""
    tiny_model(processor_to_save(), **options).save_pretrained(folder)
    processor_to_save().save_pretrained(folder)
    return folder


@cache
def processor_to_save() -> Any:
    """Made once a process, which takes a second: not to be changed."""
    return make_processor()
