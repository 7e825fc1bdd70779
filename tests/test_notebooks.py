"""The notebooks keep the house form, and what they compute on a shortened `tiny` profile is right.

They run once, in order, through the module that `bash setup.sh demo` uses, with `quick=True`; each test then
looks at the numbers in `results.json`.
"""

import ast
import contextlib
import json
from pathlib import Path

import nbformat
import pytest

from repic_core.run_notebooks import EVALUATION, results_table, run_all, run_notebook

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = [
    "01_data_preparation",
    "02_grpo_post_training",
    "03_inference",
    "04_evaluation",
    "05_four_concept_gradio",
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
    assert found["steps"] == 6
    assert -1 <= found["reward_first"] <= 1 and -1 <= found["reward_last"] <= 1
    assert 0 < found["kl_last"] < 1  # it has moved, but not far
    assert (run_dir / "models" / "grpo" / "adapter_model.safetensors").exists()
    assert all(pair["before"].startswith("On a ") for pair in found["captions"])


def test_inference_names_a_single_concept(run_dir):
    found = results(run_dir, "03_inference")
    single = found["rows"][0]
    assert all(caption.count("<") == 1 for caption in single.values())
    assert (run_dir / "03_inference" / "figures" / "captions.pdf").stat().st_size > 5000


def test_base_names_one_concept_and_describes_four(run_dir):
    f1 = {row["k"]: row["f1"] for row in results(run_dir, EVALUATION)["table"] if row["arm"] == "base"}
    assert f1[1] >= 0.9 and f1[4] <= 0.5


def test_published_table(run_dir, official_root):
    published = results(run_dir, EVALUATION)["published"]
    assert published["captioning-skip-retrieval-ours"]["repic-4"] == [88.0, 59.5, 71.0]
    assert len(published) == 5


def test_evaluation_has_the_table(run_dir):
    """Every arm has every number of concepts, and F1 is the harmonic mean of what stands beside it."""
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
    if name == "03_inference":
        assert found["published_rows"] == 3
    else:
        assert found["live_steps"] >= 1
