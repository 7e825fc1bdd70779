"""The notebook runner: order, parameters, the failure message, the table. On two-cell notebooks."""

import json

import nbformat
import pytest

from repic_core.cli import main
from repic_core.notebooks import (
    NotebookError,
    find_notebooks,
    kernel_path,
    parse_value,
    project_root,
    results_table,
    run_notebook,
)

TABLE = [
    {"arm": "base", "k": 1, "precision": 1.0, "recall": 0.955, "f1": 0.977},
    {"arm": "base", "k": 4, "precision": None, "recall": 0.0, "f1": 0.0},
    {"arm": "grpo", "k": 4, "precision": 0.9, "recall": 0.8, "f1": 0.8471},
]
WRITE_RESULTS = f"""
import json, os, pathlib
folder = pathlib.Path(run_dir, "04_evaluation")
folder.mkdir(parents=True, exist_ok=True)
result = {{"table": {TABLE!r}, "profile": profile, "cwd": os.getcwd(), "root": root, "quick": quick}}
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
    parameters = 'profile = "paper"\nrun_dir = ""\nroot = ""\nquick = True'
    write_notebook(folder / "04_evaluation.ipynb", parameters, WRITE_RESULTS)
    write_notebook(folder / "01_data_preparation.ipynb", parameters, "assert profile == 'tiny'")
    (folder / "scratch.ipynb").write_text("not one of ours")
    return folder


def test_demo_runs_in_order_and_prints_the_table(notebooks, tmp_path, capsys):
    run = ["notebooks", "--notebooks", str(notebooks), "--run-dir", str(tmp_path / "run")]
    assert main([*run, "-p", "root", "../photos", "-p", "quick", "False"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.endswith("...")] == [
        "01_data_preparation",
        "04_evaluation",
    ]
    assert len([line for line in lines if " done in " in line and line.startswith("[")]) == 2
    assert lines[-2:] == [
        "base  100.0/95.5/97.7   -/0.0/0.0",
        "grpo  -/-/-             90.0/80.0/84.7",
    ]
    results = tmp_path / "run" / "04_evaluation" / "results.json"
    assert any(line.startswith("results") and line.endswith(str(results)) for line in lines)
    written = json.loads(results.read_text())
    assert (written["cwd"], written["profile"], written["root"]) == (str(tmp_path), "tiny", "../photos")
    assert written["quick"] is False
    assert (tmp_path / "run" / "notebooks" / "01_data_preparation.ipynb").exists()


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


def test_the_root_is_found_from_a_folder_in_it(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    for folder in (checkout, checkout / "notebooks"):
        assert project_root(folder) == checkout
        monkeypatch.chdir(folder)
        assert project_root() == checkout
    assert project_root(tmp_path) == tmp_path


def test_order_is_that_of_the_numbers(tmp_path):
    for number in (3, 7, 1, 9, 5, 2, 8, 4, 6):
        (tmp_path / f"{number:02d}_x.ipynb").touch()
    assert [path.stem for path in find_notebooks(tmp_path)] == [f"{number:02d}_x" for number in range(1, 10)]


def test_failure_names_notebook_cell_and_error(notebooks, tmp_path, capsys):
    write_notebook(
        notebooks / "02_broken.ipynb", 'profile = "tiny"', "x = 1\nraise ValueError('database.json: no <bo>')"
    )
    assert main(["notebooks", "--notebooks", str(notebooks), "--run-dir", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("repic notebooks: ")
    assert "02_broken.ipynb" in message
    assert "ValueError: database.json: no <bo>" in message
    assert "x = 1" in message
    assert len(message.splitlines()) <= 8
    assert not (tmp_path / "run" / "04_evaluation").exists()


def test_a_dead_kernel_is_reported(tmp_path):
    path = tmp_path / "notebooks" / "01_dead.ipynb"
    write_notebook(path, 'profile = "tiny"', "import os\nos._exit(9)")
    with pytest.raises(NotebookError, match=r"01_dead\.ipynb: the kernel died"):
        run_notebook(path, tmp_path / "run", {"profile": "tiny"})


def test_quiet_prints_the_table_alone(notebooks, tmp_path, capsys):
    run = ["notebooks", "--notebooks", str(notebooks), "--run-dir", str(tmp_path / "run"), "--quiet"]
    assert main([*run, "-p", "root", "x", "-p", "quick", "True"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["arm", "base", "grpo"]


def test_lab_opens_the_notebooks_with_kernels_in_the_root(notebooks, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("repic_core.notebooks.find_spec", lambda name: name)
    monkeypatch.setattr("subprocess.call", lambda command, env: opened.append((command, env)) or 0)
    assert main(["notebooks", "--lab", "--notebooks", str(notebooks)]) == 0
    ((command, environment),) = opened
    assert command[1:] == ["-m", "jupyterlab", str(notebooks)] and environment["JUPYTER_PATH"]
    assert main(["notebooks", "--lab", "--notebooks", str(tmp_path)]) == 2
    assert "no notebook named like" in capsys.readouterr().err
    monkeypatch.setattr("repic_core.notebooks.find_spec", lambda name: None)
    assert main(["notebooks", "--lab", "--notebooks", str(notebooks)]) == 2
    assert "repic notebooks: JupyterLab is not installed: pip install" in capsys.readouterr().err


def test_the_kernel_of_lab_starts_in_the_root(notebooks, tmp_path, monkeypatch):
    """With a root that needs quoting; Jupyter itself would start it in the notebooks' folder."""
    from nbclient import NotebookClient

    root = tmp_path / "it's here"
    root.mkdir()
    monkeypatch.setenv("JUPYTER_PATH", kernel_path(tmp_path / "jupyter", root))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; print(os.getcwd())")])
    NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(notebooks)}}).execute()
    assert book.cells[0].outputs[0].text.strip() == str(root)


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
