"""Rollouts: the adapter in the weights while they run, and prompts and completions that leave (`rollout`).

That they are `generate`'s, token for token, is in test_shared_prefix.py.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from repic_core.models.loading import load_model
from repic_core.training.recipe import LORA_TARGETS
from repic_core.training.rollout import Decoding, adapter_merged


def with_adapter(base, dtype: torch.dtype = torch.float32, dropout: float = 0.0):
    model, _ = load_model(base)
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=LORA_TARGETS, lora_dropout=dropout, init_lora_weights=False, lora_alpha=8
    )
    return get_peft_model(model.to(dtype), config)


def logits(model):
    return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


def products(model) -> int:
    """How many products with a weight a forward pass makes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        logits(model)
    return sum(event.count for event in profiler.key_averages() if event.key == "aten::linear")


@torch.no_grad()
def test_a_merged_adapter_says_the_same_with_a_third_of_the_products(base):
    model = with_adapter(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apart, often = logits(model), products(model)
    with model.disable_adapter():
        plain = logits(model)
    with adapter_merged(model):
        together, seldom = logits(model), products(model)
    assert (apart - plain).abs().max() > 0.1
    assert torch.allclose(apart, together, atol=1e-4)
    layers = sum(name.endswith("lora_A.default.weight") for name in before)
    assert often - seldom == 2 * layers
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(logits(model), apart)


@torch.no_grad()
def test_the_adapter_is_apart_again_after_an_error(base):
    model = with_adapter(base)
    apart = logits(model)
    with pytest.raises(KeyboardInterrupt), adapter_merged(model):
        raise KeyboardInterrupt
    assert torch.equal(logits(model), apart)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"dtype": torch.bfloat16}, {"dropout": 0.1}])
def test_an_adapter_is_not_merged_where_that_would_change_it(base, settings):
    model = with_adapter(base, **settings).eval()
    with adapter_merged(model):
        inside = products(model)
    assert inside == products(model)


def test_completions_and_prompts_that_leave():
    """Attention by hand, for two groups of which one ends."""
    torch.manual_seed(0)
    heads, key_heads, width, longest = 4, 2, 8, 5
    in_prompt = torch.tensor([[False, False, True, True, True], [True] * 5])
    cache = DynamicCache()
    cache.update(*torch.randn(2, 2, key_heads, longest, width), 0)
    keys, values = cache.layers[0].keys, cache.layers[0].values
    decoding = Decoding(cache, in_prompt, torch.tensor([0, 1, 1, 0, 1]), length=3)
    rows, prompts = [0, 1, 2, 3, 4], [0, 1, 1, 0, 1]
    own: dict[int, list] = {row: [] for row in rows}
    for leave in ([], [0, 4], [3]):
        kept = [row for row in rows if row not in leave]
        if leave:
            decoding.keep(torch.tensor([row in kept for row in rows]))
        rows = kept
        query = torch.randn(len(rows), heads, 1, width)
        key, value = torch.randn(2, len(rows), key_heads, 1, width)
        found = decoding.attention(0, query, key, value, 0.3)
        decoding.step += 1
        for i, row in enumerate(rows):
            own[row].append((key[i, :, 0], value[i, :, 0]))
            seen = in_prompt[prompts[row]]
            k = torch.cat([keys[prompts[row]][:, seen], torch.stack([k for k, _ in own[row]], 1)], 1)
            v = torch.cat([values[prompts[row]][:, seen], torch.stack([v for _, v in own[row]], 1)], 1)
            k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
            weights = (query[i] @ k.transpose(1, 2) * 0.3).softmax(-1)
            assert torch.allclose((weights @ v)[:, 0], found[i, 0], atol=1e-5)
    assert decoding.prompts[0][0].shape[0] == 1  # the first prompt has left with its completions
