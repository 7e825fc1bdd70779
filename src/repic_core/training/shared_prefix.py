"""A group's prompt computed once: the packed forward pass (the rollout is `rollout`).

A GRPO group is one prompt with G completions. Here all groups of a batch are packed into one row:

    prompt_1 without its last token | prompt_2 ... | last token, c_1 without its last | ... | last token, c_n ...

A segment is a completion after its prompt's last token. It sees only its prompt and itself, and its positions
continue those of the prompt. Each position of a segment predicts exactly one token of its completion. So P - 1 +
G * C tokens are computed instead of G * (P + C), and a completion costs only its own length: nothing is padded
except the rows of the attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from repic_core.models.parts import conditional_model

GROUPED = "grouped_"  # put before the name of a model's own attention


@dataclass(frozen=True)
class GroupLayout:
    """Where the n prompts (at most P tokens each) and s segments (at most C) of a packed row are.

    prompt_tokens (n, P), segment_tokens (s, C): the columns of the row that hold their tokens; 0 as padding.
    prompt_places, segment_places: the place of each token of the row in these two, flattened.
    prompt_index (s,): each segment's prompt.
    mask (s, 1, C, P + C): what each token of a segment sees of its prompt and of its segment.
    """

    prompt_tokens: Any
    segment_tokens: Any
    prompt_places: Any
    segment_places: Any
    prompt_index: Any
    mask: Any


@dataclass(frozen=True)
class Packed:
    """Groups as one row of L tokens.

    input_ids (1, L); position_ids (3, 1, L), of Qwen's rope; labels (T,): the T tokens of the completions in their
    order, which are predicted at the row's last T positions.
    """

    input_ids: Any
    position_ids: Any
    labels: Any
    layout: GroupLayout


def pack(
    prompts: Sequence[Any], positions: Sequence[Any], completions: Sequence[Any], prompt_index: Sequence[int]
) -> Packed:
    """Pack prompts and completions into one row.

    Args:
        prompts: token ids without padding, (P_i,) each, at least two tokens.
        positions: rope positions (3, P_i) of each prompt; its last token is text.
        completions: token ids without padding, (C_j,) each; may be empty.
        prompt_index: the number of each completion's prompt.
    """
    import torch

    device = prompts[0].device
    ids = [prompt[:-1] for prompt in prompts]
    places = [position[:, :-1] for position in positions]
    for completion, prompt in zip(completions, prompt_index, strict=True):
        steps = torch.arange(len(completion), device=device)
        ids.append(torch.cat([prompts[prompt][-1:], completion])[:-1])
        places.append(positions[prompt][:, -1:] + steps)
    layout = _layout(
        [len(prompt) - 1 for prompt in prompts],
        [len(completion) for completion in completions],
        torch.tensor(prompt_index, device=device),
    )
    return Packed(
        torch.cat(ids)[None], torch.cat(places, dim=1)[:, None], torch.cat(list(completions)), layout
    )


def _layout(prompt_lengths: list[int], segment_lengths: list[int], prompt_index: Any) -> GroupLayout:
    import torch

    device = prompt_index.device

    def rows(lengths: list[int], start: int) -> tuple[Any, Any, Any]:
        """Columns (rows, longest) of tokens that begin at `start`; which of them are tokens; the tokens' places."""
        length = torch.tensor(lengths, device=device)
        step = torch.arange(max(1, *lengths), device=device)
        is_token = step < length[:, None]
        tokens = start + (length.cumsum(0) - length)[:, None] + step
        return tokens * is_token, is_token, is_token.flatten().nonzero().flatten()

    prompt_tokens, in_prompt, prompt_places = rows(prompt_lengths, 0)
    segment_tokens, _, segment_places = rows(segment_lengths, sum(prompt_lengths))
    longest = segment_tokens.shape[1]
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    of_prompt = in_prompt[prompt_index][:, None].expand(-1, longest, -1)
    mask = torch.cat([of_prompt, causal.expand(len(segment_lengths), -1, -1)], dim=-1)
    return GroupLayout(
        prompt_tokens, segment_tokens, prompt_places, segment_places, prompt_index, mask[:, None]
    )


def group_attention(query: Any, key: Any, value: Any, layout: GroupLayout, scaling: float) -> Any:
    """Attention of a packed row, (1, heads, L, width) -> (1, L, heads, width): first each prompt over itself, then
    each segment over its prompt and itself.

    So only what each completion needs is computed. With one mask over the whole row, whose cost is (P + G * C)
    squared, the benchmark's policy pass (preset ``cpu``) took 1.3 times as long, and 1.5 times with 32 completions.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    heads, width = query.shape[1], query.shape[3]
    copies = heads // key.shape[1]

    def rows(x: Any, tokens: Any) -> Any:
        """A packed `x` (1, heads, L, width) as (rows, heads, longest, width)."""
        found = x[0].transpose(0, 1).index_select(0, tokens.flatten())
        return found.view(*tokens.shape, *found.shape[1:]).transpose(1, 2)

    def flat(x: Any, places: Any) -> Any:
        return x.transpose(1, 2).reshape(-1, heads, width).index_select(0, places)

    q, k, v = (rows(x, layout.prompt_tokens) for x in (query, key, value))
    prompts = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=copies > 1)
    own_q, own_k, own_v = (rows(x, layout.segment_tokens) for x in (query, key, value))
    # Heads are copied, since CUDA has no fused kernel for a mask and grouped heads together.
    all_k, all_v = (
        torch.cat([x.index_select(0, layout.prompt_index), own], dim=2).repeat_interleave(copies, dim=1)
        for x, own in ((k, own_k), (v, own_v))
    )
    segments = scaled_dot_product_attention(own_q, all_k, all_v, attn_mask=layout.mask, scale=scaling)
    return torch.cat([flat(prompts, layout.prompt_places), flat(segments, layout.segment_places)])[None]


def use_group_attention(language_model: Any) -> None:
    """Let the attention of `language_model` take ``group_layout=``, a `GroupLayout` or `rollout.Decoding`; calls
    without it stay as they were.

    The new name stays in the configuration until the training ends (`run.make_ready`), because checkpointing calls
    the layers again in the backward pass.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = language_model.config
    if config._attn_implementation.startswith(GROUPED):
        return
    own = config._attn_implementation

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, group_layout: Any = None, **kwargs: Any
    ) -> tuple[Any, None]:
        if group_layout is None:
            eager = getattr(import_module(type(module).__module__), "eager_attention_forward", None)
            stock = ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)
            module.config._attn_implementation = own  # flash-attn's functions are looked up by this name
            try:
                return stock(module, query, key, value, mask, **kwargs)
            finally:
                module.config._attn_implementation = GROUPED + own
        if not isinstance(group_layout, GroupLayout):
            return group_layout.attention(module.layer_idx, query, key, value, kwargs["scaling"]), None
        return group_attention(query, key, value, group_layout, kwargs["scaling"]), None

    AttentionInterface.register(GROUPED + own, attention)
    AttentionMaskInterface.register(GROUPED + own, ALL_MASK_ATTENTION_FUNCTIONS[own])
    config._attn_implementation = GROUPED + own


def first_of_each(index: Sequence[int]) -> list[int]:
    """The first position of each of the numbers 0, 1, ... in `index`.

    >>> first_of_each([0, 0, 1, 0, 2])
    [0, 2, 4]
    """
    return [index.index(number) for number in range(max(index) + 1)]


def select_patches(pixel_values: Any, image_grid_thw: Any, images: Sequence[int]) -> Any:
    """The patches of these images, in this order."""
    import torch

    patches = pixel_values.split(image_grid_thw.prod(-1).tolist())
    return torch.cat([patches[i] for i in images])


def packed_log_probs(model: Any, packed: Packed, images: dict[str, Any]) -> tuple[Any, Any]:
    """Log-probability and entropy (T,) of each completion token, in the order of the completions.

    Args:
        model: a model with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), or a wrapper of one.
        images: ``mm_encoder_outputs``, or ``pixel_values`` and ``image_grid_thw``; empty without images.

    The language model's head gets only the completions' positions: a hook cuts them out of the last hidden state.
    """
    backbone = conditional_model(model).base_model
    use_group_attention(backbone.language_model)
    prompts = packed.input_ids.shape[1] - len(packed.labels)

    def at_completions(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, prompts:]
        return output

    hook = backbone.register_forward_hook(at_completions)
    try:
        output = model(
            input_ids=packed.input_ids,
            # A mask of four dimensions is taken as it is; what counts is the layout.
            attention_mask=packed.layout.mask[:1],
            group_layout=packed.layout,
            position_ids=packed.position_ids,
            shift_labels=packed.labels[None],
            fused_lm_head=True,
            **images,
        )
    finally:
        hook.remove()
    return output.log_probs[0], None if output.entropy is None else output.entropy[0]
