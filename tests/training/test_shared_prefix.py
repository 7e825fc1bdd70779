"""The packed pass and the shared rollout against dense attention and against `generate`."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from trl import GRPOTrainer

from helpers.families import save_family
from helpers.stock import batch_of, log_probs, make
from repic_core.data.rows import read_rows, to_dataset
from repic_core.models.loading import load_model
from repic_core.models.vision import image_features
from repic_core.training import rollout, shared_prefix
from repic_core.training.trainer import SharedPrefixGRPOTrainer

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {family: save_family(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def dense_attention(query, key, value, layout, scaling, sees):
    """The same with one mask over the whole row: `sees`(query's segment, its prompt, key's segment, its prompt)."""
    prompts = (layout.prompt_tokens.flatten()[layout.prompt_places], layout.prompt_tokens.shape[1])
    kind = []  # of each token: (segment, or -1 for a prompt; prompt)
    kind += [(-1, int(place) // prompts[1]) for place in layout.prompt_places]
    longest = layout.segment_tokens.shape[1]
    kind += [(int(p) // longest, int(layout.prompt_index[int(p) // longest])) for p in layout.segment_places]
    mask = torch.tensor([[j <= i and sees(*a, *b) for j, b in enumerate(kind)] for i, a in enumerate(kind)])
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return out.transpose(1, 2)


def own_prompt_and_self(segment, prompt, other, its_prompt):
    return prompt == its_prompt and other in (-1, segment)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_attention_is_that_of_the_dense_mask(prompt_lengths, segments):
    """Also its gradients; for any lengths, including completions without a token."""
    index = torch.tensor([prompt % len(prompt_lengths) for prompt, _ in segments])
    layout = shared_prefix._layout(prompt_lengths, [length for _, length in segments], index)
    tokens = sum(prompt_lengths) + sum(length for _, length in segments)
    found = []
    for attention in (shared_prefix.group_attention, partial(dense_attention, sees=own_prompt_and_self)):
        torch.manual_seed(0)
        query, *rest = (torch.randn(1, heads, tokens, 8, requires_grad=True) for heads in (4, 2, 2))
        out = attention(query, *rest, layout, 0.3)
        (out * torch.randn(out.shape)).sum().backward()
        found.append((out, query.grad, *(x.grad for x in rest)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_completions_do_not_see_each_other(bases, data, tmp_path, monkeypatch):
    """With a mask that lets them, the log-probabilities differ."""
    own = make(SharedPrefixGRPOTrainer, bases["qwen2_5_vl"], data, tmp_path)
    batch = batch_of(own)
    with torch.no_grad():
        right = log_probs(own, batch)[0]
        for sees, same in ((own_prompt_and_self, True), (lambda s, p, other, its: p == its, False)):
            monkeypatch.setattr(shared_prefix, "group_attention", partial(dense_attention, sees=sees))
            assert ((log_probs(own, batch)[0] - right).abs().max() < 1e-4) == same


def test_half_precision_is_as_good_as_stocks(bases, data, tmp_path):
    errors = []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        found = make(kind, bases["qwen2_5_vl"], data, tmp_path)
        batch = batch_of(found)
        with torch.no_grad():
            exact = log_probs(found, batch)[0]
            with torch.autocast("cpu", torch.bfloat16):
                rounded = log_probs(found, batch)[0]
        errors.append((rounded - exact).abs().mean())
    assert 0 < errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_are_generates(bases, data, family, sampled):
    """Token for token, greedy and sampled, for prompts of mixed length and photos, given as photos or features."""
    model, processor = load_model(bases[family])
    rows = [to_dataset(read_rows(data / "rows.jsonl"), data, 0)[i] for i in (0, 1, 5, 9)]
    texts = [
        processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    once = processor(text=texts, images=[row["images"] for row in rows], padding=True, return_tensors="pt")
    index = [0, 0, 0, 1, 2, 2, 3, 1]
    every = processor(
        text=[texts[i] for i in index],
        images=[rows[i]["images"] for i in index],
        padding=True,
        return_tensors="pt",
    )
    banned = [model.config.image_token_id, model.config.video_token_id]
    # Sampled completions end with one token in sixteen, so that they leave the batch at different times.
    end = [processor.tokenizer.eos_token_id]
    if sampled:
        end = list(range(7, model.config.get_text_config().vocab_size, 16))
    config = GenerationConfig(
        max_new_tokens=24,
        do_sample=sampled,
        temperature=1.5 if sampled else None,
        suppress_tokens=banned,
        eos_token_id=end,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    torch.manual_seed(3)
    stock = model.generate(**every, generation_config=config)
    drawn = torch.rand(1)
    features = image_features(model, once["pixel_values"], once["image_grid_thw"])
    given = {name: once[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    for chosen in (None, features):
        torch.manual_seed(3)
        with rollout.shared_generate(model, index, chosen):
            shared = model.generate(
                input_ids=every["input_ids"],
                attention_mask=every["attention_mask"],
                generation_config=config,
                **given,
            )
        assert torch.equal(shared, stock) and torch.equal(torch.rand(1), drawn)
    completions = stock[:, every["input_ids"].shape[1] :]
    if sampled:
        ends = torch.isin(completions, torch.tensor(end)).int().argmax(1)
        assert len(set(ends.tolist())) > 3
    else:
        assert len({tuple(row.tolist()) for row in completions}) == len(set(index))
