"""Loading: a local folder in the ordinary layout, adapters, attention and precision, and what is refused."""

import json
import logging
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.places import ROOT
from helpers.tiny_model import save_tiny
from repic_core.captioner.caption_files import CaptionItem
from repic_core.models.loading import (
    PAPER_MAX_PIXELS,
    ModelError,
    _choose_attention,
    _choose_dtype,
    _log_once,
    load_model,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


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


def test_the_batched_vision_path_is_used(folder):
    model, _ = load_model(folder, device="cpu")
    assert model.config._attn_implementation == "sdpa"
    assert "forward" in vars(model.model.visual.blocks[0].attn)


def tuned(folder, path, targets=None):
    """A random LoRA on the model of `folder`, saved to `path`."""
    from peft import LoraConfig, get_peft_model

    from repic_core.training.recipe import LORA_TARGETS

    base, _ = load_model(folder, device="cpu")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=targets or LORA_TARGETS, init_lora_weights=False)
    model = get_peft_model(base, config).eval()
    model.save_pretrained(path)
    return model


def test_adapter_round_trip(folder, inputs, tmp_path):
    model = tuned(folder, tmp_path / "adapter")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names and not any("visual" in name for name in names)
    want = logits(model, inputs)
    loaded, _ = load_model(folder, adapter=tmp_path / "adapter", device="cpu")
    assert torch.equal(logits(loaded, inputs), want)
    assert not torch.allclose(logits(load_model(folder, device="cpu")[0], inputs), want)
    assert not loaded.training


def test_adapter_on_vision_and_captions(folder, tmp_path):
    """An adapter that also changes the vision tower; captions are those of the saved model."""
    from PIL import Image

    from repic_core.captioner.captioner import Captioner
    from repic_core.concepts.concept import Concept

    model = tuned(folder, tmp_path / "adapter", ["q_proj", "v_proj", "qkv", "gate_proj"])
    loaded, processor = load_model(folder, adapter=str(tmp_path / "adapter"), device="cpu")
    photo = Image.effect_noise((96, 96), 90).convert("RGB")
    references = [Concept(name="bo", image=photo.resize((32, 32)), info="a toy")]
    one, two = (Captioner(m, processor, max_new_tokens=8) for m in (model, loaded))
    assert one.caption(photo, references) == two.caption(photo, references) != ""
    batch = two.inputs([CaptionItem(photo, references)])
    assert torch.equal(logits(model, batch), logits(loaded, batch))


def test_adapters_of_older_transformers_load_and_strangers_are_refused(folder, inputs, tmp_path):
    """Before 4.52 the layers were called `model.layers`; a foreign adapter must not load without effect."""
    from safetensors.torch import load_file, save_file

    model = tuned(folder, tmp_path / "adapter", ["q_proj", "v_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    assert all(".model.language_model.layers." in key for key in weights)
    old = {key.replace(".model.language_model.", ".model."): value for key, value in weights.items()}
    save_file(old, file, metadata={"format": "pt"})
    loaded, _ = load_model(folder, adapter=tmp_path / "adapter", device="cpu")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    save_file({key.replace("layers", "blocks"): v for key, v in weights.items()}, file)
    with pytest.raises(
        ModelError, match=r"adapter .*: its weights are not the ones that its configuration needs"
    ):
        load_model(folder, adapter=tmp_path / "adapter", device="cpu")
    save_file({key: value[..., :2].contiguous() for key, value in weights.items()}, file)
    with pytest.raises(ModelError, match=r"adapter .*size mismatch"):
        load_model(folder, adapter=tmp_path / "adapter", device="cpu")


def test_pickled_adapters_are_refused(folder, tmp_path):
    tuned(folder, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.rename(file.with_name("other.safetensors"))
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors file; pickled"):
        load_model(folder, adapter=tmp_path / "adapter", device="cpu")


def test_an_adapter_from_the_hub_is_its_config_and_safetensors(folder, inputs, tmp_path, monkeypatch):
    """A copy that honours the patterns takes the place of the download."""
    import fnmatch

    import huggingface_hub

    model = tuned(folder, tmp_path / "hub")
    torch.save({}, tmp_path / "hub" / "adapter_model.bin")

    def download(repo, allow_patterns):
        asked.append(repo)
        (tmp_path / "cache").mkdir(exist_ok=True)
        for file in (tmp_path / "hub").iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, tmp_path / "cache")
        return str(tmp_path / "cache")

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded, _ = load_model(folder, adapter="someone/lora", device="cpu")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs)) and asked == ["someone/lora"]
    assert not (tmp_path / "cache" / "adapter_model.bin").exists()


@pytest.fixture
def no_hub(monkeypatch):
    """Any access to the hub or its cache fails the test."""
    import huggingface_hub
    import transformers

    def never(*args, **kwargs):
        raise AssertionError(f"goes to the hub: {args}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", never)


@pytest.mark.parametrize(
    "name",
    [
        "no/such/folder",
        "./Qwen",
        "../Qwen/x",
        "/nowhere",
        "~/nowhere",
        "missing",
        "my models/x",
        "outputs/run/",
        "tests/none",
        "",
        "a\\b",
        Path("Qwen/Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_what_looks_like_a_path_is_never_fetched(name, no_hub, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ModelError, match="no such model folder") as error:
        load_model(name)
    assert repr(str(name)) in str(error.value) and "\n" not in str(error.value)


def test_a_looks_local_adapter_is_never_fetched(folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(ModelError, match="no such adapter folder"):
        load_model(folder, adapter="outputs/run/adapter", device="cpu")


def test_hub_names_that_cannot_be_had_say_so_in_a_line(folder):
    """Tests are offline, so the hub is unreachable."""
    with pytest.raises(ModelError, match="no such folder, and it can't be loaded from the hub") as error:
        load_model("Qwen/Qwen2.5-VL-7B-Instruct")
    assert str(error.value).startswith("Qwen/Qwen2.5-VL-7B-Instruct: ") and "\n" not in str(error.value)
    with pytest.raises(ModelError, match="adapter someone/lora: ") as error:
        load_model(folder, adapter="someone/lora", device="cpu")
    assert "\n" not in str(error.value)


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
    tuned(folder, tmp_path / "lora")
    with pytest.raises(ModelError, match="it is an adapter: give it as adapter="):
        load_model(tmp_path / "lora")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_broken_files_say_so_in_a_line(folder, tmp_path, file):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / file).write_bytes((broken / file).read_bytes()[:100])
    with pytest.raises(ModelError, match=f"^{broken}: ") as error:
        load_model(broken, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "part"), [(["chat_template.jinja"], "chat_template"), (["tokenizer.json"], "")]
)
def test_half_a_processor(folder, tmp_path, files, part):
    broken = shutil.copytree(folder, tmp_path / "model")
    for file in files:
        (broken / file).unlink()
    with pytest.raises(ModelError, match=f"^{broken}: .*{part}"):
        load_model(broken)


def test_missing_weights_are_not_left_random(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights[next(key for key in weights if "o_proj" in key)]
    save_file(weights, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing in its files, first .*o_proj"):
        load_model(tmp_path / "part", device="cpu")


def test_max_pixels_with_the_published_processor_layout(folder, tmp_path):
    """Qwen's own repositories keep `min_pixels` and `max_pixels` in preprocessor_config.json."""
    from PIL import Image

    published = tmp_path / "published"
    shutil.copytree(folder, published)
    (published / "processor_config.json").unlink()
    settings = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (published / "preprocessor_config.json").write_text(json.dumps(settings))
    photo = Image.new("RGB", (2000, 1500))
    for limit, want in ((None, [1, 108, 142]), (PAPER_MAX_PIXELS, [1, 54, 72])):
        processor = load_model(published, device="cpu", max_pixels=limit)[1].image_processor
        assert processor(images=[photo], return_tensors="pt")["image_grid_thw"][0].tolist() == want


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float7"}, "dtype 'float7': use auto"),
        ({"dtype": "nn"}, "dtype 'nn': use auto"),
        ({"device": "gpu"}, "device 'gpu': "),
        ({"device": "cuda:99"}, r"device 'cuda:99': this machine has \d+ CUDA devices"),
        ({"attn": "quick", "device": "cpu"}, "tiny: "),
    ],
)
def test_wrong_options_say_so_in_a_line(folder, options, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(folder, **options)
    assert "\n" not in str(error.value)


def test_attention_is_flash_only_where_it_can_be_and_logged_once(monkeypatch, caplog):
    _log_once.cache_clear()
    caplog.set_level(logging.INFO, "repic_core.models.loading")
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    assert [_choose_attention("auto", True) for _ in range(3)] == ["flash_attention_2"] * 3
    assert [_choose_attention("auto", False) for _ in range(3)] == ["sdpa"] * 3
    assert _choose_attention("eager", True) == "eager"
    assert [record.message for record in caplog.records] == [
        "attention: flash_attention_2 (flash-attn was found)",
        "attention: sdpa (flash-attn needs CUDA and half precision)",
        "attention: eager (as asked)",
    ]
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # installed, but the import fails
    assert _choose_attention("auto", True) == "sdpa"
    assert "can't be imported" in caplog.records[-1].message
    _log_once.cache_clear()


def test_cuda_without_bfloat16_stays_in_single_precision(monkeypatch):
    cuda = torch.device("cuda")
    for has_bf16, want in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, b=has_bf16: b)
        assert _choose_dtype("auto", cuda) == want
    assert _choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert _choose_dtype(torch.float16, cuda) == torch.float16


def test_photos_are_enlarged_to_min_pixels(folder):
    from repic_core.models.boxes import resized_size, to_model_frame

    processor = load_model(str(folder), device="cpu", max_pixels=400 * 400, min_pixels=300 * 300)[1]
    patches = processor.image_processor
    grid = patches(images=[Image.new("RGB", (40, 20))], return_tensors="pt")["image_grid_thw"][0]
    high, wide = (int(count) * patches.patch_size for count in grid[1:])
    assert 300 * 300 <= wide * high <= 400 * 400 and (wide, high) == resized_size(40, 20, patches)
    assert to_model_frame([0, 0, 20, 20], (40, 20), "resized", patches) == [0, 0, wide // 2, high]
    with pytest.raises(ModelError, match="min_pixels 90000 is more than max_pixels 400: give a smaller one"):
        load_model(str(folder), device="cpu", max_pixels=400, min_pixels=90000)
