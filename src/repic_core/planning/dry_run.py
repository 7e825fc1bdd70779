"""A GRPO step on tensors without data: what each phase needs, counted from the tensors that its own code makes.

The model, its adapter and the packed pass are the real ones (`prepare_tuning`, PEFT, `packed_log_probs`, TRL's
fused head, autograd and checkpointing); only the numbers are missing (`torch._subclasses.FakeTensorMode`). So no
term is fitted: a tensor counts from the operation that makes it until nothing holds it. Seen are the operations of
a CPU; a GPU differs in its kernels' scratch space, and in the head, whose Triton kernel needs none (`gpu`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from repic_core.models.parts import conditional_model
from repic_core.planning.live_bytes import WORK, LiveBytes
from repic_core.training.recipe import TuneArguments, prepare_tuning
from repic_core.training.shared_prefix import Packed, pack, packed_log_probs

KEPT = "kept for the backward pass"
GRADIENTS, CACHE, MASKS = "gradients", "KV cache", "masks of the packed row"
PHOTOS, FEATURES, TOWER = "photos' patches", "photos' features", "tower's checkpoints"


@dataclasses.dataclass(frozen=True)
class Step:
    """One GPU's share of a step: a policy pass takes `prompts` of `prompt` tokens (`photos` of them of images),
    each with `generations` completions of `completion` tokens; the rollout has the rows of `rounds` passes, in
    groups of `group` (0: `generations`) completions."""

    prompts: int
    prompt: int
    photos: int
    generations: int
    completion: int
    rounds: int = 1
    group: int = 0
    bf16: bool = True
    checkpointing: bool = False
    reference: bool = True  # the KL term's pass
    rollout: bool = True  # captions are made by this process, not by vLLM
    accumulates: bool = False  # gradients of earlier passes are there while a pass runs
    gpu: bool = True
    shared_features: bool = True  # photos are encoded once for all phases; not with DeepSpeed or FSDP

    @property
    def rollout_prompts(self) -> int:
        rows = self.prompts * self.generations * self.rounds
        return -(-rows // (self.group or self.generations))


def build(config: Any, tune: TuneArguments, bf16: bool, four_bits: bool = False) -> Any:
    """The model of `config` with what `tune` asks for, on the meta device: parameters without data."""
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl.trainer.utils import add_fused_lm_head

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16 if bf16 else torch.float32, attn_implementation="sdpa"
        )
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        # images are limited elsewhere: there is no processor here
        adapter = prepare_tuning(model, None, dataclasses.replace(tune, max_pixels=None))
        if adapter is not None:
            model = get_peft_model(model, adapter)
    if four_bits:  # TRL: the adapter of a quantised base is bf16
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return model.train()


def peaks(model: Any, step: Step) -> dict[str, dict[str, int]]:
    """Bytes that each phase needs at its peak beside the parameters and the optimizer, by what they are.

    model: from `build`; its parameters become fake tensors.
    """
    real = _packed(step)
    with FakeTensorMode() as mode, _no_scratch() if step.gpu else nullcontext():
        _to_fake(model)
        found = {"photos": _photos(model, step)} if step.photos else {}
        features = found.get("photos", {}).get(FEATURES, 0)
        patches = found.get("photos", {}).get(PHOTOS, 0)
        if step.rollout:
            found["rollout"] = _rollout(model, step)
        packed = _on(mode, real)
        if step.reference:
            found["reference"] = _pass(model, step, packed, gradients=False)
        if step.checkpointing:
            conditional_model(model).gradient_checkpointing_enable({"use_reentrant": False})
            if hasattr(model, "peft_config"):
                model.enable_input_require_grads()
        found["policy"] = _pass(model, step, packed, gradients=True)
        if step.checkpointing and not step.shared_features and hasattr(model, "peft_config"):
            # `enable_input_require_grads` reaches the tower too, which keeps each block's input
            visual = conditional_model(model).model.visual
            width = visual.blocks[0].attn.qkv.in_features * conditional_model(model).dtype.itemsize
            patches_of_pass = step.prompts * step.photos * visual.config.spatial_merge_size**2
            found["policy"][TOWER] = len(visual.blocks) * patches_of_pass * width
    for name, terms in found.items():
        terms[PHOTOS] = patches * _copies_of_patches(name, step.gpu)
        terms[FEATURES] = features
    return found


def _copies_of_patches(phase: str, gpu: bool) -> int:
    """Photos: those selected for the tower; reference: the batch's and the part's; later: the part's. A CPU also
    holds the processor's own, which are the batch's there."""
    return {"photos": 1, "rollout": 0 if not gpu else 1, "reference": 1 if not gpu else 2}.get(phase, 1) + (
        not gpu
    )


def _photos(model: Any, step: Step) -> dict[str, int]:
    """Patches to features, without gradient; one block of the tower is run, since all have the same shapes."""
    visual = conditional_model(model).model.visual
    config = visual.config
    n = step.rollout_prompts * step.photos * config.spatial_merge_size**2
    sizes = config.in_channels * config.temporal_patch_size * config.patch_size**2
    block = visual.blocks[0]
    block.attn.forward = lambda hidden, position_embeddings, **_: _tower_attention(
        block.attn, hidden, position_embeddings, step
    )
    live = _tracker(model)
    with live, torch.no_grad(), _autocast(step):
        live.label = PHOTOS
        pixels = torch.empty(n, sizes)
        live.label = WORK
        hidden = visual.patch_embed(pixels)
        head = hidden.shape[1] // block.attn.num_heads
        places = torch.empty(n, head), torch.empty(n, head)
        hidden = block(hidden, cu_seqlens=None, position_embeddings=places)
        layers = 1 + len(getattr(config, "deepstack_visual_indexes", ()))
        features = [visual.merger(hidden) for _ in range(layers)]
    return dict(live.at_peak) | {FEATURES: sum(f.nbytes for f in features)}


def _tower_attention(attention: Any, hidden: Any, places: Any, step: Step) -> Any:
    """`vision._attention_forward` for photos of one size."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    n = len(hidden)
    q, k, v = attention.qkv(hidden).reshape(n, 3, attention.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *places)
    index = torch.empty(n, dtype=torch.long)
    q, k, v = (
        x[index].view(step.rollout_prompts, -1, attention.num_heads, x.shape[-1]).transpose(1, 2)
        for x in (q, k, v)
    )
    out = scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    return attention.proj(out.transpose(1, 2).reshape(n, -1)[index])


def _rollout(model: Any, step: Step) -> dict[str, int]:
    """The prompts' prefill, the cache expanded to all rows, and the last of the decoding steps."""
    n, length = step.rollout_prompts, step.prompt - 1
    rows, full = step.prompts * step.generations * step.rounds, step.prompt + step.completion - 2
    live = _tracker(model)
    with live, torch.no_grad():

        def forward(rows: int, tokens: int, seen: int, cache: Any) -> Any:
            # of four dimensions: taken as it is; one prompt alone has no padding, and then no mask is made
            mask = torch.empty(rows, 1, tokens, seen, dtype=torch.bool) if n > 1 else None
            return conditional_model(model)(
                input_ids=torch.empty(rows, tokens, dtype=torch.long),
                attention_mask=mask,
                position_ids=torch.empty(3, rows, tokens, dtype=torch.long),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )

        cache = forward(n, length, length, None).past_key_values
        for layer in cache.layers:
            live.see(layer.keys, CACHE), live.see(layer.values, CACHE)
        live.label = CACHE
        cache.batch_select_indices(torch.empty(rows, dtype=torch.long))
        for layer in cache.layers:
            for name in ("keys", "values"):
                _, heads, _, width = getattr(layer, name).shape
                setattr(layer, name, None)
                setattr(
                    layer, name, torch.empty(rows, heads, full, width, dtype=conditional_model(model).dtype)
                )
        live.label, update = WORK, cache.update

        def labelled(*args: Any, **kwargs: Any) -> Any:
            live.label = CACHE
            grown = update(*args, **kwargs)
            live.label = WORK
            return grown

        cache.update = labelled
        logits = forward(rows, 1, full + 1, cache).logits[:, -1].to(copy=True, dtype=torch.float32)
        scores = torch.where(logits > 0, logits, -torch.inf)  # suppressed tokens, top-k
        torch.softmax(scores, dim=-1)
    return live.at_peak


def _pass(model: Any, step: Step, packed: Packed, gradients: bool) -> dict[str, int]:
    """Log-probabilities of all completions; with gradients also the backward pass."""
    live = _tracker(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    disabled = model.disable_adapter if hasattr(model, "disable_adapter") else nullcontext
    hooks: list[Any] = []
    with live, ExitStack() as stack:
        layout = packed.layout
        for tensor in (*vars(layout).values(), packed.input_ids, packed.position_ids, packed.labels):
            live.see(tensor, MASKS)
        width = conditional_model(model).get_input_embeddings().weight
        gathered = [torch.empty(step.prompts * step.photos, width.shape[1], dtype=width.dtype)]
        live.see(gathered[0], FEATURES + " of the pass")
        if gradients:
            hooks = [
                p.register_post_accumulate_grad_hook(lambda p: live.see(p.grad, GRADIENTS)) for p in trained
            ]
            for parameter in trained if step.accumulates else ():
                live.label = GRADIENTS
                parameter.grad = torch.empty_like(parameter)
            live.label = WORK
        else:
            stack.enter_context(torch.no_grad())
            stack.enter_context(disabled())
        with _autocast(step):
            log_probs, _ = packed_log_probs(model, packed, {})
        if gradients:
            live.keep(KEPT)
            log_probs.sum().backward()
    for hook in hooks:
        hook.remove()
    for parameter in trained:
        parameter.grad = None
    return live.at_peak


def _packed(step: Step) -> Packed:
    """`step`'s prompts and completions as one row, on the CPU: where its tokens stand decides the shapes."""
    prompt, said = torch.zeros(step.prompt, dtype=torch.long), torch.zeros(step.completion, dtype=torch.long)
    places = torch.zeros(3, step.prompt, dtype=torch.long)
    index = [i for i in range(step.prompts) for _ in range(step.generations)]
    return pack([prompt] * step.prompts, [places] * step.prompts, [said] * len(index), index)


def _tracker(model: Any) -> LiveBytes:
    config = conditional_model(model).config.get_text_config()
    return LiveBytes([*model.parameters(), *model.buffers()], config.vocab_size)


def _autocast(step: Step) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=step.bf16)


def _on(mode: FakeTensorMode, packed: Any) -> Any:
    """A dataclass of tensors as fake ones."""

    def fake(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return _on(mode, value)
        return mode.from_tensor(value)

    return type(packed)(**{name: fake(value) for name, value in vars(packed).items()})


def _to_fake(model: Any) -> None:
    """The parameters and buffers of a model on the meta device as fake tensors on the CPU, tied ones once."""
    seen: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and id(tensor) not in seen:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, torch.nn.Parameter):
                        fake = torch.nn.Parameter(fake, tensor.requires_grad)
                    seen[id(tensor)] = seen[id(fake)] = fake
                if tensor is not None:
                    store[name] = seen[id(tensor)]


@contextmanager
def _no_scratch() -> Iterator[None]:
    """Within: TRL's head folds a tile of logits in place, as its Triton kernels do; without Triton it copies it."""
    from trl.kernels import chunked_logprob as kernels

    own = kernels._forward_tile, kernels._backward_tile
    kernels._forward_tile = kernels._backward_tile = lambda *_, **__: None
    try:
        yield
    finally:
        kernels._forward_tile, kernels._backward_tile = own
