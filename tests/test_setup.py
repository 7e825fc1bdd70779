"""Ranges are in pyproject.toml, exact versions in constraints.txt; no other file names a version."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNPINNED = {"flash-attn", "kernels"}  # as CUDA and as transformers want them
SETUP = (ROOT / "setup.sh").read_text()
PYTHONS = ("3.11", "3.12", "3.13")


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, without the package's own name."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [one for one in map(Requirement, lines) if one.name != PROJECT["name"]]


def pinned_lines() -> list[str]:
    """The lines of constraints.txt; its comments say how it is made."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def constraints(python: str | None = None) -> dict[str, str]:
    """Name -> version in constraints.txt that hold on this system, with this Python or another."""
    where = {} if python is None else {"python_version": python, "python_full_version": f"{python}.9"}
    pins = {}
    for line in pinned_lines():
        pin, _, marker = line.partition(" ; ")
        if not marker or Marker(marker).evaluate(where):
            name, _, pins[name] = pin.partition("==")
    return pins


DEFAULT = requirements("dev", "judges", "qdrant")  # what setup.sh installs


def test_constraints_are_exact_versions_and_nothing_else():
    lines = pinned_lines()
    for line in lines:
        pin, _, marker = line.partition(" ; ")
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin), f"constraints.txt: {line!r}"
        assert not marker or Marker(marker)
    assert len(set(lines)) == len(lines)
    assert "://" not in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_within_its_range(python):
    """In all extras but what can't be pinned; the ranges have two ends, so that the next major is not taken."""
    pins = constraints(python)
    for one in requirements(*EXTRAS):
        if one.name in UNPINNED:
            assert one.name not in pins
            continue
        assert pins[one.name] in one.specifier, f"constraints.txt: {one.name}"
        assert {clause.operator for clause in one.specifier} == {">=", "<"}, f"pyproject.toml: {one}"


def test_ranges_do_not_repeat_a_dependency():
    names = [one.name for one in requirements(*EXTRAS)]
    assert len(names) == len(set(names))


def test_environment_yml_has_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert last["pip"] == ["-c constraints.txt", "-e .[dev]"]


def test_setup_and_ci_install_with_the_constraints():
    for script in (SETUP, (ROOT / ".ci/run").read_text()):
        installs = [line for line in script.splitlines() if re.search(r'uv" pip install', line)]
        assert installs and all("--constraints constraints.txt" in line for line in installs)


@pytest.mark.parametrize("name", [one.name for one in DEFAULT])
def test_installed_version_is_the_pinned_one(name):
    assert version(name).split("+")[0] == constraints()[name]


def test_installed_transitive_versions_are_the_pinned_ones():
    for name, pin in constraints().items():
        try:
            installed = version(name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        assert installed.split("+")[0] == pin, name


def test_python_versions_are_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "(11, 12, 13)" in SETUP and "for minor in 11 12 13" in SETUP
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in PYTHONS


def test_the_default_install_has_a_notebook_front_end_and_the_extras_are_apart():
    names = {one.name for one in requirements()}
    assert {"jupyterlab", "ipykernel", "papermill", "ipywidgets"} <= names
    apart = {"benchmark", "deepspeed", "four-bits", "gpu", "heic", "judges", "kernels", "qdrant", "wandb"}
    apart |= {"yolo-world"}
    assert set(EXTRAS) == {"dev", *apart}
    assert not names & {one.name for extra in apart for one in map(Requirement, EXTRAS[extra])}


def test_setup_names_no_version_and_no_host():
    assert not re.search(r"\w[=~<>]=", SETUP)
    assert "://" not in SETUP
    assert "index-url" not in SETUP


def test_only_flash_attn_and_its_kernels_are_left_unpinned():
    assert EXTRAS["gpu"] == ["flash-attn"]
    assert {one.name for one in requirements(*EXTRAS)} - set(constraints()) == UNPINNED


def test_ci_calls_setup_test():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if not line.startswith("#")]
    assert 'bash setup.sh test 2>&1 | tee "$log"' in commands


def test_shell_scripts_parse():
    for script in ("setup.sh", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_pre_commit_fetches_nothing():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert {hook["language"] for hook in config["repos"][0]["hooks"]} == {"system"}


def test_runs_and_environment_are_not_committed():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".venv/", "runs/"} <= set(ignored)
    if (ROOT / ".git").exists() and shutil.which("git"):
        tracked = subprocess.check_output(
            ["git", "ls-files", "-c", "-i", "--exclude-standard"], cwd=ROOT, text=True
        )
        assert tracked == ""
