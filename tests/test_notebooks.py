"""The notebooks keep the house form, and what they compute on a shortened `tiny` profile is right.

They run once, in order, through the module that `bash setup.sh demo` uses, with `quick=True`; each test then
looks at the numbers in `results.json`.
"""

import ast
import contextlib
import csv
import json
import shutil
from pathlib import Path

import nbformat
import pytest

from repic_core.captioner.caption_files import settings_path
from repic_core.models.loading import PAPER_MAX_PIXELS, load_model
from repic_core.models.parts import hash_weights
from repic_core.notebooks import EVALUATION, results_table, run_all, run_notebook
from repic_core.prompts import CAPTION_QUESTIONS, SYSTEM_PROMPTS

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = [
    "01_data_preparation",
    "02_grpo_post_training",
    "03_inference",
    "04_evaluation",
    "05_four_concept_gradio",
    "06_ablations",
]
MAX_LINES = 25
PARAMETERS = {"profile": "tiny", "quick": False}  # every notebook's, besides run_dir, with these defaults


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def python(cell: nbformat.NotebookNode) -> str:
    """The cell's source without lines for IPython alone."""
    return "\n".join(
        "" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()
    )


def test_these_are_the_notebooks():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_one_parameters_cell(name):
    tagged = [cell for cell in read(name).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(python(tagged[0])).body
        if isinstance(node, ast.Assign)
    }
    assert {key: values[key] for key in PARAMETERS} == PARAMETERS
    assert values["run_dir"] == ""


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_outputs_stripped(name):
    for number, cell in enumerate(code_cells(name), start=1):
        assert len(cell.source.splitlines()) <= MAX_LINES, f"{name}: code cell {number} is too long"
        assert cell.outputs == [], f"{name}: code cell {number} holds output; run nbstripout"
        assert cell.execution_count is None, f"{name}: code cell {number} holds a count; run nbstripout"


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_call_and_do_not_implement(name):
    for cell in code_cells(name):
        for node in ast.walk(ast.parse(python(cell))):
            assert not isinstance(node, ast.ClassDef | ast.AsyncFunctionDef), f"{name}: class {node.name}"
            if isinstance(node, ast.FunctionDef):
                assert node.name.startswith("show"), f"{name}: {node.name} belongs in the package"


@pytest.mark.parametrize("name", NAMES)
def test_begins_with_a_title_and_explains(name):
    cells = read(name).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    prose = [cell for cell in cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code_cells(name)) / 3


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_relative_to_the_root(name):
    setup = code_cells(name)[1]
    assert "os.chdir(project_root())" in setup.source.splitlines()


@pytest.mark.parametrize("start", ["notebooks", "."])
def test_runs_as_people_open_it(tmp_path, start):
    """JupyterLab starts the kernel in the notebook's folder, and `run_dir` is not given."""
    from nbclient import NotebookClient

    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    book = read("01_data_preparation")
    parameters = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += "\nquick = True"
    where = {"metadata": {"path": str(checkout / start)}}
    NotebookClient(book, kernel_name="python3", resources=where).execute()
    results = checkout / "runs" / "tiny" / "01_data_preparation" / "results.json"
    assert json.loads(results.read_text(encoding="utf-8"))["overlap"] == {"tag": 0, "description": 0}
    assert sorted(path.name for path in checkout.iterdir()) == ["notebooks", "pyproject.toml", "runs"]
    assert not list((checkout / "notebooks").iterdir())


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, request) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    parameters = {"profile": "tiny", "quick": True}
    with contextlib.suppress(pytest.skip.Exception):  # the toy parts run without the authors' data
        parameters["official_root"] = str(request.getfixturevalue("official_root").resolve())
    run_all(FOLDER, folder, parameters)
    return folder


def results(run_dir: Path, name: str) -> dict:
    return json.loads((run_dir / name / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_writes_results(run_dir, name):
    assert results(run_dir, name)


def test_data_is_complete_and_held_out(run_dir):
    found = results(run_dir, "01_data_preparation")
    assert found["overlap"] == {"tag": 0, "description": 0}
    assert all(found["rows"].values()) and sum(found["rows"].values()) == 48 * 3 // 2
    assert found["test_concepts"] > 60


def test_training_ran_and_logged(run_dir):
    found = results(run_dir, "02_grpo_post_training")
    assert (found["steps"], found["trainer"]) == (6, "SharedPrefixGRPOTrainer")
    with open(run_dir / "models" / "grpo" / "metrics.csv", newline="") as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file) if row.get("reward")]
    assert found["reward_first"] == pytest.approx(rewards[0])
    # The base can name concepts, but often does not.
    assert 0.3 < found["reward_first"] < 0.9 and 0.3 < found["reward_last"] < 0.9
    assert 0 < found["kl_last"] < 1  # it has moved, but not far
    assert (run_dir / "models" / "grpo" / "adapter_model.safetensors").exists()
    assert all(pair["before"].startswith("On a ") for pair in found["captions"])


def test_probes_cover_all_ways(run_dir):
    found = results(run_dir, "04_evaluation")["robustness"]
    assert list(found) == ["base", "grpo"]
    for ways in found.values():
        assert list(ways) == ["as asked", "shuffled", *(f"{n} wrong" for n in range(1, 5)), "no photos"]
        assert all(0 <= value <= 1 for value in ways.values()) and ways["no photos"] <= 0.2


def test_captions_are_asked_what_they_tell(run_dir):
    found = results(run_dir, EVALUATION)["questions"]
    assert list(found) == [f"{arm} {k}" for arm in ("base", "grpo") for k in (1, 2, 4)]
    assert found["base 1"] >= 0.9 > 0.7 > found["base 4"]  # the base names one toy, and describes four


def test_concepts_are_found_among_many(run_dir):
    found = results(run_dir, EVALUATION)
    assert [(row["concepts"], row["regions"]) for row in found["retrieval"]] == [
        (size, regions) for size in (10, 40) for regions in ("quarters", "true boxes")
    ]
    assert all(row["recall@4"] >= 0.85 for row in found["retrieval"])
    assert all(row["accepted"] <= row["recall@4"] <= row["recall@8"] for row in found["retrieval"])
    assert list(found["retrieval_f1"]["grpo"]) == ["given", "retrieved", "accepted", "strangers named"]
    retrieved = results(run_dir, "03_inference")["retrieved"]
    assert retrieved["concepts"] == 300 and 1 <= len(retrieved["tags"]) <= 4 and retrieved["caption"]


def test_published_captions_come_with_their_intervals(run_dir, official_root):
    found = results(run_dir, "04_evaluation")
    intervals, p, beyond = (found[name]["4"] for name in ("intervals", "p", "beyond_recall"))
    assert intervals["RePIC 7B"]["span"]["caption"].startswith("85.0 [81.")
    assert intervals["RePIC 7B"]["repic-4"]["caption"].startswith("71.0 [")
    assert p["RePIC 7B"]["photo"] == 0.125 and p["RePIC 7B"]["caption"] < 0.001
    assert p["Qwen2.5-VL 7B zero-shot"] == {"photo": 1.0, "caption": 1.0}
    assert beyond["RePIC 7B"]["hallucinated"] == pytest.approx(79 / 105, abs=1e-3)


def test_inference_names_a_single_concept(run_dir):
    found = results(run_dir, "03_inference")
    single = found["rows"][0]
    assert all(caption.count("<") == 1 for caption in single.values())
    assert (run_dir / "03_inference" / "figures" / "captions.pdf").stat().st_size > 5000


def test_base_names_one_concept_and_describes_four(run_dir):
    f1 = {row["k"]: row["f1"] for row in results(run_dir, EVALUATION)["table"] if row["arm"] == "base"}
    assert f1[1] >= 0.9 and f1[4] <= 0.5


def captions_of(run_dir, arm, kind=".json"):
    path = run_dir / "captions" / arm / "4_all.json"
    return json.loads((path if kind == ".json" else settings_path(path)).read_text(encoding="utf-8"))


def test_each_arm_was_captioned_by_its_own_model(run_dir):
    """The weights that made the captions are the base's, and the base's with the adapter."""
    for arm, adapter in (("base", None), ("grpo", run_dir / "models" / "grpo")):
        model, _ = load_model(FOLDER.parent / "assets" / "toy-base", adapter)
        assert captions_of(run_dir, arm, "settings")["weights"] == hash_weights(model), arm
    assert captions_of(run_dir, "base", "settings")["weights"] != hash_weights(model)


def test_evaluation_after_another_training_captions_again(run_dir, tmp_path):
    """Another adapter (here one that spoils the model) and another number of photos in the same folder."""
    from safetensors.torch import load_file, save_file

    for part in ("data/test", "captions", "models/grpo"):
        shutil.copytree(run_dir / part, tmp_path / part)
    weights = tmp_path / "models" / "grpo" / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    run_notebook(FOLDER / f"{EVALUATION}.ipynb", tmp_path, {"profile": "tiny", "limit": 3})
    table = results(tmp_path, EVALUATION)["table"]
    assert {row["n"] for row in table} == {3}
    assert captions_of(tmp_path, "base") == captions_of(run_dir, "base")[:3]
    old, new = captions_of(run_dir, "grpo"), captions_of(tmp_path, "grpo")
    assert all(row != spoilt for row, spoilt in zip(old, new, strict=False))
    assert all(row["f1"] == 0 for row in table if row["arm"] == "grpo")


def test_published_table(run_dir, official_root):
    published = results(run_dir, EVALUATION)["published"]
    assert "4" in published and set(published) <= {"2", "4"}  # 2 concepts: only their whole repository
    published = published["4"]
    assert published["captioning-skip-retrieval-ours"]["repic-4"] == [88.0, 59.5, 71.0]
    assert len(published) == 5


def test_evaluation_has_the_table(run_dir):
    """Every arm has every number of concepts, and F1 is the harmonic mean of precision and recall."""
    table = results(run_dir, EVALUATION)["table"]
    assert {row["k"] for row in table} == {1, 2, 4}
    arms = {row["arm"] for row in table}
    assert "base" in arms and len(arms) >= 2
    assert len(table) == 3 * len(arms)
    for row in table:
        precision, recall = row["precision"], row["recall"]
        assert 0 <= recall <= 1
        if precision and recall:
            assert row["f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-3)
    assert len(results_table(run_dir / EVALUATION / "results.json").splitlines()) == 1 + len(arms)


@pytest.mark.parametrize("name", ["03_inference", "05_four_concept_gradio"])
def test_paper_profile_with_a_local_model(tmp_path, official_root, name):
    """The paths of real weights, with the toy base in their place (its captions of photos mean nothing)."""
    parameters = {
        "profile": "paper",
        "model_name": "assets/toy-base",
        "official_root": str(official_root.resolve()),
    }
    run_notebook(FOLDER / f"{name}.ipynb", tmp_path, parameters)
    found = results(tmp_path, name)
    assert found["profile"] == "paper"
    assert found["max_pixels"] == PAPER_MAX_PIXELS
    if name == "03_inference":
        assert [list(row)[-1] for row in found["published_rows"]] == ["this run"] * 3
        want = published_caption(official_root, found["published_rows"][0]["RePIC"], "evaluation")
        assert found["published_rows"][0]["this run"] == want
        assert found["figure_rows"] and all(row["this run"] for row in found["figure_rows"])
    else:
        assert found["live_steps"] >= 1


def published_caption(official_root, ours, system):
    """The toy base's caption of the photo that RePIC's file captions with `ours`, as that file was made."""
    from repic_core.captioner.caption_files import load_captions
    from repic_core.captioner.captioner import Captioner
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.evaluation.published import published_files

    files, database = published_files(official_root)
    record = next(r for r in load_captions(files["RePIC 7B"]) if r.caption == ours)
    references = ConceptDatabase.load(database, official_root).select(*record.tags)
    model = load_model(FOLDER.parent / "assets" / "toy-base", max_pixels=PAPER_MAX_PIXELS)
    options = {"resized_by": "qwen-vl-utils", "reference_style": "numbered"}
    captioner = Captioner(*model, system=system, **options)
    return captioner.caption(official_root / record.query, references, record.question)


@pytest.fixture
def official_copy(official_root, tmp_path) -> Path:
    """The authors' folder with two hand-written captions of two concepts, which their own has not here."""
    copy, database = tmp_path / "official", "data/database_tot/database_4_concepts"
    for part in (database, "data/query-image-4-concepts", "data/query_tot", "captioning/quad_concept"):
        shutil.copytree(official_root / part, copy / part)
    double = copy / "captioning" / "double_concept"
    double.mkdir()
    rows = [
        ["a.jpg", ["<thor>", "<ironman>"], "<thor> with Ironman.", "?"],  # another case, which is not found
        ["b.jpg", ["<hulk>", "<hawkeye>"], "<hulk> and <thor>.", "?"],  # a miss
    ]
    (double / "captioning-skip-retrieval-ours.json").write_text(json.dumps(rows))
    (copy / "data/database_tot/database_2_concepts").mkdir()
    shutil.copy(copy / database / "database_mod.json", copy / "data/database_tot/database_2_concepts")
    return copy


def test_paper_evaluation_with_a_local_model(official_copy, tmp_path):
    """The authors' queries are captioned as their captions were made, and a run that stopped is resumed."""
    parameters = {"profile": "paper", "model_name": "assets/toy-base", "official_root": str(official_copy)}
    run_notebook(FOLDER / f"{EVALUATION}.ipynb", tmp_path, {**parameters, "limit": 2})
    found = results(tmp_path, EVALUATION)
    double = found["published"]["2"]["captioning-skip-retrieval-ours"]
    assert double == {"repic-2": [66.7, 50.0, 57.1], "span": [75.0, 75.0, 75.0]}
    assert found["intervals"]["2"]["RePIC 7B"]["repic-2"]["photo"].startswith("57.1 [")
    assert found["p"]["2"] == {}  # there are no captions of the untuned model
    assert len(found["published"]["4"]) == 5
    rows = [(row["setting"], row["references"], row["method"], row["captions"]) for row in found["settings"]]
    assert rows == [("4-concepts", "given", "this run", "2"), ("4-concepts", "retrieved", "this run", "2")]
    assert found["max_pixels"] == PAPER_MAX_PIXELS and (tmp_path / EVALUATION / "table.tex").exists()
    path = tmp_path / "captions" / "this run" / "4-concepts.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    published = json.loads(
        (official_copy / "captioning/quad_concept/captioning-skip-retrieval-ours.json").read_text()
    )
    assert [row[:2] + row[3:] for row in rows] == [row[:2] + row[3:] for row in published[:2]]
    assert [row[3] for row in rows] == list(CAPTION_QUESTIONS["single"][:2])
    settings = json.loads(settings_path(path).read_text(encoding="utf-8"))
    assert settings["system"] == SYSTEM_PROMPTS["evaluation"]
    assert settings["image size"]["longest_edge"] == PAPER_MAX_PIXELS
    assert settings["resized by"] == "qwen-vl-utils" and settings["reference style"] == "numbered"
    assert settings["generation"]["max_new_tokens"] == 1024
    path.write_text(json.dumps([[*rows[0][:2], "mine", rows[0][3]], rows[1]]))
    run_notebook(FOLDER / f"{EVALUATION}.ipynb", tmp_path, {**parameters, "limit": 3})
    assert [row[2] for row in json.loads(path.read_text())][:2] == ["mine", rows[1][2]]
    assert {row["captions"] for row in results(tmp_path, EVALUATION)["settings"]} == {"3"}


def test_the_miniature_does_not_mix_runs(tmp_path, monkeypatch):
    """A run under `out` is resumed only with the same base, scenes and settings."""
    from repic_core.toyworld import miniature

    base, out, calls = tmp_path / "base", tmp_path / "out", []
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"one")
    scores = ("precision", "recall", "f1", "coverage", "placed", "background", "length")
    row = {"arm": "base", "k": "1", **dict.fromkeys(scores, 0.5)}
    monkeypatch.setattr(
        miniature, "train_arm", lambda arm, base, data, model, *_, **__: model.mkdir(parents=True)
    )
    monkeypatch.setattr(
        miniature, "evaluate_model", lambda *call: calls.append(call[3]) or [row | {"arm": call[3]}]
    )
    monkeypatch.setattr(
        miniature, "write_training", lambda folder, n: folder.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(
        miniature, "write_heldout", lambda folder, split: folder.mkdir(parents=True, exist_ok=True)
    )

    def run(**change):
        return miniature.run(**{"base": base, "out": out, "seeds": (0,), "arms": ("base",), **change})

    run()
    run()
    run(arms=("base", "grpo"))
    run(arms=("base",))
    assert calls == ["base", "grpo"]
    with pytest.raises(
        ValueError, match=r"settings\.json: made with another n_scenes \(2000, now 10\): give"
    ):
        run(n_scenes=10)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"settings\.json: made with another base"):
        run(base=other)
    monkeypatch.setitem(miniature.ARMS, "grpo", {**miniature.ARMS["grpo"], "max_steps": 7})
    run(arms=("base", "sft_multi"))  # that arm is not asked for
    with pytest.raises(ValueError, match=r"arm grpo was made with .*100.*, now .*7.*: give another --out"):
        run(arms=("grpo",))
    (out / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"out: holds a run without settings\.json"):
        run()
    assert calls == ["base", "grpo", "sft_multi"]
