"""Merging: the weights against W + s B A by hand, what is saved and verified, what is refused; rounding's loss."""

import json
import math
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from repic_core.captioner.caption_files import CaptionItem
from repic_core.cli import main
from repic_core.models import loading as models
from repic_core.models.loading import ModelError, load_model
from repic_core.publish import merge as merging
from repic_core.publish.merge import MergeError, merge_adapter, rounding
from repic_core.publish.merge_drift import grid_rows, layer_rows, round_bits
from repic_core.publish.verify import Limits, difference, drawn_items, faults_of, items_of, merge_section
from repic_core.toyworld.model import make_model, make_processor

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OPTIONS = {"system": None, "max_new_tokens": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model with a head of its own (the toy's is tied to its embeddings), as Qwen2.5-VL 7B has."""
    path = tmp_path_factory.mktemp("merging") / "tiny"
    processor = make_processor()
    model = make_model(processor, seed=3)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.2)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def make_adapter(base, path, targets=TARGETS, size=0.05, alpha=8, exclude=".*visual.*", dtype=None):
    """A LoRA of r 4 whose B is random, of this size; saved to `path`."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_model(base, device="cpu", dtype=dtype or "float32")
    torch.manual_seed(0)
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, exclude_modules=exclude)
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn_like(weight) * size
    model.save_pretrained(path)
    return path


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
    assert len(merged) == 7 * len([key for key in weights if key.endswith("layers.0.mlp.up_proj.weight")]) * 4
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
    report = models.merge_adapter(base, adapter, tmp_path / "out", dtype="bfloat16", **OPTIONS)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    weights, merged = layers_by_hand(base, adapter)
    for name, weight in saved.items():
        want = merged.get(name, weights[name].double())
        assert weight.dtype == torch.bfloat16
        assert (
            torch.equal(weight, want.float().bfloat16())
            or (weight != want.float().bfloat16()).float().mean() < 1e-3
        )
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
    """One prompt; drift, maximum, mean and greedy tokens from the models themselves."""
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
    assert set(report["f1"]) == {
        "adapter, float32",
        "adapter, bfloat16",
        "merged, float32",
        "merged, bfloat16",
    }


def test_the_default_dtype_is_the_base_s(base, adapter, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(base, half)
    weights = {name: weight.bfloat16() for name, weight in load_file(half / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    for field in ("dtype", "torch_dtype"):  # the latter as in configurations before transformers 4.56
        config = json.loads((base / "config.json").read_text())
        config = {key: value for key, value in config.items() if key != "dtype"} | {field: "bfloat16"}
        (half / "config.json").write_text(json.dumps(config))
        report = merge_adapter(half, adapter, tmp_path / field, **OPTIONS)
        assert report["dtype"] == "bfloat16"
        assert load_file(tmp_path / field / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def test_changes_that_drown_in_bfloat16_are_refused_and_float32_is_not(base, tmp_path):
    """A change of a thousandth of the grid's step is gone in bfloat16: the merged model would be the base."""
    weights = {name: w.bfloat16().float() for name, w in load_file(base / "model.safetensors").items()}
    grid = shutil.copytree(base, tmp_path / "grid")
    save_file(weights, grid / "model.safetensors", metadata={"format": "pt"})
    small = make_adapter(grid, tmp_path / "small", size=1e-6)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        MergeError, match=r"saved in bfloat16.*drift of logits 1 in float32 .*limit: 0\.1.*9\d%|100%"
    ) as e:
        merge_adapter(grid, small, tmp_path / "out", dtype="bfloat16", **OPTIONS)
    assert "save in float32, or keep the adapter" in str(e.value) and "\n" not in str(e.value)
    assert sorted(tmp_path.iterdir()) == before
    loose = Limits(drift=10)
    assert (
        merge_adapter(grid, small, tmp_path / "out", dtype="bfloat16", limits=loose, **OPTIONS)["weights"][
            "kept"
        ]
        < 0.1
    )


def report_of(**changes):
    same = {"max": 0.0, "mean": 0.0, "tokens": 0.0, "drift": 0.0}
    rows = [
        {"model": "adapter", "precision": "bfloat16", **same, "drift": 0.5, "tokens": 0.1},
        {"model": "merged", "precision": "float32", **same},
        {"model": "merged", "precision": "bfloat16", **same, "drift": 0.5, "tokens": 0.1},
    ]
    f1 = {"adapter, float32": 0.8, "adapter, bfloat16": 0.8, "merged, float32": 0.8, "merged, bfloat16": 0.8}
    report = {"dtype": "bfloat16", "n_tokens": 1000, "rows": rows, "f1": f1}
    for key, value in changes.items():
        where, _, name = key.partition("_")
        if where == "f1":
            f1[f"merged, {name}"] = value
        else:
            rows[int(where[1:])][name] = value
    return report


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, []),
        (
            {"r1_drift": 0.09, "r2_drift": 0.72, "r1_tokens": 0.02},
            [],
        ),  # beyond what the precision itself costs
        ({"r1_drift": 0.11}, ["drift of logits 0.11 in float32 (limit: 0.1 more)"]),
        (
            {"r2_drift": 0.73},
            ["drift of logits 0.73 in bfloat16, the unmerged adapter 0.5 (limit: 0.1 more)"],
        ),
        ({"r2_tokens": 0.14}, []),
        (
            {"r2_tokens": 0.16},
            ["share of other greedy tokens 0.16 in bfloat16, the unmerged adapter 0.1 (limit: 0.02 more)"],
        ),
        ({"r1_tokens": 0.03}, ["share of other greedy tokens 0.03 in float32 (limit: 0.02 more)"]),
        ({"r1_drift": math.nan}, ["drift of logits nan in float32 (limit: 0.1 more)"]),
        (
            {"r2_drift": math.inf},
            ["drift of logits inf in bfloat16, the unmerged adapter 0.5 (limit: 0.1 more)"],
        ),
        ({"f1_bfloat16": 0.72}, ["F1 of names 72.0 instead of 80.0 in bfloat16"]),
        ({"f1_float32": 0.795}, []),
    ],
)
def test_limits(changes, faults):
    assert faults_of(report_of(**changes), Limits()) == faults


def test_one_near_tie_is_no_fault():
    report = report_of(r1_tokens=1 / 16)
    assert len(faults_of(report, Limits())) == 1
    assert faults_of(report | {"n_tokens": 16}, Limits()) == []


def test_a_merge_gone_wrong_is_seen(base, adapter, tmp_path, monkeypatch):
    """Whatever is saved is what is compared: here the base without its adapter, and a folder without a layer."""
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
def test_what_is_there_is_kept(base, adapter, tmp_path, kind, monkeypatch):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    monkeypatch.setattr(models, "load_model", None)  # said before anything is loaded
    with pytest.raises(MergeError, match="out: is there and not empty: give another folder"):
        merge_adapter(base, adapter, out, **OPTIONS)


def test_an_empty_folder_may_be_there(base, adapter, tmp_path):
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
    with pytest.raises(MergeError, match="no prompt"):
        merge_adapter(base, adapter, tmp_path / "out", items=[], **OPTIONS)
    broken = shutil.copytree(adapter, tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    weights[next(iter(weights))][0, 0] = math.nan
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"adapter .*broken: NaNs detected"):
        merge_adapter(base, broken, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def as_published(adapter, path, keep_head=True):
    """The same adapter as the authors' trainer of early 2025 saved one: keys of transformers < 4.52."""
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
    """Upstream's LoRA reaches the head too, of which PEFT also saves the base's weight."""
    targets = [*TARGETS, "lm_head", "qkv"]
    new = make_adapter(base, tmp_path / "new", targets=targets, exclude=None)
    old = as_published(new, tmp_path / "old", keep_head)
    assert (
        "base_model.model.lm_head.lora_A.weight" in old
        and "base_model.model.visual.blocks.0.attn.qkv.lora_A.weight" in old
    )
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
    for name, key in (("lm_head", "lm_head"), ("visual.blocks.0.attn.qkv", "visual.blocks.0.attn.qkv")):
        a, b = (old[f"base_model.model.{key}.lora_{x}.weight"].double() for x in "AB")
        torch.testing.assert_close(
            saved[f"{name}.weight"].double(),
            before[f"{name}.weight"].double() + 2 * b @ a,
            rtol=1e-6,
            atol=1e-6,
        )


@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`", "ignore:Model with `tie_word_embeddings"
)
def test_an_adapted_head_that_is_tied_is_refused(tmp_path):
    processor = make_processor()
    make_model(processor, seed=3).save_pretrained(tmp_path / "tied")
    processor.save_pretrained(tmp_path / "tied")
    head = make_adapter(tmp_path / "tied", tmp_path / "head", targets=["q_proj", "lm_head"])
    with pytest.raises(MergeError, match=r"shares with its embeddings.*keep the adapter"):
        merge_adapter(tmp_path / "tied", head, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("delta", [0.0, 0.0009765625, 0.00390625, 0.00391, 0.0078125])
def test_rounding_by_hand(delta):
    """bfloat16 above 1.0 has steps of 2^-7; what is less than half of one is lost."""
    row = rounding(torch.ones(4, 4), torch.full((4, 4), delta), torch.bfloat16)
    step = 0.0078125
    kept = 0 if delta <= step / 2 else step
    assert row["lost"] == (1.0 if delta and not kept else 0.0)
    assert row["relative"] == pytest.approx(delta)
    assert row["kept"] == pytest.approx(kept / delta if delta else 1)
    assert row["error"] == pytest.approx(abs(kept - delta) / delta if delta else 0)


def test_what_is_kept_is_counted_from_the_rounded_weight():
    """1.003 is 1 on the grid, 1.003 + 0.002 is 1 + 2^-7: a change of 2^-7 where 0.002 was asked for."""
    row = rounding(torch.full((2, 2), 1.003), torch.full((2, 2), 0.002), torch.bfloat16)
    assert row["kept"] == pytest.approx(2**-7 / 0.002, rel=1e-4) and row["lost"] == 0


def test_eight_bits_are_bfloat16():
    torch.manual_seed(0)
    weights = torch.randn(10000) * torch.logspace(-6, 3, 10000)
    assert torch.equal(round_bits(weights, 8), weights.bfloat16().float())
    assert torch.equal(round_bits(weights, 24), weights) and not torch.equal(round_bits(weights, 7), weights)


def test_layers_by_way_of_merging(monkeypatch):
    """Small layers: the arithmetic of merging makes no difference, the last rounding does."""
    from repic_core.publish import merge_drift

    monkeypatch.setattr(merge_drift, "LAYERS", {"q_proj": (256, 192)})
    small, large = layer_rows((1e-5, 1e-1), ("q_proj",))
    assert small["equal"] == large["equal"] == 1
    assert small["kept"] < 0.2 and small["lost"] > 0.9 and small["merged in bf16, aligned"] < 0.5
    assert large["kept"] == pytest.approx(1, abs=0.01) and large["merged in bf16, aligned"] == pytest.approx(
        1, abs=0.05
    )
    assert large["adapter, bf16, aligned"] == pytest.approx(1, abs=0.05)
    assert large["relative"] == pytest.approx(small["relative"] * 1e4, rel=1e-3)
    assert max(small["error, fp32"], large["error, fp32"]) < 1e-3


def test_grids_on_a_random_model(base, adapter):
    rows = grid_rows(base, adapter, drawn_items()[:1], bits=(20, 3))
    assert rows[0]["kept"] == pytest.approx(1, abs=1e-2) and rows[1]["kept"] < 0.99
    assert rows[1]["relative"] == pytest.approx(rows[0]["relative"] * 2**-17, rel=0.1)


def test_differences_by_hand():
    one, two = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.5], [2.0, 3.0]])
    assert difference([one], [two]) == {"max": 3.0, "mean": 3.5 / 4, "tokens": 0.5}
    assert difference([one], [two * math.nan])["max"] == math.inf


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
