"""The notebooks keep the house form: nothing is run here, but for one of them in a copy of the repository."""

import ast
import io
import json
import shutil
import tokenize

import nbformat
import pytest

from helpers.places import ROOT
from repic_core.notebooks.parameters import check_names, parameter_names, read_profile

FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
MAX_LINES = 15


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def python(cell: nbformat.NotebookNode) -> str:
    """The cell's source without lines for IPython alone."""
    return "\n".join(
        "" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()
    )


def is_parameters(cell: nbformat.NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def test_they_are_numbered_and_listed():
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(len(NAMES))]
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"[{name}]({name}.ipynb)" not in listed] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_is_a_plain_value_with_a_comment_and_is_used(name):
    (cell,) = [cell for cell in code_cells(name) if is_parameters(cell)]
    body = ast.parse(cell.source).body
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in body}
    assert values["run_dir"] == "" and list(values) == parameter_names(FOLDER / f"{name}.ipynb")
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    lines = {node.targets[0].id: range(node.lineno, node.end_lineno + 1) for node in body}
    bare = [name for name, own in lines.items() if commented.isdisjoint(own)]
    assert set(bare) <= {"seed"}, f"{name}: what do {bare} mean?"
    rest = [ast.parse(python(cell)) for cell in code_cells(name) if not is_parameters(cell)]
    loaded = {
        node.id
        for tree in rest
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert set(values) <= loaded, f"{name}: given and not used"


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_its_run(name):
    """A title, the parameters, one line that opens the run; never another working directory."""
    cells = read(name).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert is_parameters(code_cells(name)[0])
    source = "\n".join(python(cell) for cell in code_cells(name))
    assert source.count(f'run = open_run("{name}", run_dir)') == 1
    assert "chdir" not in source and "run.save()" in source


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_asks_which_profile_it_is_or_prints(name):
    for number, cell in enumerate(code_cells(name), start=1):
        names = {node.id for node in ast.walk(ast.parse(python(cell))) if isinstance(node, ast.Name)}
        assert not names & {"profile", "quick", "print"}, f"{name}: code cell {number}"


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short(name):
    for number, cell in enumerate(code_cells(name), start=1):
        assert is_parameters(cell) or len(cell.source.splitlines()) <= MAX_LINES, (
            f"{name}: code cell {number}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_it_calls_and_does_not_implement(name):
    for cell in code_cells(name):
        for node in ast.walk(ast.parse(python(cell))):
            assert not isinstance(node, ast.ClassDef | ast.AsyncFunctionDef), f"{name}: class {node.name}"
            if isinstance(node, ast.FunctionDef):
                assert node.name.startswith("show"), f"{name}: {node.name} belongs in the package"


@pytest.mark.parametrize("name", NAMES)
def test_it_explains_and_ends_with_exercises(name):
    prose = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code_cells(name)) / 2
    assert "## Try it" in prose[-1] and "\n- " in prose[-1]


@pytest.mark.parametrize("profile", sorted(path.stem for path in (FOLDER / "profiles").glob("*.yaml")))
def test_each_name_in_a_profile_is_some_notebooks_parameter(profile):
    check_names(read_profile(profile, FOLDER), [FOLDER / f"{name}.ipynb" for name in NAMES])


@pytest.mark.parametrize("start", ["notebooks", ".", "elsewhere"])
def test_it_runs_as_people_open_it(tmp_path, monkeypatch, start):
    """JupyterLab starts the kernel in the notebook's folder, and `run_dir` is not given."""
    from nbclient import NotebookClient

    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("__pycache__"))
    drawings = ROOT / "assets" / "drawings"
    shutil.copytree(drawings, checkout / "assets" / "drawings") if drawings.is_dir() else None
    for folder in ("assets", "notebooks", "elsewhere"):
        (checkout / folder).mkdir(exist_ok=True)
    (checkout / "pyproject.toml").touch()
    monkeypatch.setenv("PYTHONPATH", str(checkout / "src"))
    book = read("01_data_preparation")
    next(cell for cell in book.cells if is_parameters(cell)).source += "\nscenes, queries = 12, 2"
    where = {"metadata": {"path": str(checkout / start)}}
    NotebookClient(book, kernel_name="python3", resources=where).execute()
    results = checkout / "runs" / "tiny" / "01_data_preparation" / "results.json"
    assert json.loads(results.read_text(encoding="utf-8"))["overlap"] == {"tag": 0, "drawing": 0}
    assert not list((checkout / start).iterdir()) or start == "."
    streams = [out for cell in book.cells for out in cell.get("outputs", ()) if out.output_type == "stream"]
    assert streams == []
