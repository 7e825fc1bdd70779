"""Qwen's vision towers without flash-attn, in few large calls instead of many small ones.

`transformers`' sdpa path runs one attention call per image and, in Qwen2.5-VL, 112-pixel window. Those of equal
length are independent rows of one batch, so they are grouped and attended in one call; and the Conv3d patch
embedding, whose stride equals its kernel, is one matrix product. The results are equal (fp32 within 2e-6), only
faster; `tests/models/test_vision.py` compares them with stock.
"""

from __future__ import annotations

from types import MethodType
from typing import Any


def _attention_forward(
    self: Any, hidden_states: Any, cu_seqlens: Any, position_embeddings: Any = None, **kwargs: Any
) -> Any:
    """Drop-in for the vision attentions' ``forward``, which is one in the three families; hidden_states
    (patches, hidden)."""
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
    """Drop-in for the patch embeddings' ``forward``; hidden_states (patches, 3 * 2 * patch**2)."""
    import torch

    if type(self.proj) is not torch.nn.Conv3d:  # an adapter sits on it
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
    """Give the vision tower of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL the batched path, in place; returns `model`.

    Other towers, and the attention of towers that run a kernel of their own (`runs_kernel`), stay as they are.
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
