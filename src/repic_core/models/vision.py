"""Qwen's vision towers without flash-attn, in a few large calls instead of many small ones.

The sdpa path of `transformers` makes one attention call per image and, in Qwen2.5-VL, per 112-pixel window. Windows
of equal length are independent, so here they are rows of one batch and take one call. The Conv3d patch embedding,
whose stride equals its kernel, becomes one matrix product. The results are the same (up to 2e-6 in fp32);
`tests/models/test_vision.py` compares them with the stock ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any


def _attention_forward(
    self: Any, hidden_states: Any, cu_seqlens: Any, position_embeddings: Any = None, **kwargs: Any
) -> Any:
    """Replaces the ``forward`` of the vision attention, which is the same in the three families.

    `hidden_states` has the shape (patches, hidden).
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    n = hidden_states.shape[0]
    q, k, v = self.qkv(hidden_states).reshape(n, 3, self.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    starts, lengths = cu_seqlens[:-1], cu_seqlens[1:] - cu_seqlens[:-1]
    order, outputs = [], []
    for length in lengths.unique().tolist():
        rows = starts[lengths == length]
        index = (rows[:, None] + torch.arange(length, device=rows.device)).reshape(-1)

        def heads(x: Any, index: Any = index, shape: tuple = (len(rows), length)) -> Any:
            return x[index].view(*shape, self.num_heads, -1).transpose(1, 2)

        out = scaled_dot_product_attention(heads(q), heads(k), heads(v), scale=self.scaling)
        order.append(index)
        outputs.append(out.transpose(1, 2).reshape(len(index), -1))
    index = torch.cat(order)
    return self.proj(torch.cat(outputs)[torch.argsort(index)])


def _patch_embed_forward(self: Any, hidden_states: Any) -> Any:
    """Replaces the ``forward`` of the patch embedding.

    `hidden_states` has the shape (patches, 3 * 2 * patch size**2).
    """
    import torch

    if type(self.proj) is not torch.nn.Conv3d:  # an adapter wraps it
        return type(self).forward(self, hidden_states)
    weight = self.proj.weight
    return torch.nn.functional.linear(
        hidden_states.to(weight.dtype), weight.reshape(weight.shape[0], -1), self.proj.bias
    )


def runs_kernel(attn: str | None) -> bool:
    """Whether an attention implementation is flash-attn or a ready-made kernel, which is batched already.

    >>> runs_kernel("flash_attention_2"), runs_kernel("kernels-community/flash-attn2"), runs_kernel("sdpa")
    (True, True, False)
    """
    return attn is not None and ("flash" in attn or "/" in attn)


def use_batched_vision(model: Any) -> Any:
    """Let the vision tower of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL use the batched path, in place; returns `model`.

    Other towers are not changed, nor is attention that runs a kernel of its own (`runs_kernel`).
    """
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
    from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2
    from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3

    attentions = (qwen2.VisionAttention, qwen2_5.Qwen2_5_VLVisionAttention, qwen3.Qwen3VLVisionAttention)
    embeddings = (qwen2.PatchEmbed, qwen2_5.Qwen2_5_VisionPatchEmbed, qwen3.Qwen3VLVisionPatchEmbed)
    for module in model.modules():
        if isinstance(module, attentions):
            if not runs_kernel(module.config._attn_implementation):
                module.forward = MethodType(_attention_forward, module)
        elif isinstance(module, embeddings):
            module.forward = MethodType(_patch_embed_forward, module)
    return model


def image_features(model: Any, pixel_values: Any, image_grid_thw: Any) -> Any:
    """The vision tower's output for all images, as the model's ``mm_encoder_outputs["image"]`` takes it."""
    import torch

    with torch.no_grad():
        return model.model.get_image_features(pixel_values, image_grid_thw, return_dict=True)


def select_features(features: Any, images: Sequence[int]) -> Any:
    """The features of these images, in this order."""
    chosen = type(features)(pooler_output=tuple(features.pooler_output[i] for i in images))
    layers = getattr(features, "deepstack_features", None)
    if layers is not None:  # Qwen3-VL
        chosen.deepstack_features = [tuple(layer[i] for i in images) for layer in layers]
    return chosen
