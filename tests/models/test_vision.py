"""The batched vision path equals stock transformers: outputs and gradients, windows and full attention."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.families import save_family
from repic_core.models.vision import use_batched_vision


def tower(full_attention, window=112):
    """A random Qwen2.5-VL vision tower with Qwen's own patch size (14) and 112-pixel windows."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=3,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=24,
        window_size=window,
        fullatt_block_indexes=full_attention,
        initializer_range=0.2,
    )
    config._attn_implementation = "sdpa"
    return Qwen2_5_VisionTransformerPretrainedModel(config)


def assert_close(one, two):
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-5 * max(1.0, one.abs().max().item()))


@pytest.mark.parametrize("full_attention", [[0, 1, 2], [1], []])
@pytest.mark.parametrize(
    "grids", [[(8, 8)], [(8, 8), (4, 6), (8, 8), (10, 14)], [(20, 22), (2, 2)], [(2, 30), (30, 2), (18, 16)]]
)
def test_tower_equals_stock(full_attention, grids):
    """Several image sizes, some of which windows do not divide evenly."""
    stock, ours = tower(full_attention), tower(full_attention)
    ours.load_state_dict(stock.state_dict())
    use_batched_vision(ours)
    grid = torch.tensor([(1, h, w) for h, w in grids])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14)
    weight = torch.randn(int(grid.prod(1).sum()) // 4, 24)
    results = []
    for model in (stock, ours):
        given = pixels.clone().requires_grad_()
        out = model(given, grid).pooler_output
        (out * weight).sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        assert all(g is not None for g in grads.values())
        results.append((out, given.grad, *grads.values()))
    for one, two in zip(*results, strict=True):
        assert_close(one, two)


def test_video_frames_stay_apart():
    """Two time steps of one clip: attention stays within a frame, as in stock."""
    stock = tower([1])
    ours = use_batched_vision(copy.deepcopy(stock))
    grid = torch.tensor([(2, 8, 10), (1, 6, 8)])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14)
    with torch.no_grad():
        assert_close(stock(pixels, grid).pooler_output, ours(pixels, grid).pooler_output)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_whole_model_equals_stock(family, tmp_path):
    """Logits, loss and gradients of a tiny model on images of several sizes."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = save_family(family, tmp_path)
    stock, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    processor.image_processor.size = {"shortest_edge": 16**2, "longest_edge": 256**2}
    assert any(type(m).__name__.endswith("PatchEmbed") for m in stock.modules())
    ours = use_batched_vision(copy.deepcopy(stock))
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (96, 96), (48, 80), (32, 32), (160, 128)]
    images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": "Who is this?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    inputs = processor(text=[text], images=[images], return_tensors="pt")
    results = []
    for model in (stock, ours):
        out = model(**inputs, labels=inputs["input_ids"])
        out.loss.backward()
        results.append((out.logits, out.loss, *(p.grad for p in model.parameters() if p.grad is not None)))
    attentions = [m for n, m in ours.named_modules() if "visual" in n and n.endswith("attn")]
    assert attentions and all("forward" in vars(module) for module in attentions)
    for one, two in zip(*results, strict=True):
        assert_close(one, two)


def test_copies_checkpointing_and_half_precision():
    """A copy runs its own weights; gradient checkpointing and bfloat16 work as in stock."""
    stock = tower([1]).train()
    ours = use_batched_vision(copy.deepcopy(stock))
    other = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    grid = torch.tensor([(1, 8, 10)])
    pixels = torch.randn(80, 3 * 2 * 14 * 14)
    assert not other(pixels, grid).pooler_output.any() and ours(pixels, grid).pooler_output.any()
    results = []
    for model in (stock, ours):
        model.gradient_checkpointing_enable()
        model(pixels, grid).pooler_output.square().sum().backward()
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert_close(*results)
    with torch.no_grad():
        one, two = (m.bfloat16()(pixels.bfloat16(), grid).pooler_output.float() for m in (stock, ours))
    assert (one - two).norm() < 0.03 * one.norm()


def test_adapter_on_the_patch_embedding_is_not_bypassed():
    from peft import LoraConfig, get_peft_model

    results = []
    for patch in (lambda model: model, use_batched_vision):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=r".*(patch_embed\.proj|qkv)", init_lora_weights=False)
        model = get_peft_model(patch(tower([1])), config)
        pixels, grid = torch.randn(80, 3 * 2 * 14 * 14), torch.tensor([(1, 8, 10)])
        results.append(model(pixels, grid).pooler_output)
        with model.disable_adapter():
            assert not torch.allclose(model(pixels, grid).pooler_output, results[-1], atol=1e-3)
    assert_close(*results)


@pytest.mark.parametrize("attn", ["flash_attention_2", "kernels-community/flash-attn2", "someone/attention"])
def test_flash_kernels_and_other_towers_are_left_alone(attn):
    flash = tower([1])
    flash.config._attn_implementation = attn
    attention = use_batched_vision(flash).blocks[0].attn
    assert "forward" not in vars(attention) and "forward" in vars(flash.patch_embed)
    linear = torch.nn.Linear(2, 2)
    assert "forward" not in vars(use_batched_vision(linear))
