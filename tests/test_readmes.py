"""What a README prints can be typed, and where it points there is something."""

import ast
import importlib
import re
import tomllib

import pytest

from helpers.places import ROOT
from helpers.readmes import (
    anchors,
    command_fault,
    command_lines,
    link_faults,
    notebook_parameters,
    pages,
    parameter_names,
    text_of,
)

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]


def faults(text: str) -> list[str]:
    return [f for line, whole in command_lines(text) if (f := command_fault(line, whole)) is not None]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_parses(page):
    assert faults(text_of(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    assert link_faults(text_of(page), page.parent) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_repository_that_is_named_exists(page):
    named = re.findall(r"`((?:assets|notebooks|src|tests)/[^`*<> ]+)`", text_of(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_python_examples_import_exists(page):
    for code in re.findall(r"```python\n(.*?)```", text_of(page), re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_installing_brings_the_one_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"repic": "repic_core.cli:main"}
    assert project["readme"] == "README.md"


def test_the_papers_items_name_parameters_that_their_notebooks_have():
    text = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| `(\d\d_\w+)` \|(.*)$", text, re.M)
    assert len(rows) >= 8
    for notebook, cells in rows:
        known = notebook_parameters(ROOT / "notebooks" / f"{notebook}.ipynb")
        assert set(parameter_names(cells.replace("`", " ").replace(",", " ").split())) <= known


def test_the_front_door_fits_on_two_screens():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    rooms = {
        path.name for path in (ROOT / "src/repic_core").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    for room in rooms - {"__init__.py", "__main__.py", "__pycache__", "notebooks.py"}:
        assert room in readme, f"{room} is not on the README's map"


@pytest.mark.parametrize("room", sorted(path.parent.name for path in (ROOT / "src").rglob("README.md")))
def test_a_room_says_what_each_of_its_files_is_for(room):
    folder = ROOT / "src/repic_core" / room
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for file in folder.glob("*.py"):
        assert file.name.startswith("__") or f"]({file.name})" in readme, (
            f"{file.name} is not in {room}/README.md"
        )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("repic scroe captions.json", "scroe"),
        ("repic score captions.json --protocl span", "protocl"),
        ("repic score --database d.json", "required"),
        ("python -m repic_core scroe", "scroe"),
        ("python -m repic_core.evaluation.scores captions.json", "the one command is repic"),
        ("repic train grpo --config toy --max_step 3", "max_step"),
        ("repic notebooks -p profil tiny", "profil"),
        ("accelerate launch --num_proceses 8 -m repic_core.training.grpo --config toy", "proceses"),
        ("accelerate launch --num_processes 8 -m repic_core.training.gpro --config toy", "gpro"),
        ("accelerate launch --num_processes 8 -m repic_core.training.grpo --confg toy", "confg"),
        ("papermill notebooks/03_interference.ipynb runs/out.ipynb", "no such notebook"),
        ("papermill notebooks/03_inference.ipynb runs/out.ipynb -p profle paper", "profle"),
        ("papermill notebooks/03_inference.ipynb runs/out.ipynb -f notebooks/profiles/papr.yaml", "papr"),
        ("bash setup.sh dmeo", "dmeo"),
        ("bash setup.sh --with deepsped demo", "deepsped"),
        ("PYTHONPATH=src python -m repic_core \\\n  demo veiwer", "veiwer"),
    ],
)
def test_a_wrong_command_line_is_found(line, said):
    (fault,) = faults(f"Type this:\n\n```bash\nls\n{line}  # a remark\n```\n")
    assert said in fault


def test_in_a_sentence_a_command_may_lack_arguments_but_not_be_wrong():
    assert (
        faults("Use `repic score`, `repic --help` or `repic_core.rewards`, and `bash setup.sh test`.") == []
    )
    (fault,) = faults("Use `repic\nscroe`.")
    assert "scroe" in fault
    (fault,) = faults("Use `repic score --protocl`.")
    assert "protocl" in fault


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# What it `costs`, in all\n\n```bash\n# no heading\n```\n")
    assert anchors((tmp_path / "other.md").read_text()) == {"what-it-costs-in-all"}
    good = (
        "[a](other.md), [b](other.md#what-it-costs-in-all), [c](https://example.org/x), [d](#here)\n## Here\n"
    )
    assert link_faults(good, tmp_path) == []
    bad = '[a](gone.md) <img src="gone.png"> <a href="other.md#no-heading">b</a> [c](#there)'
    assert [fault.split(":")[0] for fault in link_faults(bad, tmp_path)] == [
        "gone.md",
        "gone.png",
        "other.md#no-heading",
        "#there",
    ]
