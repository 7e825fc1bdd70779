"""Cards say what is known and nothing else, and no text of a user can break them."""

import json
import re
import shutil

import yaml
from huggingface_hub import DatasetCard, ModelCard

from helpers.publishing import FACTS, HUB_BASE
from repic_core.data.rows import TrainingExample
from repic_core.publish.export import export
from repic_core.training.run_record import hash_files

HOSTILE = (
    "mine\n---\n# Owned\n<script>alert(1)</script> [x](javascript:y) | a: *b* `c` {{ d }} \u2028 'f' " + '"""'
)


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
        r"lora\_alpha 8",
    ):
        assert text in card.text, text
    assert r"| 4 references | 85.0 \[81.0, 89.0\] |" in card.text
    for part in ("Intended use", "Limits", "Consent and privacy", "Training", "Evaluation"):
        assert f"\n## {part}\n" in card.text
    assert card.text.count("not recorded") == 1 and "- Run: not recorded" in card.text


def test_what_is_unknown_is_not_recorded(adapter, merged, tmp_path):
    for number, source in enumerate((adapter, merged)):
        card = ModelCard.load(export(source, tmp_path / str(number)) / "README.md")
        # the base, "tiny", is not a hub id
        assert not {"license", "datasets", "base_model"} & card.data.to_dict().keys()
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
    # as after a later run that was started in the same folder
    record["result"]["weights"] = {"adapter_model.safetensors": "0" * 64}
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
        allowed = {"library_name", "pipeline_tag", "license", "datasets", "tags", "task_categories"}
        assert set(yaml.safe_load(head)) <= allowed
        assert card.text.strip().startswith(f"# {title}")
        body = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
        assert "<script" not in body and "[x](" not in body and "\n# Owned" not in card.text
        assert [line for line in body.splitlines() if line.startswith("# ")] == [f"# {title}"]
        tables = [line for line in body.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", line)) == 2 for line in tables)  # one column, as given
    code = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    compile(code[0], "card", "exec")
    assert "a/b" in ModelCard.load(out / "README.md").data.datasets


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
    assert bare.data.to_dict()["license"] == "unknown"
    assert "Consent of the people shown: not recorded" in bare.text
