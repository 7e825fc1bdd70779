"""``run.json``: what it holds, what is refused, and that a run is repeated from it bit for bit."""

import contextlib
import copy
import io
import json
import logging
import subprocess

import pytest
import torch
from trl import GRPOConfig, SFTConfig

from helpers.families import varied
from repic_core.cli import main
from repic_core.data.rows import read_rows, to_dataset, write_rows
from repic_core.models.loading import load_model
from repic_core.training import grpo, reproduce, run_record, sft
from repic_core.training.recipe import read_recipe
from repic_core.training.run_record import RecordError, changed, hash_data, read_record

SMALL = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_steps": 2,
    "lora_dropout": 0.1,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def rows(data):
    return write_rows(data / "three.jsonl", read_rows(data / "rows.jsonl")[:3])


def command(base, rows, out, **more):
    options = {"config": "toy", "model": base, "rows": rows, "output_dir": out, **SMALL, **more}
    grpo.main([text for key, value in options.items() for text in (f"--{key}", str(value))])


@pytest.fixture(scope="module")
def done(base, rows, tmp_path_factory):
    """Folder of a run from the command line, whose record names the file of rows."""
    out = tmp_path_factory.mktemp("run") / "out"
    command(base, rows, out, beta=0.1)
    return out


def repeated(arguments):
    """The exit status, or for 2 what is said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["reproduce", *map(str, arguments)])
    return said.getvalue().splitlines()[-1] if status == 2 else status


def test_what_the_record_holds(base, rows, data, done):
    record = read_record(done / "run.json")
    assert record["recipe"] == "toy" and record["kind"] == "grpo" and record["seeds"]["seed"] == 0
    settings = record["settings"]
    assert (settings["beta"], settings["max_steps"], settings["lora_r"]) == (0.1, 2, 32)
    digest = hash_data(to_dataset(read_rows(rows), data, 0))
    assert record["data"] == {"rows": str(rows), "root": str(data), "count": 3, "sha256": digest}
    assert record["model"]["name"] == str(base) and record["model"]["dtype"] == "float32"
    (session,) = record["sessions"]
    assert session["from"] is None and session["seconds"] >= 0 and session["processes"] == 1
    assert session["versions"]["torch"] == torch.__version__.split("+")[0]
    assert session["device"]["type"] == "cpu"
    result = record["result"]
    assert result["steps"] == 2 and {"loss", "reward", "grad_norm", "kl"} <= set(result["metrics"])
    assert list(result["weights"]) == ["adapter_model.safetensors"]


def test_the_settings_give_the_same_configuration_again(tmp_path):
    for name, kind in (("toy", GRPOConfig), ("paper", GRPOConfig), ("toy_sft", SFTConfig)):
        given = {"output_dir": str(tmp_path), "bf16": False, "hub_token": "secret", "report_to": "none"}
        tune, config = read_recipe(name, kind, given)
        settings = changed(tune) | changed(config)
        assert "secret" not in json.dumps(settings) and str(tmp_path) not in json.dumps(settings)
        recipe = reproduce.write_recipe(tmp_path / "again.yaml", settings)
        again, same = read_recipe(recipe, kind, {"output_dir": str(tmp_path), "hub_token": "secret"})
        assert again == tune and same.to_dict() == config.to_dict()


def test_a_run_is_repeated_bit_for_bit(done, tmp_path, capsys):
    assert repeated([done / "run.json", "--out", tmp_path / "again"]) == 0
    said = capsys.readouterr().out
    assert "weights: equal bit for bit" in said and "metric" not in said
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        done / "adapter_model.safetensors"
    ).read_bytes()
    assert repeated([done / "run.json", "--out", tmp_path / "again"]) == (
        f"repic reproduce: {tmp_path / 'again'}: is not empty; give a new folder"
    )


def test_a_run_with_other_settings_is_not_called_the_same(done, tmp_path, capsys):
    record = json.loads((done / "run.json").read_text())
    record["settings"]["seed"] = 3  # the suffixes of the prompts are drawn from it
    record["sessions"][0]["versions"]["trl"] = "0.1"
    record["sessions"][0]["commit"] = None
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert repeated([tmp_path / "run.json", "--out", tmp_path / "again", "--anyway"]) == 1
    said = capsys.readouterr().out
    assert "differs: versions trl: was 0.1, is 1.16.0" in said
    assert "weights: differ" in said and "metric entropy: was" in said


def test_other_data_or_another_model_is_refused(done, base, rows, data, tmp_path, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    model, processor = load_model(base)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    model.save_pretrained(other)
    processor.save_pretrained(other)
    fewer = write_rows(data / "two.jsonl", read_rows(rows)[:2])
    out = ["--out", tmp_path / "out"]
    said = repeated([done / "run.json", *out, "--model", other])
    assert "not what the run was trained on: the model" in said and "--anyway" in said
    assert f"the rows of {fewer} or their photos differ (2 rows; were 3)" in repeated(
        [done / "run.json", *out, "--rows", fewer]
    )
    photo = data / read_rows(rows)[0].images[0]
    kept = photo.read_bytes()
    try:
        photo.write_bytes(kept + b"\x00")
        assert "or their photos differ (3 rows; were 3)" in repeated([done / "run.json", *out])
    finally:
        photo.write_bytes(kept)
    assert not (tmp_path / "out").exists()


def test_a_run_with_rewards_and_rows_in_memory(base, rows, data, tmp_path):
    out = tmp_path / "out"
    grpo.train(*load_model(base), read_rows(rows), out, root=data, rewards=[(varied, 0.5)], **SMALL)
    record = read_record(out / "run.json")
    assert record["rewards"] == [["varied", 0.5]] and record["data"]["rows"] is None
    again = [out / "run.json", "--out", tmp_path / "again"]
    assert "its rows were given in memory; give the file" in repeated(again)
    assert "trained with further rewards: varied (0.5); call" in repeated([*again, "--rows", rows])
    told = []
    assert reproduce.repeat(
        out / "run.json", tmp_path / "again", rows=rows, rewards=[(varied, 0.5)], tell=told.append
    )
    assert told[-1] == "weights: equal bit for bit"


def test_supervised_runs_are_repeated(base, rows, data, tmp_path, capsys):
    examples = [row for row in read_rows(data / "rows.jsonl") if isinstance(row.solution, str)][:3]
    captions = write_rows(data / "captions.jsonl", examples)
    settings = {"max_steps": 2, "report_to": "none", "learning_rate": 1e-3, "lora_dropout": 0.1}
    sft.train(*load_model(base), examples, tmp_path / "out", root=data, **settings)
    assert read_record(tmp_path / "out" / "run.json")["kind"] == "sft"
    again = [tmp_path / "out" / "run.json", "--out", tmp_path / "again", "--rows", captions]
    assert repeated(again) == 0


def test_sessions_and_what_changed_between_them(base, rows, data, tmp_path, caplog):
    settings = {"root": data, "save_steps": 1, **SMALL}
    examples = read_rows(rows)
    grpo.train(*load_model(base), examples, tmp_path, **settings)
    with caplog.at_level(logging.WARNING):
        grpo.train(*load_model(base), examples[::-1], tmp_path, resume=True, **settings | {"max_steps": 3})
    assert "run.json: resumed with different settings, data" in caplog.text
    record = read_record(tmp_path / "run.json")
    assert [session["from"] for session in record["sessions"]] == [None, "checkpoint-2"]
    assert record["sessions"][1]["changed"] == ["settings", "data"] and record["result"]["steps"] == 3
    lines = reproduce.differences(record["sessions"], torch.device("cpu"))
    assert "the run had 2 sessions; it is repeated in one" in lines
    (tmp_path / "run.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        grpo.train(*load_model(base), examples, tmp_path, resume=True, **settings | {"max_steps": 4})
    assert "run.json: not valid JSON" in caplog.text
    assert [session["from"] for session in read_record(tmp_path / "run.json")["sessions"]] == ["checkpoint-3"]


def test_data_is_hashed_by_content(data, tmp_path):
    examples = read_rows(data / "rows.jsonl")[:4]
    one = hash_data(to_dataset(examples, data, 0))
    moved = tmp_path / "elsewhere"
    for row in examples:
        for image in row.images:
            (moved / image).parent.mkdir(parents=True, exist_ok=True)
            (moved / image).write_bytes((data / image).read_bytes())
    assert hash_data(to_dataset(examples, moved, 0)) == one
    assert hash_data(to_dataset(examples[::-1], data, 0)) != one
    (moved / examples[0].images[0]).unlink()
    assert hash_data(to_dataset(examples, moved, 0)) != one


def without(record, *names):
    inner = record
    for name in names[:-1]:
        inner = inner[name]
    del inner[names[-1]]
    return record


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: [r], "must hold an object"),
        (lambda r: without(r, "settings"), "field 'settings': missing"),
        (lambda r: r | {"format": 2}, "field 'format': 2; this version reads 1"),
        (lambda r: r | {"format": "1"}, "field 'format': missing, or not of type int"),
        (lambda r: r | {"kind": "dpo"}, "field 'kind': 'dpo' is neither"),
        (lambda r: without(r, "data", "sha256"), "field 'data.sha256': missing"),
        (lambda r: without(r, "model", "weights"), "field 'model.weights': missing"),
        (lambda r: r | {"sessions": []}, "field 'sessions': must be a list"),
        (lambda r: r | {"sessions": [{}]}, "field 'sessions': must be a list"),
        (lambda r: r | {"result": {"weights": 3}}, "field 'result'"),
    ],
)
def test_a_broken_record_is_named(done, tmp_path, spoil, message):
    record = copy.deepcopy(read_record(done / "run.json"))
    (tmp_path / "run.json").write_text(json.dumps(spoil(record)))
    with pytest.raises(RecordError, match=f"run.json.*{message}"):
        read_record(tmp_path / "run.json")
    with pytest.raises(RecordError, match=r"gone.json: can't be read"):
        read_record(tmp_path / "gone.json")


def test_the_commit_is_that_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_record.commit() is None
    (tmp_path / "a").write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command_ in (["init", "-q"], ["add", "a"], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", *command_], check=True)
    sha = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert run_record.commit() == {"sha": sha, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert run_record.commit() == {"sha": sha, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert run_record.commit() is None
