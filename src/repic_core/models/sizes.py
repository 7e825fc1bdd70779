"""Configurations with the sizes of published models and of the benchmark's models; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from repic_core.io.kit import kit_path

QWEN_VISION = (1280, 3420, 32, 16)  # hidden, inner, layers, heads
# "cpu" has 7.6M parameters; the other two are as in the config.json of Qwen/Qwen2.5-VL-{3B,7B}-Instruct.
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {
        "hidden": 256,
        "inner": 704,
        "layers": 4,
        "heads": 8,
        "kv": 4,
        "vision": (128, 384, 4, 4),
        "vocabulary": 8192,
    },
    "3b-random": {
        "hidden": 2048,
        "inner": 11008,
        "layers": 36,
        "heads": 16,
        "kv": 2,
        "vision": QWEN_VISION,
        "vocabulary": 151936,
    },
    "7b-random": {
        "hidden": 3584,
        "inner": 18944,
        "layers": 28,
        "heads": 28,
        "kv": 4,
        "vision": QWEN_VISION,
        "vocabulary": 152064,
    },
}
PUBLISHED = {"Qwen/Qwen2.5-VL-3B-Instruct": "3b-random", "Qwen/Qwen2.5-VL-7B-Instruct": "7b-random"}
QWEN3_VL_8B = "Qwen/Qwen3-VL-8B-Instruct"
# For uses in which only the sizes count, not the token ids.
NO_TOKENS = SimpleNamespace(convert_tokens_to_ids=lambda _: 0, eos_token_id=0, pad_token_id=0)


def sized_config(model: str | Path) -> Any:
    """The configuration of a local folder or of a published model; nothing is downloaded.

    Raises:
        ValueError: `model` is neither.
    """
    from transformers import AutoConfig

    folder = kit_path(model)
    if folder.is_dir():
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{model}: no usable config.json: {' '.join(str(error).split())[:200]}"
            ) from None
    if str(model) in PUBLISHED:
        return qwen2_5_vl_config(PUBLISHED[str(model)])
    if str(model) == QWEN3_VL_8B:
        return _qwen3_vl_8b_config()
    known = ", ".join([*PUBLISHED, QWEN3_VL_8B])
    raise ValueError(f"{model}: no such folder, and not one of the models whose sizes are known ({known})")


def qwen2_5_vl_config(name: str, tokenizer: Any = NO_TOKENS) -> Any:
    """A Qwen2.5-VL configuration in one of `SIZES`, with the token ids of `tokenizer`."""
    from transformers import Qwen2_5_VLConfig

    size, token = SIZES[name], tokenizer.convert_tokens_to_ids
    head = size["hidden"] // size["heads"]
    hidden, inner, depth, heads = size["vision"]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size["vocabulary"],
            "hidden_size": size["hidden"],
            "intermediate_size": size["inner"],
            "num_hidden_layers": size["layers"],
            "num_attention_heads": size["heads"],
            "num_key_value_heads": size["kv"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [head // 8, head // 16 * 3, head // 16 * 3],
            },
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "depth": depth,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_heads": heads,
            "patch_size": 14,
            "out_hidden_size": size["hidden"],
            "fullatt_block_indexes": list(range(depth // 4 - 1, depth, depth // 4)),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=name != "7b-random",
    )


def _qwen3_vl_8b_config() -> Any:
    """As in the model's published config.json."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "qwen3_vl",
        text_config={
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
            },
        },
        vision_config={
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "patch_size": 16,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
            "num_position_embeddings": 2304,
        },
        tie_word_embeddings=False,
    )
