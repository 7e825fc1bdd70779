"""Imports only go down (the contract in pyproject.toml; inside functions, too), and the house stays small."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT

PACKAGE = ROOT / "src" / "repic_core"
COMMAND = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contract of ``folder/pyproject.toml``, checked on the package in ``folder/src``."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "--no-cache", "--no-logo", "pyproject.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path):
    """The repository's contract and package, to plant something in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "src" / "repic_core", ignore=ignored)
    return tmp_path


def test_imports_only_go_down():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_import_that_runs_up_inside_a_function_is_found(copy):
    with open(copy / "src" / "repic_core" / "io" / "files.py", "a") as file:
        file.write(
            "\n\ndef planted():\n    from repic_core.captioner import captioner\n\n    return captioner\n"
        )
    result = lint(copy)
    assert result.returncode == 1
    assert "repic_core.io.files -> repic_core.captioner.captioner" in result.stdout


def test_a_room_without_a_place_is_found(copy):
    room = copy / "src" / "repic_core" / "attic"
    room.mkdir()
    (room / "__init__.py").write_text("")
    result = lint(copy)
    assert result.returncode == 1 and "attic" in result.stdout


def test_the_package_is_seen_at_a_glance():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 22, sorted(entries)
