"""The notebook runner: order, parameters, the failure message, the table. On two-cell notebooks."""

import json

import nbformat
import pytest

from repic_core.cli import main
from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.parameters import parameter_names, parse_value, read_profile
from repic_core.notebooks.results import results_table
from repic_core.notebooks.runner import find_notebooks, run_notebook

TABLE = [
    {"arm": "base", "k": 1, "precision": 1.0, "recall": 0.955, "f1": 0.977},
    {"arm": "base", "k": 4, "precision": None, "recall": 0.0, "f1": 0.0},
    {"arm": "grpo", "k": 4, "precision": 0.9, "recall": 0.8, "f1": 0.8471},
]
WRITE_RESULTS = f"""
import json, os, pathlib
folder = pathlib.Path(run_dir, "04_evaluation")
folder.mkdir(parents=True, exist_ok=True)
result = {{"table": {TABLE!r}, "steps": steps, "cwd": os.getcwd(), "photos": photos, "small": small}}
(folder / "results.json").write_text(json.dumps(result))
"""


def write_notebook(path, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    book.cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    parameters = 'run_dir = ""\nphotos = ""  # a folder\nsmall = True\nsteps = 80'
    write_notebook(folder / "04_evaluation.ipynb", parameters, WRITE_RESULTS)
    write_notebook(folder / "01_data_preparation.ipynb", 'run_dir = ""\nsteps = 1', "assert steps == 6")
    (folder / "scratch.ipynb").write_text("not one of ours")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "quick.yaml").write_text("steps: 6\nsmall: true\n")
    return folder


def test_demo_runs_in_order_and_prints_the_table(notebooks, tmp_path, capsys, monkeypatch):
    """Each notebook gets those parameters that it has, in a kernel that starts where the user is."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = ["notebooks", "--notebooks", "../notebooks", "--run-dir", "run", "--profile", "quick"]
    assert main([*run, "-p", "photos", "../photos", "-p", "small", "False"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.endswith("...")] == [
        "01_data_preparation",
        "04_evaluation",
    ]
    assert len([line for line in lines if " done in " in line and line.startswith("[")]) == 2
    assert (tmp_path / "here" / lines[-1].removeprefix("all of it, to look at: ")).is_file()
    assert lines[-4:-2] == [
        "base  100.0/95.5/97.7     -/0.0/0.0",
        "grpo  -/-/-               90.0/80.0/84.7",
    ]
    results = tmp_path / "here" / "run" / "04_evaluation" / "results.json"
    assert "results             run/04_evaluation/results.json" in lines
    written = json.loads(results.read_text())
    assert written["cwd"] == str(tmp_path / "here")
    assert (written["steps"], written["photos"], written["small"]) == (6, "../photos", False)
    assert (tmp_path / "here" / "run" / "notebooks" / "01_data_preparation.ipynb").exists()


@pytest.mark.parametrize("way", ["-p", "profile"])
def test_a_parameter_that_no_notebook_has_is_refused(notebooks, tmp_path, capsys, way):
    (notebooks / "profiles" / "typo.yaml").write_text("step: 6\n")
    given = ["--profile", "typo"] if way == "profile" else ["-p", "step", "6"]
    assert main(["notebooks", "--notebooks", str(notebooks), "--run-dir", str(tmp_path / "run"), *given]) == 2
    assert capsys.readouterr().err.strip() == (
        "repic notebooks: no notebook has a parameter 'step'; they have run_dir, steps, photos, small"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"no such parameter file; .* a profile \(quick\)"), ("- a", "must hold lines"), ("a: [", "YAML")],
)
def test_a_bad_parameter_file_is_named(notebooks, content, message):
    if content is not None:
        (notebooks / "profiles" / "mine.yaml").write_text(content)
    given = "mine" if content is None else notebooks / "profiles" / "mine.yaml"
    with pytest.raises(NotebookError, match=rf"mine\.yaml: .*{message}"):
        read_profile(given, notebooks)


def test_the_names_of_parameters_are_read_and_nothing_is_run(notebooks):
    assert parameter_names(notebooks / "04_evaluation.ipynb") == ["run_dir", "photos", "small", "steps"]
    with pytest.raises(NotebookError, match=r"scratch\.ipynb: can't be run"):
        parameter_names(notebooks / "scratch.ipynb")


@pytest.mark.parametrize(
    ("text", "value"),
    [("False", False), ("true", True), ("8", 8), ("-0.5", -0.5)]
    + [(text, text) for text in ("", "org/model", "Who: is it?", "[", "2024-01-01", "null", "a b")],
)
def test_values_are_truth_values_numbers_or_the_text(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_half_a_notebook_is_named(notebooks, tmp_path):
    path = notebooks / "04_evaluation.ipynb"
    path.write_text(path.read_text()[:100])
    with pytest.raises(NotebookError, match=r"04_evaluation\.ipynb: can't be run"):
        run_notebook(path, tmp_path / "run", {})


def test_order_is_that_of_the_numbers(tmp_path):
    for number in (3, 7, 1, 9, 5, 2, 8, 4, 6):
        (tmp_path / f"{number:02d}_x.ipynb").touch()
    assert [path.stem for path in find_notebooks(tmp_path)] == [f"{number:02d}_x" for number in range(1, 10)]


def test_failure_names_notebook_cell_and_error(notebooks, tmp_path, capsys):
    write_notebook(
        notebooks / "02_broken.ipynb", 'run_dir = ""', "x = 1\nraise ValueError('database.json: no <bo>')"
    )
    run = ["notebooks", "--notebooks", str(notebooks), "--run-dir", str(tmp_path / "run"), "-p", "steps", "6"]
    assert main(run) == 2
    message = capsys.readouterr().err
    assert message.startswith("repic notebooks: ")
    assert "02_broken.ipynb" in message
    assert "ValueError: database.json: no <bo>" in message
    assert "x = 1" in message
    assert len(message.splitlines()) <= 8
    assert not (tmp_path / "run" / "04_evaluation").exists()


def test_a_dead_kernel_is_reported(tmp_path):
    path = tmp_path / "notebooks" / "01_dead.ipynb"
    write_notebook(path, 'run_dir = ""', "import os\nos._exit(9)")
    with pytest.raises(NotebookError, match=r"01_dead\.ipynb: the kernel died"):
        run_notebook(path, tmp_path / "run", {})


def test_quiet_prints_the_table_alone(notebooks, tmp_path, capsys):
    run = ["notebooks", "--notebooks", str(notebooks), "--run-dir", str(tmp_path / "run"), "--quiet"]
    assert main([*run, "-p", "photos", "x", "-p", "steps", "6"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["arm", "base", "grpo"]


def test_a_folder_without_notebooks_is_reported(tmp_path):
    with pytest.raises(NotebookError, match="no notebook named like"):
        find_notebooks(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"table": [{"arm": "base"}]}', '{"table": 3}'])
def test_a_bad_results_file_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NotebookError, match=r"results\.json"):
        results_table(path)
