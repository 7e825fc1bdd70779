"""Export: folders that load without this package, what is uploaded, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from helpers.publishing import FACTS
from repic_core.cli import main
from repic_core.evaluation.intervals import score_intervals
from repic_core.models.loading import load_model
from repic_core.publish.export import ExportError, evaluation_rows, export, read_facts
from repic_core.publish.loadable import folder_faults, vllm_faults
from repic_core.training.recipe import LORA_TARGETS

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
    ("facts", "message"),
    [
        ({"licence": "mit"}, "facts, 'licence': unknown; use base"),
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
    assert re.fullmatch(r"repic export: .*out: already exists and is not empty.*\n", capsys.readouterr().err)
    facts.write_text("a: [")
    assert main(["export", str(adapter), str(tmp_path / "new"), "--facts", str(facts)]) == 2
    assert "not valid YAML" in capsys.readouterr().err


def test_facts_in_utf_16(tmp_path):
    (tmp_path / "facts.yaml").write_bytes("title: Zoë\n".encode("utf-16"))
    assert read_facts(tmp_path / "facts.yaml") == {"title": "Zoë"}
