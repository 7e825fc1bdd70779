"""Export: folders that load without this package, cards that say what is known, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard
from safetensors.torch import load_file, save_file

from repic_core.cli import main
from repic_core.data.rows import TrainingExample
from repic_core.evaluation.intervals import score_intervals
from repic_core.models.loading import load_model
from repic_core.publish.export import ExportError, evaluation_rows, export
from repic_core.publish.loadable import folder_faults, vllm_faults
from repic_core.publish.merge import merge_adapter
from repic_core.toyworld.model import make_model, make_processor
from repic_core.training.recipe import LORA_TARGETS
from repic_core.training.run_record import hash_files

HOSTILE = (
    "mine\n---\n# Owned\n<script>alert(1)</script> [x](javascript:y) | a: *b* `c` {{ d }} \u2028 'f' " + '"""'
)
HUB_BASE = "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny"
    processor = make_processor()
    make_model(processor, seed=3).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """As training leaves it: the kit's targets, and files that are nobody else's business."""
    from peft import LoraConfig, get_peft_model

    path = tmp_path_factory.mktemp("adapter") / "lora"
    model, processor = load_model(base, device="cpu", dtype="float32")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn_like(weight) * 0.05
    model.save_pretrained(path)
    processor.save_pretrained(path)
    torch.save({}, path / "training_args.bin")
    (path / "checkpoint-80").mkdir()
    return path


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "merged"
    merge_adapter(base, adapter, out, system=None, max_new_tokens=4, device="cpu")
    return out


LOAD = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, base = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(base or folder, dtype="float32")
if base:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, folder)
processor = AutoProcessor.from_pretrained(folder)
assert processor.chat_template and processor.image_processor
with torch.no_grad():
    logits = model.eval()(input_ids=torch.tensor([[5, 9, 30, 7]])).logits
assert not any(name.startswith("repic_core") for name in sys.modules)
print("LOGITS", logits.double().sum().item(), logits[0, -1].argmax().item())
"""


def loaded_elsewhere(folder, base=""):
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(folder), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    _, total, token = done.stdout.split("LOGITS")[1].join(["LOGITS ", ""]).split()
    return float(total), int(token)


def logits_here(*paths):
    model, _ = load_model(*paths, device="cpu", dtype="float32")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 9, 30, 7]])).logits
    return logits.double().sum().item(), logits[0, -1].argmax().item()


def test_an_adapter_loads_in_plain_transformers_and_peft(base, adapter, tmp_path):
    out = export(adapter, tmp_path / "out")
    assert loaded_elsewhere(out, base) == pytest.approx(logits_here(base, adapter), rel=1e-6)
    assert loaded_elsewhere(out, base) != pytest.approx(logits_here(base), rel=1e-6)
    assert not {"training_args.bin", "checkpoint-80"} & {path.name for path in out.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    texts = [path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md")]
    assert not any(str(base.parent) in text for text in texts)  # no path of this machine
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny" and config["target_modules"] == LORA_TARGETS
    assert folder_faults(out) == vllm_faults(out) == []


def test_a_merged_model_loads_in_plain_transformers(merged, tmp_path):
    out = export(merged, tmp_path / "out")
    assert loaded_elsewhere(out) == pytest.approx(logits_here(merged), rel=1e-6)
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    report = json.loads((merged / "merge_report.json").read_text())
    assert f"{report['rows'][0]['drift']:.2g}" in card.text and "## Merge" in card.text


def test_the_merged_folder_has_what_vllm_reads(merged, tmp_path):
    out = export(merged, tmp_path / "out")
    names = {path.name for path in out.iterdir()}
    wanted = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    assert wanted | {"preprocessor_config.json", "chat_template.jinja"} <= names
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    image = json.loads((out / "preprocessor_config.json").read_text())
    assert image["image_processor_type"] == "Qwen2VLImageProcessor" and image["patch_size"] == 8
    assert image["processor_class"] == "Qwen2_5_VLProcessor"
    assert folder_faults(out) == []


def sharded(merged, path):
    model, processor = load_model(merged, device="cpu", dtype="float32")
    model.save_pretrained(path, max_shard_size="2MB")
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
    with pytest.raises(
        ExportError, match=f"index.json does not fit the files, first at {re.escape(dropped)}"
    ):
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


def test_the_processor_comes_from_the_base(base, adapter, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapter / name, bare / name)
    out = export(bare, tmp_path / "out", base=base)
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    config = json.loads((bare / "adapter_config.json").read_text())
    (bare / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ExportError, match="no processor beside the weights: give base="):
        export(bare, tmp_path / "other")


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
        ({}, {"base_model.model.visual.blocks.0.attn.qkv.lora_A.weight": 1}, "vision tower are adapted"),
        (
            {},
            {"base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight": 1},
            "vision tower are adapted",
        ),
    ],
)
def test_what_vllm_does_not_take_stands_in_the_card(adapter, tmp_path, change, keys, fault):
    source = shutil.copytree(adapter, tmp_path / "source")
    config = json.loads((source / "adapter_config.json").read_text()) | change
    (source / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(source / "adapter_model.safetensors") | {name: torch.zeros(4, 4) for name in keys}
    save_file(weights, source / "adapter_model.safetensors", metadata={"format": "pt"})
    faults = vllm_faults(source)
    assert (len(faults) == 1 and fault in faults[0]) if fault else faults == []
    card = (export(source, tmp_path / "out") / "README.md").read_text()
    assert (fault or "no such text") in card or fault is None


FACTS = {
    "base": HUB_BASE,
    "base_revision": "cc594898137f460bfe9f0759e9844b3ce807cfb5",
    "license": "apache-2.0",
    "datasets": ["someone/concepts"],
    "data": {"sources": "my photos", "license": "cc-by-4.0", "consent": "written consent of all"},
    "recipe": {"name": "paper-7b-8gpu"},
    "rewards": ["personalization"],
    "evaluation": [{"set": "4 references", "F1": "85.0 [81.0, 89.0]"}],
    "notes": "none",
}


def test_the_card_says_what_is_known(adapter, tmp_path):
    card = ModelCard.load(export(adapter, tmp_path / "out", facts=FACTS) / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == HUB_BASE and data["base_model_revision"] == FACTS["base_revision"]
    assert data["library_name"] == "peft" and data["pipeline_tag"] == "image-text-to-text"
    assert data["license"] == "apache-2.0" and data["datasets"] == ["someone/concepts"]
    for text in (
        "my photos",
        "written consent of all",
        "paper-7b-8gpu",
        "personalization",
        "r 4",
        "lora\\_alpha 8",
    ):
        assert text in card.text, text
    assert r"| 4 references | 85.0 \[81.0, 89.0\] |" in card.text
    for part in ("Intended use", "Limits", "Consent and privacy", "Training", "Evaluation"):
        assert f"\n## {part}\n" in card.text
    assert card.text.count("not recorded") == 1 and "- Run: not recorded" in card.text


def test_what_is_unknown_is_not_recorded(adapter, merged, tmp_path):
    for number, source in enumerate((adapter, merged)):
        card = ModelCard.load(export(source, tmp_path / str(number)) / "README.md")
        assert not {"license", "datasets", "base_model"} & card.data.to_dict().keys()  # "tiny" is no hub id
        for line in ("Revision", "License", "Data", "Recipe", "Rewards", "Run"):
            assert f"- {line}: not recorded" in card.text
        assert "Evaluation: not recorded." in card.text


def test_run_json_is_read_and_its_paths_are_not(adapter, tmp_path):
    source = shutil.copytree(adapter, tmp_path / "source")
    record = {
        "format": 1,
        "kind": "grpo",
        "recipe": "/home/me/secret/mine.yaml",
        "settings": {
            "learning_rate": 1e-5,
            "reward_profile": "strict",
            "report_to": [],
            "max_grad_norm": None,
        },
        "seeds": {"seed": 42},
        "rewards": [["short", 0.5]],
        "result": {"weights": hash_files(source)},
        "data": {"rows": "/home/me/rows.json", "root": "/home/me", "count": 2000, "sha256": "abc123"},
        "model": {"name": "/home/me/model", "image_size": {"longest_edge": 802816}},
        "sessions": [{"commit": {"id": "f00"}}, {"commit": {"id": "b4d"}, "versions": {"torch": "2.15.0"}}],
    }
    (source / "run.json").write_text(json.dumps(record))
    out = export(source, tmp_path / "out")
    card = (out / "README.md").read_text()
    for text in ("mine.yaml", "1e-05", "seed 42", "count 2000", "abc123", "802816", "b4d", "torch 2.15.0"):
        assert text in card, text
    assert "/home/me" not in card and "f00" not in card and not (out / "run.json").exists()
    assert "personalization (strict)" in card and "short" in card and "report_to" not in card
    assert "max_grad_norm" not in card
    record["result"]["weights"] = {
        "adapter_model.safetensors": "0" * 64
    }  # a later run, begun in the same folder
    for other in (record, {**record, "result": None}, []):
        (source / "run.json").write_text(json.dumps(other))
        card = (export(source, tmp_path / "again") / "README.md").read_text()
        assert "1e-05" not in card and "- Recipe: not recorded" in card
        shutil.rmtree(tmp_path / "again")


def test_texts_cannot_break_the_cards(adapter, tmp_path):
    facts = {key: HOSTILE for key in ("base", "base_revision", "license", "notes")}
    facts |= {"datasets": [HOSTILE, "a/b"], "rewards": [HOSTILE], "recipe": {HOSTILE: HOSTILE}}
    facts |= {
        "data": {"sources": HOSTILE, "license": HOSTILE, "consent": HOSTILE},
        "evaluation": [{HOSTILE: HOSTILE}],
    }
    rows = [TrainingExample(("a.png",), HOSTILE, "yes", "yes_no")]
    out = export(adapter, tmp_path / "out", facts=facts, rows=rows)
    for name, kind, title in (
        ("README.md", ModelCard, "Personalised captioner"),
        ("dataset_card.md", DatasetCard, "Training rows"),
    ):
        card = kind.load(out / name)
        assert card.data.to_dict()["license"] == HOSTILE  # one value, as it was typed
        head = (out / name).read_text().split("\n---\n")[0].removeprefix("---\n")
        assert set(yaml.safe_load(head)) <= {
            *("library_name", "pipeline_tag", "license", "datasets", "tags", "task_categories")
        }
        assert card.text.strip().startswith(f"# {title}")
        body = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
        assert "<script" not in body and "[x](" not in body and "\n# Owned" not in card.text
        assert [line for line in body.splitlines() if line.startswith("# ")] == [f"# {title}"]
        tables = [line for line in body.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", line)) == 2 for line in tables)  # one column, as given
    code = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    compile(code[0], "card", "exec")
    assert "a/b" in ModelCard.load(out / "README.md").data.datasets


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"licence": "mit"}, "facts, 'licence': is none of base"),
        ({"license": 3}, "facts, 'license': must be a str"),
        ({"datasets": "one"}, "facts, 'datasets': must be a list"),
        ({"datasets": [1]}, "facts, 'datasets': must be a list of names"),
        ({"evaluation": ["x"]}, "facts, 'evaluation': must be a list of rows"),
        ({"data": []}, "facts, 'data': must be a mapping"),
    ],
)
def test_wrong_facts(adapter, tmp_path, facts, message):
    with pytest.raises(ExportError, match=message):
        export(adapter, tmp_path / "out", facts=facts)
    assert list(tmp_path.iterdir()) == []


def test_the_dataset_card(adapter, tmp_path):
    rows = [
        TrainingExample(("a.png", "b.png"), "same?", "yes", "yes_no"),
        TrainingExample(("a.png",), "where?", [1, 2, 3, 4], "iou"),
        TrainingExample(("c.png",), "where?", [1, 2, 3, 4], "iou"),
    ]
    card = DatasetCard.load(export(adapter, tmp_path / "out", facts=FACTS, rows=rows) / "dataset_card.md")
    assert card.data.to_dict()["license"] == "cc-by-4.0"
    assert "3 rows on 3 photos" in card.text and "- OCT (`yes_no`): 1\n- VLT (`iou`): 2\n" in card.text
    assert "- Sources: my photos\n" in card.text and "written consent of all" in card.text
    bare = DatasetCard.load(export(adapter, tmp_path / "bare", rows=rows) / "dataset_card.md")
    assert (
        bare.data.to_dict()["license"] == "unknown"
        and "Consent of the people shown: not recorded" in bare.text
    )


def test_evaluation_rows_are_those_of_intervals(folder):
    from repic_core.captioner.caption_files import load_captions
    from repic_core.concepts.database import ConceptDatabase

    (row,) = evaluation_rows({"ours": folder / "ours.json"}, folder / "database.json")
    want = score_intervals(
        load_captions(folder / "ours.json"), "span", ConceptDatabase.load(folder / "database.json")
    )
    assert row == {
        "captions": "ours",
        "n": "3 of 3 photos",
        **{name: str(value) for name, value in want.items()},
    }


def test_push_uploads_the_folder_and_nothing_else(adapter, tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repository, **options):
            calls.append(("create", repository, options))

        def upload_folder(self, **options):
            files = {path.name for path in Path(options["folder_path"]).iterdir()}
            calls.append(("upload", options["repo_id"], "README.md" in files))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    export(adapter, tmp_path / "quiet")
    assert calls == []
    export(adapter, tmp_path / "out", push="me/captioner")
    assert calls == [
        ("create", "me/captioner", {"private": True, "exist_ok": True}),
        ("upload", "me/captioner", True),
    ]
    with pytest.raises(ExportError, match=r"push '\.\./x': must be a hub repository"):
        export(adapter, tmp_path / "other", push="../x")
    assert len(calls) == 2 and not (tmp_path / "other").exists()


def test_the_command(adapter, folder, tmp_path, capsys):
    facts = tmp_path / "facts.yaml"
    facts.write_text(yaml.safe_dump(FACTS))
    command = [str(adapter), str(tmp_path / "out"), "--facts", str(facts)]
    captions = ["--captions", f"mine={folder / 'ours.json'}", "--database", str(folder / "database.json")]
    assert main(["export", *command, *captions]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| mine | 3 of 3 photos |" in card and "4 references" in card
    assert main(["export", *command]) == 2
    assert re.fullmatch(r"repic export: .*out: is there and not empty.*\n", capsys.readouterr().err)
    facts.write_text("a: [")
    assert main(["export", str(adapter), str(tmp_path / "new"), "--facts", str(facts)]) == 2
    assert "not valid YAML" in capsys.readouterr().err
