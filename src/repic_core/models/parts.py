"""Parts of a loaded model: the model inside its wrappers, its mode, the positions of its tokens, a hash of its
weights."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HASHED_VALUES = 65536  # per tensor, evenly spread; no tensor of the toy is larger, so all its values count

_held: Counter[Any] = Counter()  # modules that `eval_mode` took out of training mode, and by how many callers
_lock = threading.Lock()


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Context manager in which `model` is in eval mode; afterwards each of its modules has its own mode again.

    In training mode a caption would be drawn with dropout, and with activation checkpointing the layers drop their
    keys and values while decoding. Threads may overlap: the last one that leaves puts the modes back.
    """
    with _lock:
        mine = [module for module in model.modules() if module.training or module in _held]
        for module in mine:
            module.training = False
        _held.update(mine)
    try:
        yield
    finally:
        with _lock:
            _held.subtract(mine)
            for module in mine:
                if not _held[module]:
                    del _held[module]
                    module.training = True


def conditional_model(model: Any) -> Any:
    """The ``...ForConditionalGeneration`` model inside its wrappers (DDP, PEFT)."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def rope_positions(
    model: Any, input_ids: Any, attention_mask: Any, fields: dict[str, Any]
) -> tuple[Any, Any]:
    """Qwen's rope positions (3, n, L) of padded prompts, and how far they lag behind the token count (n, 1).

    Args:
        model: the ``...ForConditionalGeneration`` model.
        fields: ``image_grid_thw`` and ``mm_token_type_ids`` (n, L), or neither for prompts without images.
    """
    import torch

    if fields.get("image_grid_thw") is None:
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return positions.expand(3, -1, -1), torch.zeros_like(positions[:, :1])
    return model.model.get_rope_index(
        input_ids,
        mm_token_type_ids=fields["mm_token_type_ids"],
        image_grid_thw=fields["image_grid_thw"],
        attention_mask=attention_mask,
    )


def hash_weights(model: Any) -> str:
    """A hash of the weights and of how adapters are applied.

    It covers the name, shape and type of every tensor and up to `HASHED_VALUES` of its values, evenly spread: all
    values of the toy, about one in 200 of a 7B model (which takes about a second).
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        values = tensor.detach().reshape(-1)
        values = values[:: max(1, -(-values.numel() // HASHED_VALUES))].contiguous().cpu()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scaling", None), dict):  # a LoRA layer
            digest.update(f"{name} {module.scaling} {module.disable_adapters}".encode())
    return digest.hexdigest()
