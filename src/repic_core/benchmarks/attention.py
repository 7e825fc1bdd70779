"""Three ways to compute the attention of a packed row: one dense mask, `flex_attention`, and prompts and segments
(`shared_prefix.group_attention`, which the trainer uses).

The row has the preset's shape, values are random. Seconds are those of one layer, forward and, on a GPU, backward
(`flex_attention` has no backward pass on a CPU).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from repic_core.benchmarks.presets import PRESETS
from repic_core.benchmarks.training_step import timed
from repic_core.models.sizes import qwen2_5_vl_config, sized_config
from repic_core.planning.settings import photo_tokens, text_tokens
from repic_core.toyworld.photos import REFERENCE_SIDE, SCENE_SIDE
from repic_core.training.shared_prefix import group_attention, pack


def run(preset: str, repeats: int = 5) -> dict[str, Any]:
    """Median seconds of each way, and the largest difference of its output to that of the dense mask."""
    import torch

    sizes, cuda = PRESETS[preset], torch.cuda.is_available()
    config = sized_config("assets/toy-base") if preset == "toy" else qwen2_5_vl_config(preset)
    text = config.get_text_config()
    photos = photo_tokens(config, sizes["side"] or REFERENCE_SIDE) * sizes["references"]
    photos += photo_tokens(config, sizes["side"] or SCENE_SIDE)
    prompt = text_tokens(sizes["references"]) + photos
    layout = _layout(sizes, prompt, "cuda" if cuda else "cpu")
    tokens = sizes["prompts"] * (prompt - 1) + sizes["prompts"] * sizes["generations"] * sizes["completion"]
    width = text.hidden_size // text.num_attention_heads
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(
            1,
            heads,
            tokens,
            width,
            device="cuda" if cuda else "cpu",
            dtype=torch.bfloat16 if cuda else torch.float32,
            requires_grad=cuda,
        )
        for heads in (text.num_attention_heads, text.num_key_value_heads, text.num_key_value_heads)
    )
    sees = _sees(layout, tokens)
    ways = {
        "dense mask": _dense(sees, tokens, query.device),
        "flex_attention": _flex(sees, tokens, query.device, cuda),
        "prompts and segments": lambda q, k, v: group_attention(q, k, v, layout, width**-0.5),
    }
    found: dict[str, Any] = {"prompt": prompt, "tokens": tokens, "ways": {}}
    right = None
    for name, way in ways.items():
        out = _once(way, query, key, value)[1].float()
        right = out if right is None else right
        spent = [_once(way, query, key, value)[0] for _ in range(repeats)]
        error = (out - right).abs().max().item()
        found["ways"][name] = {"seconds": statistics.median(spent), "difference": error}
    return found


def _layout(sizes: dict[str, int], prompt: int, device: str) -> Any:
    import torch

    index = [i for i in range(sizes["prompts"]) for _ in range(sizes["generations"])]
    ids = torch.zeros(prompt, dtype=torch.long, device=device)
    said = torch.zeros(sizes["completion"], dtype=torch.long, device=device)
    places = torch.zeros(3, prompt, dtype=torch.long, device=device)
    count = sizes["prompts"]
    return pack([ids] * count, [places] * count, [said] * len(index), index).layout


def _sees(layout: Any, tokens: int) -> Callable[..., Any]:
    """Whether token `q` of the packed row sees token `k`: earlier, of its prompt, or of its own segment."""
    import torch

    prompt_of = torch.zeros(tokens, dtype=torch.long, device=layout.prompt_index.device)
    segment_of = prompt_of - 1
    prompts, segments = layout.prompt_tokens, layout.segment_tokens
    numbers = torch.arange(max(len(prompts), len(segments)), device=prompt_of.device)
    prompt_of[prompts] = numbers[: len(prompts), None]
    prompt_of[segments] = layout.prompt_index[:, None]
    segment_of[segments] = numbers[: len(segments), None]

    def sees(batch: Any, head: Any, q: Any, k: Any) -> Any:
        mine = (segment_of[k] < 0) | (segment_of[k] == segment_of[q])
        return (k <= q) & (prompt_of[k] == prompt_of[q]) & mine

    return sees


def _dense(sees: Callable[..., Any], tokens: int, device: Any) -> Callable[..., Any]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    place = torch.arange(tokens, device=device)
    mask = sees(None, None, place[:, None], place[None])

    def attend(q: Any, k: Any, v: Any) -> Any:
        copies = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(copies, 1), v.repeat_interleave(copies, 1)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    return attend


def _flex(sees: Callable[..., Any], tokens: int, device: Any, compiled: bool) -> Callable[..., Any]:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(sees, None, None, tokens, tokens, device=str(device))
    flex = torch.compile(flex_attention) if compiled else flex_attention
    return lambda q, k, v: flex(q, k, v, block_mask=mask, enable_gqa=True).transpose(1, 2)


def _once(way: Callable[..., Any], *inputs: Any) -> tuple[float, Any]:
    """Seconds of a forward pass, and of a backward pass where gradients are wanted; and the output."""

    def work() -> Any:
        out = way(*inputs)
        if out.requires_grad:
            out.float().sum().backward()
        return out.detach()

    return timed(work)
