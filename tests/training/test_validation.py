"""Validation while training: the best step is the result, it is told, and the run itself is not changed.

On the toy base, whose captions have names: those of a random model would score 0 at every step.
"""

import csv
import json

import pytest

from repic_core.captioner.captioner import Captioner
from repic_core.cli import main
from repic_core.data.rows import TrainingExample, read_rows, write_rows
from repic_core.evaluation.scores import score
from repic_core.models.loading import load_model
from repic_core.tasks import ICT
from repic_core.toyworld.dataset import write_training
from repic_core.training import sft
from repic_core.training.validation import Validation, names_f1

BASE = "assets/toy-base"
# Eight scenes at a rate that is far too high: held-out names are lost again after a few steps.
OVERFIT = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 0}
QUIET = {"report_to": "none", "logging_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_training(folder, 60)
    captions = read_rows(folder / "captions_multi.jsonl")
    asked = [row for row in read_rows(folder / "rows.jsonl") if row.method in ICT]
    few = [n for n, row in enumerate(captions) if len(row.images) <= 4]
    write_rows(folder / "held_out.jsonl", [asked[n] for n in few[8:18]])
    write_rows(folder / "eight.jsonl", [captions[n] for n in few[:8]])
    return folder


def trained(data, out, validation=None, **options):
    model, processor = load_model(BASE)
    rows = read_rows(data / "eight.jsonl")
    sft.train(
        model, processor, rows, out, root=data, validation=validation, **{**OVERFIT, **QUIET, **options}
    )
    return model, processor


def held_out(data, **options):
    return Validation(
        read_rows(data / "held_out.jsonl"), data, **{"every": 5, "max_new_tokens": 48, **options}
    )


@pytest.fixture(scope="module")
def overfit(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("overfit")
    return out, *trained(data, out, held_out(data))


def recorded(out):
    return json.loads((out / "run.json").read_text())["result"]["validation"]


def losses(out):
    with open(out / "metrics.csv", newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def test_eight_scenes_overfit_and_the_best_step_is_the_result(data, overfit):
    out, model, processor = overfit
    found = recorded(out)
    scores = {int(step): f1 for step, f1 in found["names_f1"].items()}
    assert list(scores) == [0, 5, 10, 15, 20] and found["rows"] == 10
    best = found["best_step"]
    assert best < 20 and scores[best] == max(f1 for step, f1 in scores.items() if step) > scores[20]
    # The saved model, loaded afresh, and the model in memory have the best step's score.
    for one, own in ((model, processor), load_model(out)):
        assert names_f1(captions(one, own, data), held_out(data).asked) == scores[best]


def captions(model, processor, data):
    from random import Random

    from repic_core.prompts import task_messages

    captioner = Captioner(model, processor, system=None, max_new_tokens=48)
    rows = held_out(data).asked
    images = [[data / image for image in row.images] for row in rows]
    rng = Random(0)
    asked = [task_messages(own, row.problem, row.method, rng) for own, row in zip(images, rows, strict=True)]
    return captioner.answer_many(asked)


def test_the_run_is_the_same_to_the_bit(data, overfit, tmp_path):
    trained(data, tmp_path)
    assert losses(tmp_path) == losses(overfit[0]) and len(losses(tmp_path)) == 20


def test_patience_ends_the_run_and_a_resumed_run_finds_the_same(data, overfit, tmp_path):
    trained(data, tmp_path, held_out(data, patience=1), save_steps=5)
    early, whole = recorded(tmp_path), recorded(overfit[0])
    steps = list(map(int, early["names_f1"]))
    assert steps[-1] == early["best_step"] + 5 and early["best_step"] == whole["best_step"]
    assert early["names_f1"].items() <= whole["names_f1"].items()
    trained(data, tmp_path, held_out(data), resume=True)
    assert recorded(tmp_path) == whole
    first, second = load_model(tmp_path)[0], load_model(overfit[0])[0]
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_grpo_from_the_command_line(data, tmp_path):
    rows = ["--rows", str(data / "rows.jsonl"), "--eval-rows", str(data / "held_out.jsonl")]
    settings = [
        "--max-steps",
        "2",
        "--eval-every",
        "1",
        "--report-to",
        "none",
        "--max-completion-length",
        "24",
    ]
    small = [
        "--per-device-train-batch-size",
        "8",
        "--num-generations",
        "4",
        "--gradient-accumulation-steps",
        "1",
    ]
    out = tmp_path / "out"
    command = ["train", "grpo", "--config", "toy", "--model", BASE, "--output-dir", str(out)]
    assert main([*command, *rows, *settings, *small]) in (0, None)
    assert list(recorded(out)["names_f1"]) == ["0", "1", "2"] and recorded(out)["best_step"] in (1, 2)
    assert (out / "adapter_config.json").exists() or (out / "config.json").exists()


def test_names_are_counted_as_by_the_protocol_span():
    tags = ["<bo>", "<mia>", "<zoe>"]
    rows = [
        TrainingExample(("a.jpg",), "Caption it.", ["<bo>", "<mia>"], "yes_no_name_multi", tuple(tags)),
        TrainingExample(("b.jpg",), "Caption it.", "<zoe>", "yes_no_name", tuple(tags)),
    ]
    said = ["<bo> and Zoe.", "**Zoe**, bo and <think>mia</think> Zoe."]
    records = [("a.jpg", ["<bo>", "<mia>"], said[0]), ("b.jpg", ["<zoe>"], said[1])]
    from repic_core.concepts.concept import Concept
    from repic_core.concepts.database import ConceptDatabase

    database = ConceptDatabase(Concept(tag, image="x.jpg") for tag in tags)
    assert names_f1(said, rows) == pytest.approx(score(records, "span", database).f1)


def test_what_cannot_be_validated_is_refused(data):
    rows = [row for row in read_rows(data / "rows.jsonl") if row.method not in ICT]
    with pytest.raises(ValueError, match="none is of yes_no_name or yes_no_name_multi"):
        Validation(rows, data)
    with pytest.raises(ValueError, match="at least 1 step"):
        held_out(data, every=0)
