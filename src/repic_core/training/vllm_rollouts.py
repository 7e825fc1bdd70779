"""Captions from vLLM: photo tokens are never sampled, and a server that resizes photos in another way is named."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def ban_tokens(generation: Any, tokens: Iterable[int]) -> None:
    """Let `generation`, TRL's `VLLMGeneration`, never sample `tokens`; its other logit biases stay."""
    known = generation.generation_kwargs.get("logit_bias") or {}
    generation.generation_kwargs["logit_bias"] = known | {token: -100.0 for token in tokens}


def check_photo_sizes(generation: Any, image_processor: Any) -> None:
    """Let `generation` compare each photo's number of tokens on the server with `image_processor`'s.

    vLLM itself answers with an internal error.

    Raises:
        ValueError: (when captions are asked for) they differ; says how the server must be started.
    """
    place = generation._place_features

    def checked(features: dict[str, Any] | None, prompt_ids: list[int]) -> dict[str, Any] | None:
        placed = place(features, prompt_ids)
        if placed is None:
            return None
        theirs, ours = (
            [run["length"] for run in found["mm_placeholders"]["image"]] for found in (features, placed)
        )
        if theirs != ours:
            size = {name: image_processor.size[name] for name in ("shortest_edge", "longest_edge")}
            raise ValueError(
                f"the vLLM server makes {theirs} tokens of a prompt's photos, the trainer {ours}: start the server "
                f"with --mm-processor-kwargs '{json.dumps({'size': size})}'"
            )
        return placed

    generation._place_features = checked
