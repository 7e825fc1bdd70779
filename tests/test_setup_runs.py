"""setup.sh and .ci/run on a bare system with made-up Pythons and uv: what they take, install, say and refuse."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT


def run_setup(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A copy of setup.sh run in `folder`, where the PATH holds only what a bare system has."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "cksum", "dirname", "rm", "sed", "mkdir", "chmod"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(shutil.which(tool))
    for file in ("setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, folder)
    return subprocess.run(
        [tools / "bash", "setup.sh", *arguments],
        cwd=folder,
        env={"PATH": str(tools), **environment},
        capture_output=True,
        text=True,
    )


def program(path: Path, text: str) -> Path:
    """A shell script that can be run by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_python(path: Path, minor: int) -> Path:
    """A Python of version 3.`minor` for setup.sh: it runs its checks with this one's answers changed."""
    patch = (
        f"import sys, collections; sys.version_info = (3, {minor}, 0, 'final', 0); sys.executable = '{path}'"
    )
    text = f'''[ "$1" = -c ] || exit 1
code="$2"; shift 2
exec {sys.executable} -c "{patch}
$code" "$@"'''
    return program(path, text)


def fake_uv(path: Path) -> Path:
    """A uv that writes down how it is called, and makes an environment of an empty Python."""
    text = f'''if [ "$1" = venv ]; then
  for last; do :; done
  mkdir -p "$last/bin"; : > "$last/pyvenv.cfg"
  printf '#!/bin/sh\\nexit 0\\n' > "$last/bin/python"; chmod +x "$last/bin/python"
fi
[ "$1" = --version ] || echo "$UV_PYTHON_DOWNLOADS: $*" >> "{path}.calls"'''
    return program(path, text)


def calls(uv: Path) -> list[str]:
    return Path(f"{uv}.calls").read_text().splitlines()


def test_without_any_python_or_uv_it_says_so(tmp_path):
    result = run_setup(tmp_path)
    assert result.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found, and no uv that could bring one" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_python_version_is_not_taken(tmp_path):
    for name, minor in (("python3.11", 10), ("python3", 14)):
        fake_python(tmp_path / "other" / name, minor)
    result = run_setup(tmp_path, PATH=f"{tmp_path / 'bin'}:{tmp_path / 'other'}")
    assert result.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in result.stderr


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3.11": 11, "python3.12": 12, "python3.13": 13}, "python3.11"),
        ({"python3.13": 13, "python3": 12}, "python3"),
        ({"python3.13": 13, "python3.12": 10}, "python3.13"),  # as pyenv's names of what is not switched on
        ({"python": 11, "python3.12": 12}, "python"),
    ],
)
def test_the_oldest_supported_python_is_taken_and_none_is_fetched(tmp_path, there, taken):
    for name, minor in there.items():
        fake_python(tmp_path / "path" / name, minor)
    uv = fake_uv(tmp_path / "path" / "uv")
    result = run_setup(tmp_path, PATH=f"{tmp_path / 'bin'}:{tmp_path / 'path'}")
    assert result.returncode == 0, result.stderr
    made, installed = calls(uv)
    assert made == f"never: venv --quiet --python {tmp_path / 'path' / taken} .venv"
    assert installed.endswith("--constraints constraints.txt -e .[dev]")


def test_where_no_python_fits_uv_brings_one(tmp_path):
    uv = fake_uv(tmp_path / "path" / "uv")
    fake_python(tmp_path / "path" / "python3", 14)
    result = run_setup(tmp_path, PATH=f"{tmp_path / 'bin'}:{tmp_path / 'path'}")
    assert result.returncode == 0, result.stderr
    assert "uv brings 3.11" in result.stdout
    made, installed = calls(uv)
    assert made == "automatic: venv --quiet --python 3.11 .venv"
    assert installed.startswith("never: pip install")


def test_an_environment_of_another_version_is_kept_until_there_is_a_better_one(tmp_path):
    fake_python(tmp_path / ".venv" / "bin" / "python", 10)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("")
    result = run_setup(tmp_path)
    assert result.returncode == 1 and "no Python 3.11, 3.12 or 3.13 found" in result.stderr
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def test_extras_are_installed_beside_the_default(tmp_path):
    fake_python(tmp_path / "path" / "python3.12", 12)
    uv = fake_uv(tmp_path / "path" / "uv")
    path = f"{tmp_path / 'bin'}:{tmp_path / 'path'}"
    result = run_setup(tmp_path, "--with", "wandb", "--with", "four-bits", PATH=path)
    assert result.returncode == 0, result.stderr
    assert calls(uv)[-1].endswith("-e .[dev,wandb,four-bits]")
    for wrong in (["--with", "wand"], ["--with"]):
        result = run_setup(tmp_path, *wrong, PATH=path)
        assert result.returncode == 1 and "no extra of pyproject.toml" in result.stderr


@pytest.mark.parametrize(
    ("argument", "called"), [("lab", "notebooks --lab"), ("demo", "notebooks -p overwrite True --open")]
)
def test_notebooks_are_opened_and_run(tmp_path, argument, called):
    program(tmp_path / ".venv" / "bin" / "python", f'[ "$1" = -c ] || echo "$*" >> "{tmp_path}/calls"')
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("")
    fake_uv(tmp_path / "path" / "uv")
    result = run_setup(tmp_path, argument, PATH=f"{tmp_path / 'bin'}:{tmp_path / 'path'}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "calls").read_text().splitlines() == [f"-m repic_core {called}"]


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


def run_ci(
    folder: Path, said: str, status: int = 0, pythons: tuple[str, ...] = (), deepspeed: int = 0
) -> subprocess.CompletedProcess:
    """.ci/run where ``setup.sh test`` says `said` and ``setup.sh --with deepspeed`` ends with status `deepspeed`.

    Pythons on the PATH and uv write down how they are called; that of .venv prints it.
    """
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    (folder / "said").write_text(said)
    (folder / "setup.sh").write_text(
        f'[ "$*" = test ] && cat said && exit {status}\n[ "$*" = "--with deepspeed" ] && exit {deepspeed}\nexit 1\n'
    )
    python = fake_python(folder / ".venv" / "bin" / "python", 11)
    python.write_text(python.read_text().replace("|| exit 1", '|| { echo "python $*"; exit; }'))
    for tool in (
        "bash",
        "dirname",
        "mktemp",
        "rm",
        "tee",
        "grep",
        "awk",
        "cat",
        "sh",
        "tail",
        "mkdir",
        "chmod",
    ):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / tool).symlink_to(shutil.which(tool))
    for name in pythons:
        program(folder / "bin" / name, '[ "$1" != --version ] || echo "Python of a test"')
    fake_uv(folder / "bin" / "uv")
    return subprocess.run(
        ["bash", ".ci/run"],
        cwd=folder,
        env={"PATH": str(folder / "bin"), "HOME": str(folder), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_ci_says_how_many_tests_were_skipped_and_why(tmp_path):
    said = "SKIPPED [3] tests/conftest.py:32: no data\nSKIPPED [1] tests/x.py:1: no card\n4 skipped in 2s\n"
    result = run_ci(tmp_path, said)
    assert result.returncode == 0, result.stderr
    report = result.stdout.partition("CI: 4 tests were skipped\n")[2]
    assert report.splitlines()[:2] == said.splitlines()[:2]
    assert "CI: no second Python on this machine" in report


def test_ci_fails_where_a_browser_test_was_skipped(tmp_path):
    result = run_ci(tmp_path, "SKIPPED [15] tests/demo/test_browser.py:28: no chromium on the PATH\n")
    assert result.returncode == 1
    assert "CI: 15 tests were skipped" in result.stdout
    assert "CI: failed: browser tests were skipped; they need chromium" in result.stdout


def test_ci_fails_where_the_tests_do(tmp_path):
    assert run_ci(tmp_path, "1 failed in 1s\n", status=1).returncode == 1


def test_ci_runs_deepspeeds_tests_where_it_can_be_installed(tmp_path):
    tests = "python -m pytest -q tests/training/test_deepspeed.py"
    for status in (0, 1):
        (tmp_path / str(status)).mkdir()
        result = run_ci(tmp_path / str(status), "9 passed in 2s\n", deepspeed=status)
        assert result.returncode == 0, result.stderr
        assert (tests in result.stdout) == (status == 0)
        assert ("CI: DeepSpeed could not be installed" in result.stdout) == (status == 1)


def test_ci_runs_the_fast_tests_on_a_second_python(tmp_path):
    result = run_ci(tmp_path, "9 passed in 2s\n", pythons=("python3.11", "python3.12", "python3.13"))
    assert result.returncode == 0, result.stderr
    made, installed = calls(tmp_path / "bin" / "uv")
    assert made == "never: venv --quiet --python python3.13 .venv-second"
    assert (
        installed
        == "never: pip install --quiet --python .venv-second/bin/python --constraints constraints.txt -e .[dev]"
    )
    assert "CI: tests that train nothing, on Python of a test" in result.stdout
