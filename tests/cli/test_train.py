"""``repic train``: flags of the kit and of TRL, both trainers, what is printed, and no warnings of libraries."""

import json
import subprocess
import sys

import pytest

from repic_core.cli import main, parse
from repic_core.data.rows import read_rows, write_rows
from repic_core.models.loading import load_model
from repic_core.training import grpo, sft
from repic_core.training.run_record import read_record

SMALL = (
    *("--per_device_train_batch_size", "2", "--num-generations", "2", "--max_completion_length", "4"),
    *("--max-steps", "1", "--report_to", "none"),
)


@pytest.fixture(scope="module")
def rows(data):
    return write_rows(data / "three.jsonl", read_rows(data / "rows.jsonl")[:3])


def train(kind, *arguments):
    return main(["train", kind, *map(str, arguments)])


def test_arguments_of_the_kit_and_of_the_trainer_are_told_apart():
    given = [
        "--config",
        "toy",
        "--max_steps",
        "3",
        "--rows=r.jsonl",
        "--learning-rate",
        "-1e-5",
        "--image_root",
        "p",
    ]
    options = parse(["train", "grpo", *given, "--resume"])
    assert (options.config, options.rows, options.image_root, options.resume) == (
        "toy",
        "r.jsonl",
        "p",
        "true",
    )
    assert options.trainers == ["--max_steps", "3", "--learning-rate", "-1e-5"]


def test_grpo_prints_the_folder_and_keeps_the_trainers_settings(base, rows, tmp_path, capsys):
    out = tmp_path / "out"
    given = ("--config", "toy", "--model", base, "--rows", rows, "--output-dir", out, *SMALL)
    assert train("grpo", *given, "--quiet", "--beta=0.1") == 0
    assert capsys.readouterr().out == f"{out}\n"
    record = read_record(out / "run.json")
    settings = record["settings"]
    assert (record["kind"], settings["beta"], settings["max_steps"]) == ("grpo", 0.1, 1)
    assert "dataloader_pin_memory" not in settings  # of the machine, not of the run
    load_model(base, adapter=out)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert any(path.parent.name == "checkpoint-1" for path in kept)
    assert train("grpo", *given, "--quiet") == 2
    assert f"{out}: holds the result of a run: give another folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds the result of a run"):
        sft.train(*load_model(base), read_rows(rows), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept
    assert train("grpo", *given, "--quiet", "--overwrite") == 0
    assert read_record(out / "run.json")["settings"]["beta"] != 0.1


def test_sft_takes_a_file_of_captions_and_is_repeated(base, data, tmp_path, capsys):
    captions = write_rows(data / "captions.jsonl", read_rows(data / "captions_multi.jsonl")[:3])
    out = tmp_path / "out"
    given = ("--config", "toy_sft", "--model", base, "--rows", captions, "--output-dir", out)
    small = (
        "--tune",
        "lora",
        "--per_device_train_batch_size",
        "2",
        "--max-steps",
        "1",
        "--report_to",
        "none",
    )
    assert train("sft", *given, *small, "--quiet") == 0
    assert capsys.readouterr().out == f"{out}\n"
    record = read_record(out / "run.json")
    assert (record["kind"], record["recipe"], record["settings"]["max_steps"]) == ("sft", "toy_sft", 1)
    assert record["data"]["rows"] == str(captions)
    load_model(base, adapter=out)
    assert main(["reproduce", str(out / "run.json"), "--out", str(tmp_path / "again"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["same"] is True and said["said"][-1] == "weights: equal bit for bit"
    assert main(["reproduce", str(out / "run.json"), "--out", str(tmp_path / "third"), "--quiet"]) == 0
    assert capsys.readouterr().out == "the same weights\n"


def test_sft_refuses_rows_that_are_no_captions(base, data, tmp_path, capsys):
    boxes = write_rows(data / "boxes.jsonl", [r for r in read_rows(data / "rows.jsonl") if r.method == "iou"])
    given = ("--config", "toy_sft", "--model", base, "--rows", boxes, "--output-dir", tmp_path / "out")
    assert train("sft", *given) == 2
    assert "repic train sft: row 1: the solution must be a caption (text)" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("module", [grpo, sft])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config: give 3b-1gpu, "),
        (["--config", "papper"], "papper: no such recipe"),
        (["--config", "RECIPE", "--output_dir", "x"], "--rows: give a JSON or JSONL file"),
        (
            ["--config", "RECIPE", "--rows", "gone.jsonl", "--output_dir", "x"],
            "gone.jsonl: can't be read (No such file",
        ),
        (["--config", "RECIPE", "--rows", "gone.jsonl", "--betta", "1"], "betta"),
        (["--config", "RECIPE", "--rows", "gone.jsonl", "--max_steps", "a"], "invalid int value: 'a'"),
    ],
)
def test_both_commands_say_what_is_wrong(module, arguments, message, capsys):
    kind = module.__name__.rpartition(".")[2]
    recipe = {"grpo": "toy", "sft": "toy_sft"}[kind]
    arguments = [recipe if argument == "RECIPE" else argument for argument in arguments]
    assert train(kind, *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith(f"repic train {kind}: ")]
    assert message in line
    with pytest.raises(SystemExit) as end:  # as accelerate starts it
        module.main(arguments)
    assert str(end.value).startswith(f"repic_core.training.{kind}: ") and message in str(end.value)


def test_a_run_that_ends_early_is_one_line(base, rows, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        def reward(completions, **columns):
            raise ZeroDivisionError("in a reward")

        return reward

    monkeypatch.setattr(grpo, "make_reward", broken)
    given = ("--config", "toy", "--model", base, "--rows", rows, "--output-dir", tmp_path / "out", *SMALL)
    assert train("grpo", *given, "--quiet") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "repic train grpo: training stopped after step 0 of 1: reward 'reward' raised ZeroDivisionError"
    )


def test_training_shows_no_warning_of_a_library(base, rows, tmp_path):
    """In a process of its own, as pytest shows warnings in its own way."""
    given = ["--config", "toy", "--model", base, "--rows", rows, "--output-dir", tmp_path / "out", *SMALL]
    command = [sys.executable, "-m", "repic_core", "train", "grpo", *map(str, given), "--quiet"]
    done = subprocess.run([*command, "--gradient_checkpointing", "true"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'out'}\n", "")
    module = [sys.executable, "-m", "repic_core.training.grpo", *map(str, given), "--overwrite"]
    done = subprocess.run(module, capture_output=True, text=True)  # with progress and notes
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
