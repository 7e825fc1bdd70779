"""Merging: the weights against W + s B A by hand, what is saved and verified, and what is refused."""

import json
import math
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from helpers.publishing import TARGETS, make_adapter, save_untied_model
from helpers.tiny_model import save_tiny
from repic_core.captioner.caption_files import CaptionItem
from repic_core.cli import main
from repic_core.models import loading as models
from repic_core.models.loading import ModelError, load_model
from repic_core.publish import merge as merging
from repic_core.publish.merge import MergeError, merge_adapter
from repic_core.publish.verify import Limits, drawn_items, items_of, merge_section

OPTIONS = {"system": None, "max_new_tokens": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_untied_model(tmp_path_factory.mktemp("merging") / "tiny")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("adapter") / "lora")


def layers_by_hand(base, adapter):
    """W + (alpha / r) B A in float64 for every adapted layer, by the layer's name in the adapter's file."""
    weights = load_file(base / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    merged = {}
    for name in (key for key in lora if "lora_A" in key):
        a, b = lora[name].double(), lora[name.replace("lora_A", "lora_B")].double()
        plain = name.removeprefix("base_model.model.").replace(".lora_A", "").replace(".language_model.", ".")
        merged[plain] = weights[plain].double() + config["lora_alpha"] / config["r"] * b @ a
    return weights, merged


def test_saved_weights_are_those_by_hand_and_all_others_stay(base, adapter, tmp_path):
    report = merge_adapter(base, adapter, tmp_path / "out", **OPTIONS)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    weights, merged = layers_by_hand(base, adapter)
    assert len(merged) == 7 * 2  # layers
    assert saved.keys() == weights.keys()
    for name, weight in saved.items():
        if name in merged:
            torch.testing.assert_close(weight.double(), merged[name], rtol=1e-6, atol=1e-7)
            assert not torch.equal(weight, weights[name])
        else:
            assert torch.equal(weight, weights[name])
    assert report["dtype"] == "float32" and [row["precision"] for row in report["rows"]] == ["float32"]
    assert report["rows"][0]["drift"] < 1e-4 and report["rows"][0]["tokens"] == 0


def test_bfloat16_is_the_float32_merge_rounded_once(base, adapter, tmp_path):
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    report = merge_adapter(base, adapter, tmp_path / "out", dtype="bfloat16", **OPTIONS)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    weights, merged = layers_by_hand(base, adapter)
    for name, weight in saved.items():
        want = merged.get(name, weights[name].double())
        assert weight.dtype == torch.bfloat16
        rounded = want.float().bfloat16()
        assert torch.equal(weight, rounded) or (weight != rounded).float().mean() < 1e-3
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == before[name]
    kinds = [(row["model"], row["precision"]) for row in report["rows"]]
    assert kinds == [("adapter", "bfloat16"), ("merged", "float32"), ("merged", "bfloat16")]
    assert json.loads((tmp_path / "out" / "merge_report.json").read_text()) == report
    card = (tmp_path / "out" / "README.md").read_text()
    assert merge_section(report) in card and f"{report['rows'][2]['drift']:.2g}" in card
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_report_against_logits_by_hand(base, adapter, tmp_path):
    """For one prompt: drift, maximum, mean and greedy tokens from the models themselves."""
    from repic_core.captioner.captioner import Captioner

    item = drawn_items()[1]
    report = merge_adapter(base, adapter, tmp_path / "out", dtype="bfloat16", items=[item], **OPTIONS)
    model, processor = load_model(base, adapter, device="cpu", dtype="float32")
    inputs = Captioner(model, processor, None).inputs([item])
    start = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert report["n_tokens"] == ids.shape[1] - start and report["n_prompts"] == 1
    longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, ids.shape[1] - start))

    def logits(model):
        with torch.no_grad():
            return model(**longer).logits[0, start - 1 : -1].double()

    want = logits(model)
    assert want.argmax(-1).tolist() == ids[0, start:].tolist()
    with model.disable_adapter():
        effect = (logits(model) - want).abs().mean()
    merged = logits(load_model(tmp_path / "out", device="cpu", dtype="bfloat16")[0])
    row = report["rows"][2]
    assert row["max"] == pytest.approx((merged - want).abs().max().item(), rel=1e-3)
    assert row["mean"] == pytest.approx((merged - want).abs().mean().item(), rel=1e-3)
    assert row["drift"] == pytest.approx(((merged - want).abs().mean() / effect).item(), rel=1e-3)
    assert row["tokens"] == pytest.approx((merged.argmax(-1) != want.argmax(-1)).double().mean().item())
    models_scored = {
        f"{model}, {dtype}" for model in ("adapter", "merged") for dtype in ("float32", "bfloat16")
    }
    assert set(report["f1"]) == models_scored


def test_the_default_dtype_is_the_base_s(base, adapter, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(base, half)
    weights = {name: weight.bfloat16() for name, weight in load_file(half / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    for field in ("dtype", "torch_dtype"):  # torch_dtype: configurations before transformers 4.56
        config = json.loads((base / "config.json").read_text())
        config = {key: value for key, value in config.items() if key != "dtype"} | {field: "bfloat16"}
        (half / "config.json").write_text(json.dumps(config))
        report = merge_adapter(half, adapter, tmp_path / field, **OPTIONS)
        assert report["dtype"] == "bfloat16"
        assert load_file(tmp_path / field / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def test_changes_that_drown_in_bfloat16_are_refused_and_float32_is_not(base, tmp_path):
    """Changes of a thousandth of the grid's step vanish in bfloat16: the merged model would be the base."""
    weights = {name: w.bfloat16().float() for name, w in load_file(base / "model.safetensors").items()}
    grid = shutil.copytree(base, tmp_path / "grid")
    save_file(weights, grid / "model.safetensors", metadata={"format": "pt"})
    small = make_adapter(grid, tmp_path / "small", size=1e-6)
    before = sorted(tmp_path.iterdir())
    message = r"saved in bfloat16.*drift of logits 1 in float32 .*limit: 0\.1.*9\d%|100%"
    with pytest.raises(MergeError, match=message) as error:
        merge_adapter(grid, small, tmp_path / "out", dtype="bfloat16", **OPTIONS)
    assert "save in float32, or keep the adapter" in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    options = {**OPTIONS, "limits": Limits(drift=10)}
    report = merge_adapter(grid, small, tmp_path / "out", dtype="bfloat16", **options)
    assert report["weights"]["kept"] < 0.1


def test_a_merge_gone_wrong_is_seen(base, adapter, tmp_path, monkeypatch):
    """What is compared is what was saved: here the base without its adapter, and a folder without one layer."""
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def save_base(self, folder, **options):
        save(load_model(base, device="cpu", dtype="float32")[0], folder, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_base)
    with pytest.raises(MergeError, match=r"drift of logits 1 in float32 \(limit"):
        merge_adapter(base, adapter, tmp_path / "out", **OPTIONS)

    def save_part(self, folder, **options):
        save(self, folder, **options)
        weights = load_file(folder / "model.safetensors")
        weights.pop(next(name for name in weights if "o_proj" in name))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_part)
    with pytest.raises(ModelError, match="1 weights are missing"):
        merge_adapter(base, adapter, tmp_path / "out", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written(base, adapter, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_text_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        merge_adapter(base, adapter, tmp_path / "sub" / "out", **OPTIONS)
    assert list((tmp_path / "sub").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_already_exists_is_kept(base, adapter, tmp_path, kind, monkeypatch):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    monkeypatch.setattr(models, "load_model", None)  # the error comes before anything is loaded
    with pytest.raises(MergeError, match="out: already exists and is not empty: give another folder"):
        merge_adapter(base, adapter, out, **OPTIONS)


def test_an_empty_folder_may_exist(base, adapter, tmp_path):
    (tmp_path / "out").mkdir()
    merge_adapter(base, adapter, tmp_path / "out", **OPTIONS)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "quantised", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "awq", "bits": 4}]
)
def test_a_quantised_base_is_refused(base, adapter, tmp_path, quantised):
    other = shutil.copytree(base, tmp_path / "quantised")
    config = json.loads((other / "config.json").read_text()) | {"quantization_config": quantised}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(MergeError, match=rf"is quantised \({quantised['quant_method']}\).* quantised from"):
        merge_adapter(other, adapter, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_other_things_that_cannot_be_merged(base, adapter, tmp_path):
    with pytest.raises(MergeError, match="dtype 'float7': use one of float32"):
        merge_adapter(base, adapter, tmp_path / "out", dtype="float7", **OPTIONS)
    with pytest.raises(MergeError, match="no prompts"):
        merge_adapter(base, adapter, tmp_path / "out", items=[], **OPTIONS)
    broken = shutil.copytree(adapter, tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    weights[next(iter(weights))][0, 0] = math.nan
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"adapter .*broken: NaNs detected"):
        merge_adapter(base, broken, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def as_published(adapter, path, keep_head=True):
    """The same adapter as the authors' trainer of early 2025 saved it: with the keys of transformers < 4.52."""
    shutil.copytree(adapter, path)
    old = {}
    for key, value in load_file(path / "adapter_model.safetensors").items():
        key = key.replace("base_model.model.model.language_model.", "base_model.model.model.")
        key = key.replace("base_model.model.model.visual.", "base_model.model.visual.")
        if keep_head or not key.endswith("base_layer.weight"):
            old[key] = value
    save_file(old, path / "adapter_model.safetensors", metadata={"format": "pt"})
    return old


@pytest.mark.parametrize("keep_head", [True, False])
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_the_published_layout_with_an_adapted_head(base, tmp_path, keep_head):
    """Upstream's LoRA also adapts the head; PEFT then saves the base's weight of the head too."""
    targets = [*TARGETS, "lm_head", "qkv"]
    new = make_adapter(base, tmp_path / "new", targets=targets, exclude=None)
    old = as_published(new, tmp_path / "old", keep_head)
    assert "base_model.model.lm_head.lora_A.weight" in old
    assert "base_model.model.visual.blocks.0.attn.qkv.lora_A.weight" in old
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in old
    assert ("base_model.model.lm_head.base_layer.weight" in old) == keep_head
    ids = {"input_ids": torch.tensor([[5, 9, 30, 7]])}
    logits = []
    for path in (new, tmp_path / "old"):
        model, _ = load_model(base, path, device="cpu", dtype="float32")
        with torch.no_grad():
            logits.append(model(**ids).logits)
    assert torch.equal(*logits)
    report = merge_adapter(base, tmp_path / "old", tmp_path / "out", **OPTIONS)
    assert report["rows"][0]["drift"] < 1e-4
    saved, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", base))
    for name in ("lm_head", "visual.blocks.0.attn.qkv"):
        a, b = (old[f"base_model.model.{name}.lora_{x}.weight"].double() for x in "AB")
        want = before[f"{name}.weight"].double() + 2 * b @ a
        torch.testing.assert_close(saved[f"{name}.weight"].double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`", "ignore:Model with `tie_word_embeddings"
)
def test_an_adapted_head_that_is_tied_is_refused(tmp_path):
    save_tiny(tmp_path / "tied")
    head = make_adapter(tmp_path / "tied", tmp_path / "head", targets=["q_proj", "lm_head"])
    with pytest.raises(MergeError, match=r"shares with its embeddings.*keep the adapter"):
        merge_adapter(tmp_path / "tied", head, tmp_path / "out", **OPTIONS)


def test_rows_as_prompts_and_the_command(base, adapter, folder, tmp_path, capsys):
    items = items_of(folder / "ours.json", folder / "database.json")
    assert items[0].query == folder / "q1.png" and [c.tag for c in items[0].references] == ["<bo>", "<mia>"]
    assert isinstance(items[1], CaptionItem) and items[0].question == "What?"
    (folder / "two.json").write_text(json.dumps(json.loads((folder / "ours.json").read_text())[:1]))
    command = [str(base), str(adapter), str(tmp_path / "out"), "--system", "none", "--device", "cpu"]
    command += ["--max-new-tokens", "4", "--dtype", "float32"]
    rows = ["--rows", str(folder / "two.json"), "--database", str(folder / "database.json")]
    assert main(["merge", *command, *rows]) == 0
    assert "| merged | float32 |" in capsys.readouterr().out
    assert main(["merge", *command]) == 2
    assert re.search(r"^repic merge: .*not empty", capsys.readouterr().err, re.M)
    assert main(["merge", *command[:2], str(tmp_path / "other"), "--rows", "x.json"]) == 2
    assert "--rows: needs --database" in capsys.readouterr().err
