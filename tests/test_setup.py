"""The versions are stated once and repeated faithfully, and setup.sh says clearly what is wrong."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
SETUP = (ROOT / "setup.sh").read_text()


def names_and_versions(requirements: list[str]) -> dict[str, str]:
    return {name: pin for name, _, pin in (requirement.partition("==") for requirement in requirements)}


def test_every_dependency_is_pinned_once():
    for requirement in PINS:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", requirement), (
            f"pyproject.toml: pin {requirement!r}"
        )
    assert len(names_and_versions(PINS)) == len(PINS)


def test_environment_yml_has_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    *pins, package = last["pip"]
    assert package == "-e ."
    assert names_and_versions(pins) == names_and_versions(PINS)


@pytest.mark.parametrize(("name", "pin"), names_and_versions(PINS).items())
def test_installed_version_is_the_pinned_one(name, pin):
    assert version(name).split("+")[0] == pin


def test_python_version_is_the_same_everywhere():
    assert PROJECT["requires-python"] == "==3.11.*"
    assert "(3, 11)" in SETUP
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["target-version"] == "py311"


def test_setup_names_no_version_and_no_host():
    assert not re.search(r"\w[=~<>]=", SETUP)
    assert "://" not in SETUP
    assert "index-url" not in SETUP


def test_only_flash_attn_is_left_unpinned():
    assert PROJECT["optional-dependencies"]["gpu"] == ["flash-attn"]


def test_ci_calls_setup_test():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if not line.startswith("#")]
    assert commands[-1] == "bash setup.sh test"


def test_shell_scripts_parse():
    for script in ("setup.sh", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def run_setup(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A copy of setup.sh run in `folder`, where the PATH holds only what a bare system has."""
    tools = folder / "bin"
    tools.mkdir()
    for tool in ("bash", "cksum", "dirname", "rm", "sed"):
        (tools / tool).symlink_to(shutil.which(tool))
    shutil.copy(ROOT / "setup.sh", folder)
    return subprocess.run(
        [tools / "bash", "setup.sh", *arguments],
        cwd=folder,
        env={"PATH": str(tools), **environment},
        capture_output=True,
        text=True,
    )


def test_without_python_311_it_says_so(tmp_path):
    result = run_setup(tmp_path)
    assert result.returncode == 1
    assert "no Python 3.11 found" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_python_version_is_not_taken(tmp_path):
    fake = tmp_path / "other" / "python3.11"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 1\n")  # what the version check of a 3.12 exits with
    fake.chmod(0o755)
    result = run_setup(tmp_path, PATH=f"{tmp_path / 'bin'}:{fake.parent}")
    assert result.returncode == 1
    assert "no Python 3.11 found" in result.stderr


def test_a_folder_that_is_no_environment_is_kept(tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "mine.txt").write_text("keep me")
    result = run_setup(tmp_path)
    assert result.returncode == 1
    assert ".venv exists but is not a virtual environment" in result.stderr
    assert (tmp_path / ".venv" / "mine.txt").read_text() == "keep me"


def test_unknown_argument_shows_the_usage(tmp_path):
    result = run_setup(tmp_path, "tset")
    assert result.returncode == 1
    assert "bash setup.sh demo" in result.stderr
    assert "unknown argument 'tset'" in result.stderr


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
