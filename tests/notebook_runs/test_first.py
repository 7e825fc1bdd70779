"""What notebooks 00 to 02 compute on the values of `quick.yaml` is right; each takes what it is given."""

import csv
import json
import shutil
import zipfile

import pytest

from helpers.notebooks import FOLDER, results
from repic_core.data.rows import read_rows
from repic_core.evaluation.query_sets import load_query_set
from repic_core.models.loading import PAPER_MAX_PIXELS
from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.runner import find_notebooks, run_notebook
from repic_core.prompts import CAPTION_QUESTIONS


@pytest.mark.parametrize("name", [path.stem for path in find_notebooks(FOLDER)])
def test_writes_results(run_dir, name):
    assert results(run_dir, name)


def test_data_is_complete_and_held_out(run_dir):
    found = results(run_dir, "01_data_preparation")
    assert found["overlap"] == {"tag": 0, "drawing": 0}
    assert all(found["rows"].values()) and 48 + 12 < sum(found["rows"].values()) <= 48 * 3 // 2
    assert found["test_concepts"] > 60


def test_training_ran_and_logged(run_dir):
    found = results(run_dir, "02_grpo_post_training")
    assert (found["steps"], found["trainer"]) == (6, "SharedPrefixGRPOTrainer")
    with open(run_dir / "models" / "grpo" / "metrics.csv", newline="") as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file) if row.get("reward")]
    means = found["means"]
    assert (means["first"]["reward"], means["last"]["reward"]) == pytest.approx((rewards[0], rewards[-1]))
    # The base can name concepts, but often does not.
    assert 0.3 < rewards[0] < 0.9 and 0.3 < rewards[-1] < 0.9
    assert 0 < means["last"]["kl"] < 1  # it has moved, but not far
    assert (run_dir / "models" / "grpo" / "adapter_model.safetensors").exists()
    assert len(found["captions"]) == 4 and all(pair["before"] and pair["after"] for pair in found["captions"])


def test_your_photos_become_all_that_is_promised(run_dir):
    found = results(run_dir, "00_your_photos")
    assert found["concepts"] == 6 and found["rows"]["yes_no"] == 12 and found["page_steps"] >= 1
    assert len(found["found"]) == 4 and len(found["captions"]) == 4 and len(found["boxes"]) == 1
    assert (run_dir / "00_your_photos" / "database.json").is_file()
    with zipfile.ZipFile(run_dir / "00_your_photos" / "concepts.zip") as archive:
        assert "<somebody new>" in json.loads(archive.read("database.json"))["concept_dict"]


def test_photos_of_ones_own_run_through(official_root, tmp_path):
    """The authors' DreamBooth photos, with the toy: what it says means nothing, and a note says so once."""
    photos = official_root / "data" / "dreambooth"
    executed = run_notebook(FOLDER / "00_your_photos.ipynb", tmp_path, {"photos": str(photos)})
    found = results(tmp_path, "00_your_photos")
    folders = [folder for folder in photos.iterdir() if folder.is_dir()]
    assert found["concepts"] == len(folders) and all(found["rows"][m] for m in found["rows"] if m != "iou")
    notes = executed.read_text(encoding="utf-8").count("**Note.** the toy base knows nothing but")
    assert notes == 1
    own = load_query_set(tmp_path / "data" / "own")
    assert own.root == photos.resolve() and {len(asked) for asked in own.queries.values()} == {len(folders)}
    rows = read_rows(tmp_path / "data" / "own" / "rows.jsonl")
    assert {row.method for row in rows} == {"yes_no", "yes_no_name", "yes_no_name_multi"}


def test_own_data_is_saved_for_the_later_notebooks(official_root, run_dir, tmp_path):
    """Notebook 1 given each of its parameters: own rows are read, photos become rows, the authors' folder a set."""
    given = run_dir / "data" / "train" / "rows.jsonl"
    rows = given.read_text(encoding="utf-8").splitlines()[:3]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows), encoding="utf-8")
    photos = run_dir / "data" / "photos"
    parameters = {"scenes": 8, "queries": 2, "seed": 1, "photos": str(photos)}
    parameters |= {"rows_file": str(tmp_path / "mine.jsonl"), "image_root": str(given.parent)}
    parameters["official_root"] = str(official_root)
    run_notebook(FOLDER / "01_data_preparation.ipynb", tmp_path / "run", parameters)
    found = results(tmp_path / "run", "01_data_preparation")
    assert sum(found["rows"].values()) == 3
    assert (
        sum(found["own_rows"].values())
        == len(read_rows(tmp_path / "run" / "data" / "own" / "rows.jsonl"))
        > 0
    )
    official = load_query_set(tmp_path / "run" / "data" / "official_4-concepts")
    assert official.settings.max_pixels == PAPER_MAX_PIXELS and official.settings.system == "evaluation"
    assert [item.question for item in official.items("4 all", 2)] == list(CAPTION_QUESTIONS["single"][:2])
    assert {row["setting"]: row["photos"] for row in found["official"]}["4-concepts"] > 0


def test_a_training_takes_what_it_is_given_and_replaces_nothing(run_dir, tmp_path):
    """Own rows, another recipe and number of steps; a finished run is kept unless told otherwise."""
    shutil.copytree(run_dir / "data" / "val", tmp_path / "held out")
    parameters = {
        "rows_file": str(run_dir / "data" / "own" / "rows.jsonl"),
        "data": str(tmp_path / "held out"),
        "query_set": "2 all",
        "max_steps": 1,
        "shared_prefix": False,
    }
    book = FOLDER / "02_grpo_post_training.ipynb"
    run_notebook(book, tmp_path / "run", parameters)
    found = results(tmp_path / "run", "02_grpo_post_training")
    assert (found["steps"], found["trainer"]) == (1, "GRPOTrainer")
    record = json.loads((tmp_path / "run" / "models" / "grpo" / "run.json").read_text())
    assert record["data"]["count"] == len(read_rows(parameters["rows_file"]))
    with pytest.raises(NotebookError, match=r"Held: .*grpo: holds the result of a run"):
        run_notebook(book, tmp_path / "run", parameters)
    run_notebook(book, tmp_path / "run", {**parameters, "overwrite": True, "max_steps": 2})
    assert results(tmp_path / "run", "02_grpo_post_training")["steps"] == 2
