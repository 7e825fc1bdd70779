"""A group's prompt computed once: the packed forward pass, and the rollout that expands one prefilled cache.

A GRPO group is one prompt with G completions. Here a group is one row,

    prompt without its last token | last token, c_1 without its last | ... | last token, c_G without its last

in which every segment sees the prompt and itself only, and its positions go on from the prompt's. Each position of
a segment then predicts exactly one token of its completion, so P - 1 + G * C tokens are computed instead of
G * (P + C). Completions of different length cost what they are long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # tests/test_shared_prefix.py proves the pass for each


@dataclass(frozen=True)
class Packed:
    """`n` groups as rows of `L` tokens, padded on the right.

    input_ids (n, L); position_ids (3, n, L), of Qwen's rope; segments (n, L): 0 for the prompt, 1.. for the
    completions, -1 for padding; rows, columns, labels (T,): where each of the T completion tokens is predicted,
    and the token, in the order of the completions.
    """

    input_ids: Any
    position_ids: Any
    segments: Any
    rows: Any
    columns: Any
    labels: Any


def pack(
    prompts: Sequence[Any], positions: Sequence[Any], completions: Sequence[Any], prompt_index: Sequence[int]
) -> Packed:
    """Pack completions after their prompts.

    Args:
        prompts: token ids without padding, (P_i,) each, at least two tokens.
        positions: rope positions (3, P_i) of each prompt; the last token is text.
        completions: token ids without padding, (C_j,) each; may be empty.
        prompt_index: for each completion, its prompt.
    """
    import torch

    device = prompts[0].device
    ids = [[prompt[:-1]] for prompt in prompts]
    places = [[position[:, :-1]] for position in positions]
    segments = [[torch.zeros(len(prompt) - 1, dtype=torch.long, device=device)] for prompt in prompts]
    used = [len(prompt) - 1 for prompt in prompts]
    rows, columns = [], []
    for completion, row in zip(completions, prompt_index, strict=True):
        length = len(completion)
        ids[row].append(torch.cat([prompts[row][-1:], completion[:-1]]) if length else completion)
        places[row].append(positions[row][:, -1:] + torch.arange(length, device=device))
        segments[row].append(torch.full((length,), len(ids[row]) - 1, device=device))
        rows.append(torch.full((length,), row, device=device))
        columns.append(used[row] + torch.arange(length, device=device))
        used[row] += length
    longest = max(used)

    def padded(parts: list[list[Any]], value: int) -> Any:
        joined = [torch.cat(part, dim=-1) for part in parts]
        return torch.stack(
            [torch.nn.functional.pad(row, (0, longest - row.shape[-1]), value=value) for row in joined],
            dim=-2,
        )

    return Packed(
        padded(ids, 0),
        padded(places, 0),
        padded(segments, -1),
        torch.cat(rows),
        torch.cat(columns),
        torch.cat(list(completions)),
    )


def group_mask(segments: Any) -> Any:
    """(n, 1, L, L) bool: which keys each query sees. Padding sees itself, so that no row of it is empty."""
    import torch

    query, key = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=segments.device)
    return (causal & ((key == 0) | (key == query)) & (key >= 0) | own)[:, None]


def rope_positions(
    model: Any, input_ids: Any, attention_mask: Any, fields: dict[str, Any]
) -> tuple[Any, Any]:
    """Qwen's rope positions (3, n, L) of padded prompts, and by how much they lag behind the token count (n, 1).

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


def image_features(model: Any, pixel_values: Any, image_grid_thw: Any) -> Any:
    """The vision tower's output for all images, as the model's ``mm_encoder_outputs["image"]`` takes it."""
    import torch

    with torch.no_grad():
        return model.model.get_image_features(pixel_values, image_grid_thw, return_dict=True)


def select_features(features: Any, images: Sequence[int]) -> Any:
    """Features of some of the images, in that order."""
    chosen = type(features)(pooler_output=tuple(features.pooler_output[i] for i in images))
    layers = getattr(features, "deepstack_features", None)
    if layers is not None:  # Qwen3-VL
        chosen.deepstack_features = [tuple(layer[i] for i in images) for layer in layers]
    return chosen


def packed_log_probs(model: Any, packed: Packed, images: dict[str, Any]) -> tuple[Any, Any]:
    """Log-probability and entropy (T,) of each completion token, in the order of the completions.

    Args:
        model: a model with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), or a wrapper of one.
        images: ``mm_encoder_outputs``, or ``pixel_values`` and ``image_grid_thw``; empty without images.

    The language model's head sees the completions' positions only: a hook takes them from the last hidden state.
    """
    backbone = conditional_model(model).base_model
    mask = group_mask(packed.segments)

    def at_completions(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[packed.rows, packed.columns][None]
        return output

    hook = backbone.register_forward_hook(at_completions)
    try:
        with dense_attention(backbone.language_model, mask) as mask:
            output = model(
                input_ids=packed.input_ids,
                attention_mask=mask,  # 4-D: taken as it is
                position_ids=packed.position_ids,
                shift_labels=packed.labels[None],
                fused_lm_head=True,
                **images,
            )
    finally:
        hook.remove()
    return output.log_probs[0], None if output.entropy is None else output.entropy[0]


def conditional_model(model: Any) -> Any:
    """The ``...ForConditionalGeneration`` model within wrappers (DDP, PEFT)."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def dense_attention(language_model: Any, mask: Any) -> Iterator[Any]:
    """Attention that takes a 4-D mask: eager's is added, sdpa's is bool; flash-attn has none, so sdpa runs."""
    import torch

    config = language_model.config
    before = config._attn_implementation
    if before == "eager":
        dtype = language_model.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(dtype).min
        )
    elif before != "sdpa":
        config._attn_implementation = "sdpa"
    try:
        yield mask
    finally:
        config._attn_implementation = before


@contextmanager
def shared_generate(model: Any, prompt_index: Sequence[int], features: Any = None) -> Iterator[None]:
    """Within: ``model.generate`` prefills each prompt once and goes on from the expanded cache.

    Args:
        model: what `generate` is called on (a model or its PEFT wrapper).
        prompt_index: for each row of ``input_ids``, its prompt; the image fields (``pixel_values``,
            ``image_grid_thw``, ``mm_token_type_ids``) hold each prompt once.
        features: the images' features, instead of ``pixel_values``.

    The result is that of the stock call: same greedy tokens, and as many draws of random numbers.
    """
    import torch

    generate = model.generate
    index = torch.tensor(prompt_index)
    first = torch.tensor([prompt_index.index(i) for i in range(max(prompt_index) + 1)])

    def expanded(
        self: Any, input_ids: Any, attention_mask: Any, generation_config: Any, **fields: Any
    ) -> Any:
        whole = conditional_model(self)
        ids, mask = input_ids[first], attention_mask[first]
        positions, deltas = rope_positions(whole, ids, mask, fields)
        images: dict[str, Any] = {"mm_encoder_outputs": {"image": features}}
        if features is None:
            images = {k: fields[k] for k in ("pixel_values", "image_grid_thw") if k in fields}
        cache = whole.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[..., :-1],
            use_cache=True,
            **images,
        ).past_key_values
        rows = index.to(ids.device)
        cache.batch_select_indices(rows)
        whole.model.rope_deltas = deltas[rows]
        return generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            generation_config=generation_config,
        )

    model.generate = MethodType(expanded, model)
    try:
        yield
    finally:
        del model.generate
