"""A stand-in for flash-attn's ready-made kernel: the package's functions, computed with PyTorch on any device."""

from types import SimpleNamespace

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "kernels-community/flash-attn2"


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    """Attention over (rows, tokens, heads, dimensions); a causal mask ends at the last key, as flash-attn's."""
    mask = None
    if causal:
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
        mask = mask.tril(k.shape[1] - q.shape[1])
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=softmax_scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
):
    """The same for rows of several lengths, packed one after the other as (tokens, heads, dimensions)."""
    out = torch.empty_like(q)
    places = [cu_seqlens_q[:-1], cu_seqlens_q[1:], cu_seqlens_k[:-1], cu_seqlens_k[1:]]
    for a, b, c, d in zip(*(x.tolist() for x in places), strict=True):
        row = flash_attn_func(
            q[None, a:b], k[None, c:d], v[None, c:d], softmax_scale=softmax_scale, causal=causal
        )
        out[a:b] = row[0]
    return out


def provide_kernel(monkeypatch) -> list[str]:
    """Let `transformers` find the stand-in instead of the package ``kernels``; the names that it asks for."""
    from transformers import modeling_flash_attention_utils
    from transformers.integrations import hub_kernels

    asked = []

    def get_kernel(name, **_):
        asked.append(name)
        if name != NAME:
            raise FileNotFoundError(f"no kernel {name}")
        return SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func)

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    return asked
