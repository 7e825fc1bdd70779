"""The command lines and links of Markdown pages, taken out and checked against the code; nothing is run."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from helpers.places import ROOT

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
INLINE = re.compile(r"`([^`]+)`|<code>([^<]+)</code>")
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.+)$", re.M)
OURS = re.compile(r"(repic|papermill|accelerate launch|bash setup\.sh|\S*python3? -m repic_core\S*)( |$)")


def pages() -> list[Path]:
    """All Markdown files and notebooks that a reader of the repository is shown."""
    found = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for folder in ("assets", "notebooks", "src"):
        found += sorted((ROOT / folder).rglob("*.md"))
    return found


def text_of(page: Path) -> str:
    """A page's Markdown; of a notebook, that of its cells of text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def command_lines(text: str) -> Iterator[tuple[str, bool]]:
    """The kit's command lines in a page; True for those of a block of bash, False for those named in a sentence."""
    for language, block in FENCE.findall(text):
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"^\s*(\w+=\S+ )*", "", line).strip()
                if OURS.match(line):
                    yield line, True
    for code in INLINE.findall(FENCE.sub("", text)):
        line = " ".join("".join(code).split())
        if OURS.match(line):
            yield line, False


def command_fault(line: str, whole: bool = True) -> str | None:
    """What is wrong with a command line; None where all of it is known. In a sentence, arguments may be missing."""
    words = shlex.split(line, comments=True)
    if words[0] == "papermill":
        return _papermill_fault(words[1:], whole)
    if words[:2] == ["bash", "setup.sh"]:
        return _setup_fault(words[2:])
    if words[:2] == ["accelerate", "launch"]:
        return _accelerate_fault(words[2:], whole)
    if words[0] != "repic":
        if words[2] != "repic_core":
            return f"{words[2]} is no command: the one command is repic"
        words = words[2:]
    return _repic_fault(words[1:], whole)


def link_faults(text: str, folder: Path) -> list[str]:
    """The relative links of a page in `folder` whose file, or whose heading, does not exist."""
    faults = []
    for link in LINK.findall(FENCE.sub("", text)):
        target, _, anchor = "".join(link).partition("#")
        if re.match(r"\w+:", target):  # https:, mailto:
            continue
        file = folder / target
        if not file.exists():
            faults.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8") if target else text):
            faults.append(f"{target}#{anchor}: no such heading")
    return faults


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def notebook_parameters(path: Path) -> frozenset[str]:
    """The names that a notebook's cell of parameters sets."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    body = ast.parse("".join(cell["source"])).body
    return frozenset(node.targets[0].id for node in body if isinstance(node, ast.Assign))


def parameter_names(words: list[str]) -> list[str]:
    """The NAMEs of all ``-p NAME VALUE``."""
    return [words[place + 1] for place, word in enumerate(words) if word == "-p"]


def _setup_fault(words: list[str]) -> str | None:
    """The first word that setup.sh's own `case` does not know, or an extra that pyproject.toml does not have."""
    script = (ROOT / "setup.sh").read_text(encoding="utf-8")
    cases = next(block for block in re.findall(r"case .*?esac", script, re.S) if "--gpu" in block)
    known = re.findall(r"[\w-]+", " ".join(re.findall(r"^ *([\w| -]+)\)", cases, re.M)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for before, word in pairwise(["", *words]):
        taken = [*project["optional-dependencies"], "NAME"] if before == "--with" else known
        if word not in taken:
            return f"setup.sh has no {word}"
    return None


def _papermill_fault(words: list[str], whole: bool) -> str | None:
    if words and "<" in words[0]:  # a placeholder
        return None
    others = [word for word in words if word.startswith("-") and word not in ("-p", "-f", "-y")]
    files = [after for word, after in pairwise(words) if word == "-f"]
    missing = [file for file in files if not (ROOT / file).is_file()]
    if others or missing:
        return f"unknown {others[0]}" if others else f"{missing[0]}: no such file"
    if not whole and (not words or words[0].startswith("-")):  # in a sentence, of any notebook
        return None
    notebook = ROOT / words[0]
    if not notebook.is_file():
        return f"{words[0]}: no such notebook"
    unknown = [name for name in parameter_names(words) if name not in notebook_parameters(notebook)]
    return f"{words[0]}: no parameter {unknown[0]}" if unknown else None


def _accelerate_fault(words: list[str], whole: bool) -> str | None:
    from accelerate.commands.launch import launch_command_parser

    place = words.index("-m") if "-m" in words else len(words)
    module, rest = words[place + 1 : place + 2], words[place + 2 :]
    if module not in (["repic_core.training.grpo"], []) or (whole and not module):
        return f"accelerate launch -m {''.join(module)}: no such training"
    parser = launch_command_parser()
    return _said(lambda: parser.parse_args([*words[:place], "script"])) or _training_fault("grpo", rest)


def _repic_fault(words: list[str], whole: bool) -> str | None:
    from repic_core.cli import COMMANDS, parse, parser_of

    if not words or words[0] in ("--help", "--version"):
        return None
    if words[0] not in COMMANDS:
        return f"repic has no command {words[0]}"
    if words[0] == "notebooks":
        known = frozenset().union(*map(notebook_parameters, (ROOT / "notebooks").glob("*.ipynb")))
        unknown = [name for name in parameter_names(words) if name not in known]
        if unknown:
            return f"no notebook has a parameter {unknown[0]}"
    if not whole and words[0] != "train":
        return _unknown_word(parser_of(words[0]), words[1:])
    if not whole and len(words) < 3:
        return _unknown_word(parser_of("train"), words[1:])
    passed_on: list[str] = []
    fault = _said(lambda: passed_on.extend(getattr(parse(words), "trainers", ())))
    return fault or (_training_fault(words[1], passed_on) if words[0] == "train" else None)


def _training_fault(kind: str, words: list[str]) -> str | None:
    """The trainer's own arguments: TRL's, and the kit's; both are taken with hyphens or with underscores."""
    from trl import GRPOConfig, SFTConfig

    from repic_core.training.command import ScriptArguments

    config = {"grpo": GRPOConfig, "sft": SFTConfig}.get(kind, GRPOConfig)
    known = {"config", "help"} | {*ScriptArguments.__dataclass_fields__} | {*config.__dataclass_fields__}
    flags = [word.removeprefix("--").split("=")[0] for word in words if word.startswith("-")]
    unknown = [flag for flag in flags if flag.replace("-", "_") not in known]
    if words and not words[0].startswith("-"):
        return f"train {kind}: {words[0]} belongs to no argument"
    return f"train {kind}: no argument --{unknown[0]}" if unknown else None


def _said(parse: Callable[[], object]) -> str | None:
    """argparse's complaint about a whole command line, if it has one."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parse()
    except SystemExit as end:
        return said.getvalue().strip().splitlines()[-1] if end.code else None  # 0: --help
    return None


def _unknown_word(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """The first sub-command or flag that is not known; arguments may be missing."""
    for word in words:
        below = next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        flag = word.startswith("-")
        if flag and word.split("=")[0] not in parser._option_string_actions:
            return f"{parser.prog} has no {word}"
        if below is not None and not flag:
            if word not in below:
                return f"{parser.prog} has no {word}"
            parser = below[word]
    return None
