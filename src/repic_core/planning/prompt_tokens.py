"""How many tokens a prompt has before there are photos, a tokenizer or a processor."""

from __future__ import annotations

from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.prompts import caption_problem

WORDS = 4  # characters of the prompt's text a token, as of English with Qwen's tokenizer; assumed
INFO = "x" * 120  # an info of a concept in the prompt, of the authors' length


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
    concepts = [Concept(name=f"concept {i}", image="photo.png", info=INFO) for i in range(references)]
    return 30 + 4 * (references + 1) + len(str(caption_problem(concepts, "Describe this image."))) // WORDS
