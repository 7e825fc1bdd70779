"""Loading: a local folder in the ordinary layout, adapters, the batched vision path, and what is refused."""

import json
import shutil

import pytest
import torch

from repic_core.models import ModelError, load_model
from repic_core.toyworld.model import make_model, make_processor
from repic_core.vision import use_batched_vision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    processor = make_processor()
    make_model(processor, seed=3).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def inputs(folder):
    _, processor = load_model(folder)
    ids = processor.tokenizer("Name: <bamo>, Info: a little toy", return_tensors="pt")
    return dict(ids)


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_loads_a_local_folder(folder):
    model, processor = load_model(folder)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration" and not model.training
    assert type(processor).__name__ == "Qwen2_5_VLProcessor" and processor.tokenizer.padding_side == "left"
    assert model.dtype == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    assert load_model(folder, dtype="bfloat16", device="cpu")[0].dtype == torch.bfloat16
    _, smaller = load_model(str(folder), max_pixels=4096)
    assert smaller.image_processor.size["longest_edge"] == 4096


def test_adapter_round_trip(folder, inputs, tmp_path):
    from peft import LoraConfig, get_peft_model

    from repic_core.training import LORA_TARGETS

    base, _ = load_model(folder)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=LORA_TARGETS, init_lora_weights=False))
    names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert names and not any("visual" in name for name in names)
    tuned.save_pretrained(tmp_path / "adapter")
    want = logits(tuned, inputs)
    loaded, _ = load_model(folder, adapter=tmp_path / "adapter")
    assert torch.equal(logits(loaded, inputs), want)
    assert not torch.allclose(logits(load_model(folder)[0], inputs), want)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "no such model folder"),
        ("./Qwen", "no such model folder"),
        ("missing", "no such model folder"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "no such folder, and the hub does not give it"),  # tests are offline
    ],
)
def test_wrong_names_say_so_in_a_line(name, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_other_families_pickles_and_missing_adapters(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="is a 'bert' model; this kit handles Qwen2-VL"):
        load_model(other)
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        load_model(other)
    with pytest.raises(ModelError, match="no such adapter folder"):
        load_model(folder, adapter=tmp_path / "none")
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        load_model(folder, adapter=folder)


def tower(full_attention, window=112):
    """A random Qwen2.5-VL vision tower with Qwen's own patch size."""
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


@pytest.mark.parametrize("full_attention", [[0, 1, 2], [1], []])
@pytest.mark.parametrize("grids", [[(8, 8)], [(8, 8), (4, 6), (8, 8), (10, 14)], [(20, 22), (2, 2)]])
def test_batched_vision_equals_stock(full_attention, grids):
    """Several sizes, windows that do not fit, full attention: same outputs and gradients as stock."""
    stock, ours = tower(full_attention), tower(full_attention)
    ours.load_state_dict(stock.state_dict())
    use_batched_vision(ours)
    grid = torch.tensor([(1, h, w) for h, w in grids])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14)
    weight = torch.randn(int(grid.prod(1).sum()) // 4, 24)
    results = []
    for model in (stock, ours):
        out = model(pixels, grid).pooler_output
        (out * weight).sum().backward()
        results.append((out, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-5 * one.abs().max().item())
