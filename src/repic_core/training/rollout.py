"""The rollout of GRPO: each prompt's keys and values are computed once and kept once, for all of its completions.

A step of decoding feeds the last token of each unfinished completion. Its attention has two parts, over its prompt
(for all completions of a group in one product) and over its own tokens so far, under one softmax. So the cache
holds P + G * C tokens a group, not G * (P + C), and is never copied to grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

from repic_core.models.parts import conditional_model, rope_positions
from repic_core.training.shared_prefix import first_of_each, use_group_attention


class Decoding:
    """Keys and values of the prompts and of the completions so far; the `group_layout` of a decoding step.

    Args:
        prompts: the prefilled cache, of p prompts with at most P tokens each, padded on the left.
        in_prompt (p, P): which of them are tokens, not padding.
        prompt_index (n,): the prompt of each completion.
        length: most tokens of a completion.
    """

    def __init__(self, prompts: Any, in_prompt: Any, prompt_index: Any, length: int) -> None:
        self.prompts = [(layer.keys, layer.values) for layer in prompts.layers]
        self.own: list[tuple[Any, Any] | None] = [None] * len(self.prompts)
        self.in_prompt, self.length, self.step = in_prompt.bool(), length, 0
        self._group(prompt_index)

    def _group(self, prompt_index: Any) -> None:
        """Where each completion is among those of its prompt: `slots` (p, G) has the rows, 0 as padding, and
        `places` (n,) the way back."""
        import torch

        self.prompt_index = prompt_index
        prompts = torch.arange(len(self.in_prompt), device=prompt_index.device)
        is_mine = prompt_index == prompts[:, None]
        rank = (is_mine.cumsum(1) - 1)[
            prompt_index, torch.arange(len(prompt_index), device=prompt_index.device)
        ]
        widest = int(is_mine.sum(1).max())
        self.places = prompt_index * widest + rank
        self.slots = prompt_index.new_zeros(len(prompts) * widest)
        self.slots[self.places] = torch.arange(len(prompt_index), device=prompt_index.device)
        self.mask = None if self.in_prompt.all() else self.in_prompt[:, None, None]

    def keep(self, rows: Any) -> None:
        """Forget all completions but those of `rows` (a mask or indices), and prompts that have none left."""
        import torch

        prompts, index = torch.unique(self.prompt_index[rows], return_inverse=True)
        if len(prompts) < len(self.in_prompt):
            self.prompts = [(keys[prompts], values[prompts]) for keys, values in self.prompts]
            self.in_prompt = self.in_prompt[prompts]
        self.own = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.own]
        self._group(index)

    def attention(self, layer: int, query: Any, key: Any, value: Any, scaling: float) -> Any:
        """Attention of one token a completion, (n, heads, 1, width) -> (n, 1, heads, width)."""
        import torch

        n, heads, _, width = query.shape
        keys, values = self.prompts[layer]
        own_keys, own_values = self._extended(layer, key, value)
        query = query.view(n, key.shape[1], -1, width) * scaling
        of_prompt = self._by_prompt(query) @ keys.transpose(-1, -2)
        if self.mask is not None:
            of_prompt = of_prompt.masked_fill(~self.mask, -torch.inf)
        scores = torch.cat([self._by_row(of_prompt, query), query @ own_keys.transpose(-1, -2)], dim=-1)
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
        of_prompt, own = weights.split([keys.shape[2], own_keys.shape[2]], dim=-1)
        found = self._by_row(self._by_prompt(of_prompt) @ values, query) + own @ own_values
        return found.reshape(n, 1, heads, width)

    def _by_prompt(self, x: Any) -> Any:
        """Rows (n, heads, copies, ...) put together by their prompts, (p, heads, G * copies, ...)."""
        grouped = x.index_select(0, self.slots).view(len(self.in_prompt), -1, *x.shape[1:])
        return grouped.transpose(1, 2).flatten(2, 3)

    def _by_row(self, x: Any, query: Any) -> Any:
        """The way back, to the rows of `query`."""
        rows = x.unflatten(2, (-1, query.shape[2])).transpose(1, 2).flatten(0, 1)
        return rows.index_select(0, self.places)

    def _extended(self, layer: int, key: Any, value: Any) -> tuple[Any, Any]:
        """The completions' keys and values (n, heads, step + 1, width), those of this step included."""
        pair = self.own[layer]
        if pair is None:
            shape = (*key.shape[:2], self.length, key.shape[3])
            pair = self.own[layer] = (key.new_empty(shape), value.new_empty(shape))
        for kept, new in zip(pair, (key, value), strict=True):
            kept[:, :, self.step] = new[:, :, 0]
        return pair[0][:, :, : self.step + 1], pair[1][:, :, : self.step + 1]


def sample(
    model: Any,
    decoding: Decoding,
    positions: Any,
    input_ids: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
) -> Any:
    """The token ids (n, P + C) of prompts and completions, as `transformers` samples them.

    Finished completions are left out of the batch. Random numbers are drawn for them all the same, so that the
    samples are those of the stock loop.

    Args:
        model: the ``...ForConditionalGeneration`` model.
        positions (3, n): the rope positions of the prompts' last tokens.
        synced_gpus: go on until all processes have finished, since each forward pass needs all of them.
    """
    import torch

    n = len(input_ids)
    rows = torch.arange(n, device=input_ids.device)
    pad = generation_config.pad_token_id
    finished = False
    while model._has_unfinished_sequences(finished, synced_gpus, device=input_ids.device):
        logits = model(
            input_ids=input_ids[rows, -1:],
            position_ids=positions[:, rows, None] + decoding.step,
            # A mask of four dimensions is taken as it is; what counts is the layout.
            attention_mask=input_ids.new_ones(len(rows), 1, 1, 1, dtype=torch.bool),
            group_layout=decoding,
            use_cache=False,
            logits_to_keep=1,
        ).logits
        if finished:
            continue
        decoding.step += 1
        scores = logits_processor(input_ids[rows], logits[:, -1].float())
        if generation_config.do_sample:
            every = scores.new_ones(n, scores.shape[1])
            every[rows] = scores.softmax(-1)
            chosen = torch.multinomial(every, 1)[rows, 0]
        else:
            chosen = scores.argmax(-1)
        following = input_ids.new_full((n, 1), pad)
        following[rows, 0] = chosen
        input_ids = torch.cat([input_ids, following], dim=1)
        going = ~stopping_criteria(input_ids[rows], None)
        if not going.any():
            finished = True
        elif not going.all():
            rows = rows[going]
            decoding.keep(going)
    return input_ids


def _is_split(model: Any) -> bool:
    """Is the model split over processes (FSDP, ZeRO-3), so that all take part in each forward pass?"""
    from transformers.distributed.fsdp import is_fsdp_managed_module
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)


@contextmanager
def adapter_merged(model: Any) -> Iterator[None]:
    """Context manager in which an adapter's change is part of the weights: one product a layer instead of three.

    Afterwards the weights are what they were, to the bit. Only in float32, since a bfloat16 weight loses most of a
    small change, and without dropout, which would be drawn for each token; else nothing happens.
    """
    import torch
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if isinstance(module, Linear)]
    kept = [layer.get_base_layer().weight for layer in layers]
    dropouts = [dropout for layer in layers for dropout in layer.lora_dropout.values()]
    exact = all(weight.dtype == torch.float32 for weight in kept)
    if _is_split(model) or not exact or not all(isinstance(one, torch.nn.Identity) for one in dropouts):
        yield
        return
    values = [weight.data for weight in kept]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            weight.data = weight.data.clone()
            layer.merge()
            layer.forward = layer.get_base_layer().forward  # without PEFT's own checks
        yield
    finally:
        for layer, weight, value in zip(layers, kept, values, strict=True):
            vars(layer).pop("forward", None)
            layer.merged_adapters.clear()
            weight.data = value


@contextmanager
def shared_generate(model: Any, prompt_index: Sequence[int], features: Any = None) -> Iterator[None]:
    """Context manager in which ``model.generate`` computes each prompt once (`Decoding`, `sample`).

    Args:
        model: what `generate` is called on (a model or its PEFT wrapper).
        prompt_index: the prompt of each row of ``input_ids``; the image fields (``pixel_values``,
            ``image_grid_thw``, ``mm_token_type_ids``) hold each prompt once.
        features: the images' features, instead of ``pixel_values``.

    The result is that of the stock call: the same greedy tokens, and as many draws of random numbers.
    """
    import torch

    generate = model.generate
    index = torch.tensor(prompt_index)
    first = torch.tensor(first_of_each(prompt_index))

    def expanded(
        self: Any, input_ids: Any, attention_mask: Any, generation_config: Any, **fields: Any
    ) -> Any:
        whole = conditional_model(self)
        ids, mask = input_ids[first], attention_mask[first]
        positions, _ = rope_positions(whole, ids, mask, fields)
        images: dict[str, Any] = {"mm_encoder_outputs": {"image": features}}
        if features is None:
            images = {k: fields[k] for k in ("pixel_values", "image_grid_thw") if k in fields}
        cache = whole(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[..., :-1],
            use_cache=True,
            logits_to_keep=1,
            **images,
        ).past_key_values
        rows = index.to(ids.device)

        def decode(
            model: Any,
            input_ids: Any,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **_: Any,
        ) -> Any:
            decoding = Decoding(cache, mask[:, :-1], rows, stopping_criteria.max_length - input_ids.shape[1])
            return sample(
                whole,
                decoding,
                positions[:, rows, -1],
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                _is_split(whole),
            )

        use_group_attention(whole.base_model.language_model)
        return generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=generation_config,
            custom_generate=decode,
        )

    model.generate = MethodType(expanded, model)
    try:
        with adapter_merged(model):
            yield
    finally:
        del model.generate
