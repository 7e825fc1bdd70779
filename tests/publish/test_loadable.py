"""Folders that would not load are refused, and the card says what vLLM does not take."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from repic_core.models.loading import load_model
from repic_core.publish.export import ExportError, export
from repic_core.publish.loadable import folder_faults, vllm_faults

VISUAL = "visual.blocks.0.attn.qkv"


def sharded(merged, path):
    model, processor = load_model(merged, device="cpu", dtype="float32")
    model.save_pretrained(path, max_shard_size="100KB")
    processor.save_pretrained(path)
    assert len(list(path.glob("model-*.safetensors"))) > 1
    return path


def test_shards_and_their_index(merged, tmp_path):
    source = sharded(merged, tmp_path / "sharded")
    assert folder_faults(export(source, tmp_path / "out")) == []
    index = json.loads((source / "model.safetensors.index.json").read_text())
    dropped = sorted(index["weight_map"])[3]
    del index["weight_map"][dropped]
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    message = f"index.json does not fit the files, first at {re.escape(dropped)}"
    with pytest.raises(ExportError, match=message):
        export(source, tmp_path / "again")
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(ExportError, match=r"several weight files without model\.safetensors\.index\.json"):
        export(source, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("chat_template.jinja", "no chat template"),
        ("tokenizer.json", "no tokenizer files"),
        ("generation_config.json", "no generation_config.json"),
        ("architectures", "config.json names no architectures"),
        ("cut", r"model\.safetensors: "),
        ("model.safetensors", "neither an adapter nor a model"),
        ("config.json", "neither an adapter nor a model"),
    ],
)
def test_half_a_model_is_refused(merged, tmp_path, broken, message):
    source = shutil.copytree(merged, tmp_path / "source")
    if broken == "architectures":
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"architectures": None}))
    elif broken == "cut":
        weights = source / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        (source / broken).unlink()
    with pytest.raises(ExportError, match=message):
        export(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "keys", "fault"),
    [
        ({"target_modules": ["q_proj"]}, {}, None),
        ({"r": 64}, {}, "start vLLM with --max-lora-rank 64"),
        ({"rank_pattern": {"q_proj": 8}}, {}, "rank_pattern is not read"),
        ({"alpha_pattern": {"q_proj": 8}}, {}, "alpha_pattern is not read"),
        ({"use_dora": True}, {}, "DoRA is not supported"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save is not supported"),
        ({"bias": "all"}, {}, "biases are not supported"),
        ({}, {"base_model.model.lm_head.lora_A.weight": 1}, "an adapted lm_head is refused"),
        ({}, {f"base_model.model.{VISUAL}.lora_A.weight": 1}, "vision tower are adapted"),
        ({}, {f"base_model.model.model.{VISUAL}.lora_A.weight": 1}, "vision tower are adapted"),
    ],
)
def test_the_card_says_what_vllm_does_not_take(adapter, tmp_path, change, keys, fault):
    source = shutil.copytree(adapter, tmp_path / "source")
    config = json.loads((source / "adapter_config.json").read_text()) | change
    (source / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(source / "adapter_model.safetensors") | {name: torch.zeros(4, 4) for name in keys}
    save_file(weights, source / "adapter_model.safetensors", metadata={"format": "pt"})
    faults = vllm_faults(source)
    card = (export(source, tmp_path / "out") / "README.md").read_text()
    if fault is None:
        assert faults == []
    else:
        assert len(faults) == 1 and fault in faults[0] and fault in card
