"""A GRPO step on tensors without data. In go a model from `build` and a `Step`; out come the bytes of each phase.

The model, its adapter and the packed pass are the real ones (`prepare_tuning`, PEFT, `packed_log_probs`, TRL's
fused head, autograd and checkpointing); only the numbers are missing (`torch._subclasses.FakeTensorMode`). So no
term is fitted: a tensor counts from the operation that makes it until nothing holds it. Seen are the operations of
a CPU; a GPU differs in its kernels' scratch space, and in the head, whose Triton kernel needs none (`Step.gpu`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from repic_core.models.parts import conditional_model
from repic_core.planning.live_bytes import LiveBytes
from repic_core.planning.settings import Step
from repic_core.training.recipe import TuneArguments, prepare_tuning
from repic_core.training.rollout import Decoding, adapter_merged
from repic_core.training.shared_prefix import (
    GroupLayout,
    Packed,
    pack,
    packed_log_probs,
    use_group_attention,
)

KEPT = "kept for the backward pass"
GRADIENTS, CACHE, MASKS = "gradients", "KV cache", "masks of the packed row"
MERGED = "weights with the adapter"
PHOTOS, FEATURES, TOWER = "photos' patches", "photos' features", "tower's checkpoints"
FEATURES_OF_PASS = FEATURES + " of the pass"
# How often the photos' patches are held: photos, those selected for the tower; reference, the batch's and the
# part's; policy, the part's. A CPU also holds the processor's own, which are the batch's there.
COPIES_ON_GPU = {"photos": 1, "rollout": 1, "reference": 2, "policy": 1}
COPIES_ON_CPU = {"photos": 2, "rollout": 1, "reference": 2, "policy": 2}


def build(config: Any, tune: TuneArguments, bf16: bool) -> Any:
    """The model of `config` with what `tune` asks for, on the meta device: parameters without data."""
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl.trainer.utils import add_fused_lm_head

    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        # images are limited elsewhere: there is no processor here
        adapter = prepare_tuning(model, None, dataclasses.replace(tune, min_pixels=None, max_pixels=None))
        if adapter is not None:
            model = get_peft_model(model, adapter)
    if tune.load_in_4bit:  # TRL: the adapter of a quantised base is bf16
        for parameter in trained(model):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.train()


def trained(model: Any) -> list[Any]:
    """The parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


def peaks(model: Any, step: Step) -> dict[str, dict[str, int]]:
    """Bytes that each phase needs at its peak beside the parameters and the optimizer, by what they are.

    model: from `build`; its parameters become fake tensors.
    """
    mode = FakeTensorMode()
    packed, decoding = _packed(mode, step), _decoding(mode, step)
    found = {}
    with mode, _no_scratch() if step.gpu else nullcontext():
        _make_fake(model)
        if step.photos:
            found["photos"] = _photos(model, step)
        if step.rollout:
            found["rollout"] = _rollout(model, step, decoding)
        if step.reference:
            found["reference"] = _reference(model, step, packed)
        found["policy"] = _policy(model, step, packed)
    photos = found.get("photos", {PHOTOS: 0, FEATURES: 0})
    patches, features = photos[PHOTOS], photos[FEATURES]
    copies = COPIES_ON_GPU if step.gpu else COPIES_ON_CPU
    for phase, terms in found.items():
        terms |= {PHOTOS: patches * copies[phase], FEATURES: features}
    return found


def _photos(model: Any, step: Step) -> dict[str, int]:
    """Patches to features, without gradient; one block of the tower is run, since all have the same shapes."""
    visual = conditional_model(model).model.visual
    config, block = visual.config, visual.blocks[0]
    n = step.rollout_prompts * step.photos * config.spatial_merge_size**2
    sizes = config.in_channels * config.temporal_patch_size * config.patch_size**2
    block.attn.forward = partial(_tower_attention, block.attn, step.rollout_prompts)
    with _counted(model) as live, torch.no_grad(), _autocast(step):
        with live.under(PHOTOS):
            pixels = torch.empty(n, sizes)
        hidden = visual.patch_embed(pixels)
        head = hidden.shape[1] // block.attn.num_heads
        places = torch.empty(n, head), torch.empty(n, head)
        hidden = block(hidden, cu_seqlens=None, position_embeddings=places)
        layers = 1 + len(getattr(config, "deepstack_visual_indexes", ()))
        features = [visual.merger(hidden) for _ in range(layers)]
    return live.at_peak | {FEATURES: sum(f.nbytes for f in features)}


def _tower_attention(attention: Any, rows: int, hidden: Any, position_embeddings: Any, **_: Any) -> Any:
    """`vision._attention_forward` for photos of one size, in as many `rows` as there are prompts."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    n = len(hidden)
    q, k, v = attention.qkv(hidden).reshape(n, 3, attention.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    index = torch.empty(n, dtype=torch.long)
    heads = attention.num_heads
    q, k, v = (x[index].view(rows, -1, heads, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    return attention.proj(out.transpose(1, 2).reshape(n, -1)[index])


def _rollout(model: Any, step: Step, decoding: Decoding) -> dict[str, int]:
    """The prompts' prefill, and the last of the decoding steps with all completions."""
    whole = conditional_model(model)
    use_group_attention(whole.base_model.language_model)
    prompts, length = step.rollout_prompts, step.prompt - 1
    rows = len(decoding.prompt_index)

    def forward(rows: int, tokens: int, masked: bool, **how: Any) -> Any:
        # a mask of four dimensions is taken as it is; one prompt alone has no padding, and then none is made
        mask = torch.empty(rows, 1, tokens, tokens, dtype=torch.bool) if masked else None
        return whole(
            input_ids=torch.empty(rows, tokens, dtype=torch.long),
            attention_mask=mask,
            position_ids=torch.empty(3, rows, tokens, dtype=torch.long),
            logits_to_keep=1,
            **how,
        )

    with _counted(model) as live, torch.no_grad(), ExitStack() as stack:
        with live.under(MERGED):
            stack.enter_context(adapter_merged(model))
        cache = forward(prompts, length, prompts > 1, use_cache=True).past_key_values
        decoding.prompts = [(layer.keys, layer.values) for layer in cache.layers]
        for tensor in (tensor for pair in decoding.prompts for tensor in pair):
            live.see(tensor, CACHE)
        with live.under(CACHE):
            for layer in cache.layers:
                shape = rows, layer.keys.shape[1], decoding.length, layer.keys.shape[3]
                decoding.own.append(
                    (torch.empty(shape, dtype=whole.dtype), torch.empty(shape, dtype=whole.dtype))
                )
        logits = forward(rows, 1, True, use_cache=False, group_layout=decoding).logits[:, -1].float()
        scores = torch.where(logits > 0, logits, -torch.inf)  # suppressed tokens, top-k
        every = torch.ones_like(scores)
        every += scores.softmax(-1)
        torch.empty_like(every)  # what `multinomial` draws
    return live.at_peak


def _reference(model: Any, step: Step, packed: Packed) -> dict[str, int]:
    """Log-probabilities of all completions by the base model, without gradients."""
    base_only = model.disable_adapter if hasattr(model, "disable_adapter") else nullcontext
    with _counted(model) as live:
        _features = _see_inputs(live, model, step, packed)
        with torch.no_grad(), base_only(), _autocast(step):
            packed_log_probs(model, packed, {})
    return live.at_peak


def _policy(model: Any, step: Step, packed: Packed) -> dict[str, int]:
    """Log-probabilities of all completions, and the backward pass."""
    whole, has_adapter = conditional_model(model), hasattr(model, "peft_config")
    if step.checkpointing:
        whole.gradient_checkpointing_enable({"use_reentrant": False})
        if has_adapter:
            model.enable_input_require_grads()
    with _counted(model) as live:
        _features = _see_inputs(live, model, step, packed)
        for parameter in trained(model):
            parameter.register_post_accumulate_grad_hook(lambda p: live.see(p.grad, GRADIENTS))
            if step.accumulates:
                with live.under(GRADIENTS):
                    parameter.grad = torch.empty_like(parameter)
        with _autocast(step):
            log_probs, _ = packed_log_probs(model, packed, {})
        live.keep(KEPT)
        log_probs.sum().backward()
    found = live.at_peak
    if step.checkpointing and has_adapter and step.sharding != "none":
        # the tower runs in each pass, and `enable_input_require_grads` reaches it: each block's input is kept
        visual = whole.model.visual
        patches = step.prompts * step.photos * visual.config.spatial_merge_size**2
        width = visual.blocks[0].attn.qkv.in_features * whole.dtype.itemsize
        found[TOWER] = len(visual.blocks) * patches * width
    return found


def _see_inputs(live: LiveBytes, model: Any, step: Step, packed: Packed) -> Any:
    """Count what a pass takes: the packed row, and the features of its photos, which the caller holds."""
    for tensor in (*vars(packed.layout).values(), packed.input_ids, packed.position_ids, packed.labels):
        live.see(tensor, MASKS)
    weight = conditional_model(model).get_input_embeddings().weight
    features = torch.empty(step.prompts * step.photos, weight.shape[1], dtype=weight.dtype)
    live.see(features, FEATURES_OF_PASS)
    return features


def _counted(model: Any) -> LiveBytes:
    config = conditional_model(model).config.get_text_config()
    return LiveBytes([*model.parameters(), *model.buffers()], config.vocab_size)


def _autocast(step: Step) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=step.bf16)


def _decoding(mode: FakeTensorMode, step: Step) -> Decoding:
    """A rollout before its last step, whose keys and values are still to be made."""
    prompts, rows = step.rollout_prompts, step.prompts * step.generations * step.rounds
    in_prompt = torch.ones(prompts, step.prompt - 1, dtype=torch.bool)
    index = torch.arange(rows) // -(-rows // prompts)
    found = Decoding(SimpleNamespace(layers=[]), in_prompt, index, step.completion)
    for name in ("in_prompt", "prompt_index", "places", "slots"):
        setattr(found, name, mode.from_tensor(getattr(found, name)))
    found.step = step.completion - 1
    return found


def _packed(mode: FakeTensorMode, step: Step) -> Packed:
    """`step`'s prompts and completions as one row, packed with data: where its tokens are decides the shapes."""
    prompt, said = torch.zeros(step.prompt, dtype=torch.long), torch.zeros(step.completion, dtype=torch.long)
    places = torch.zeros(3, step.prompt, dtype=torch.long)
    index = [i for i in range(step.prompts) for _ in range(step.generations)]
    packed = pack([prompt] * step.prompts, [places] * step.prompts, [said] * len(index), index)
    layout = GroupLayout(*(mode.from_tensor(tensor) for tensor in vars(packed.layout).values()))
    row = (mode.from_tensor(tensor) for tensor in (packed.input_ids, packed.position_ids, packed.labels))
    return Packed(*row, layout)


def _make_fake(model: Any) -> None:
    """Replace a model's parameters and buffers by fake tensors on the CPU, tied ones by the same."""
    fakes: dict[Any, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in fakes:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, torch.nn.Parameter):
                        fake = torch.nn.Parameter(fake, tensor.requires_grad)
                    fakes[tensor] = fake
                tensors[name] = fakes[tensor]


@contextmanager
def _no_scratch() -> Iterator[None]:
    """Context manager in which TRL's head needs no scratch space, as its Triton kernels fold a tile of logits in
    place; without Triton it copies the tile."""
    from trl.kernels import chunked_logprob as kernels

    own = kernels._forward_tile, kernels._backward_tile
    kernels._forward_tile = kernels._backward_tile = lambda *_, **__: None
    try:
        yield
    finally:
        kernels._forward_tile, kernels._backward_tile = own
