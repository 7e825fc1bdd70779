"""Sizes of models that needn't be there, and how many tokens a prompt for them has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = 4  # characters of the prompt's text a token, as of English with Qwen's tokenizer; assumed
INFO = "x" * 120  # an info of a concept in the prompt, of the authors' length
HUB = {"Qwen/Qwen2.5-VL-3B-Instruct": "3b-random", "Qwen/Qwen2.5-VL-7B-Instruct": "7b-random"}


def load_config(model: str | Path) -> Any:
    """The configuration of a local folder or of a published model; nothing is fetched.

    Raises:
        ValueError: neither.
    """
    from transformers import AutoConfig

    if Path(model).is_dir():
        try:
            return AutoConfig.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{model}: no usable config.json: {' '.join(str(error).split())[:200]}"
            ) from None
    if str(model) in HUB:
        from types import SimpleNamespace

        from repic_core.benchmark_models import _config

        # the config's sizes are what counts; token ids are not
        tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda _: 0, eos_token_id=0, pad_token_id=0)
        return _config(HUB[str(model)], tokenizer)
    if str(model) == "Qwen/Qwen3-VL-8B-Instruct":  # its config.json
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
    known = ", ".join([*HUB, "Qwen/Qwen3-VL-8B-Instruct"])
    raise ValueError(f"{model}: no such folder, and not a model whose sizes are known here ({known})")


def photo_tokens(config: Any, side: int, max_pixels: int | None = None) -> int:
    """Image tokens of a square photo of `side` pixels, as Qwen's processor resizes it.

    Raises:
        ValueError: `side` is no positive number.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    if side < 1:
        raise ValueError(f"side: {side} must be a positive number of pixels")
    factor = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    limit = max_pixels or 16384 * factor**2  # the processors' own
    height, width = smart_resize(side, side, factor, min_pixels=4 * factor**2, max_pixels=limit)
    return height * width // factor**2


def text_tokens(references: int) -> int:
    """Tokens of the published prompt's text, about: its characters over `WORDS`, and 30 for the chat template."""
    from repic_core.concepts import Concept
    from repic_core.prompts import caption_problem

    concepts = [Concept(name=f"concept {i}", image="photo.png", info=INFO) for i in range(references)]
    return 30 + 4 * (references + 1) + len(str(caption_problem(concepts, "Describe this image."))) // WORDS
