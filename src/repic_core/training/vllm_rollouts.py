"""Captions from vLLM: what TRL leaves out.

Photo tokens are never sampled, a server that resizes photos in another way is named, and sending the weights leaves
the model as it was.
"""

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


def keep_base(generation: Any) -> None:
    """Let `generation` put back the base's weights after it sent them.

    PEFT adds the adapter to them for that and subtracts it again, which rounds them each time. Needs memory for a
    copy of the layers that have an adapter, while weights are sent.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    send = generation.sync_weights

    def sent() -> None:
        layers = [m.get_base_layer() for m in generation.model.modules() if isinstance(m, BaseTunerLayer)]
        kept = [(layer.weight, layer.weight.detach().clone()) for layer in layers]
        send()
        with torch.no_grad():
            for weight, value in kept:
                weight.copy_(value)

    generation.sync_weights = sent
