"""``repic`` itself: what it lists, how it says what is wrong, and what it imports."""

import argparse
import logging
import re
import shlex
import subprocess
import sys

import pytest

from repic_core import __version__
from repic_core.cli import COMMANDS, GROUPS, main, parse, parser_of
from repic_core.cli.output import notes_shown

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "gradio",
    "datasets",
    "matplotlib",
    "numpy",
    "scipy",
    "pandas",
}


def leaves(parser, name):
    """(name, parser) of a command, or of each of its sub-commands."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        return [(name, parser)]
    return [(f"{name} {inner}", p) for action in nested for inner, p in action.choices.items()]


EVERY = [leaf for name in COMMANDS for leaf in leaves(parser_of(name), name)]


def modules_after(*arguments):
    """Top-level modules in a fresh interpreter after a command."""
    code = (
        "import sys\nfrom repic_core.cli import main\n"
        f"status = main({list(arguments)!r})\n"
        "print('LOADED', status, *{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    status, *names = said.rpartition("LOADED")[2].split()
    assert status == "0", said
    return set(names)


def test_help_lists_every_command_in_a_line(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, what) in COMMANDS.items():
        assert [line for line in lines if re.match(rf"  {name} +{re.escape(what)}$", line)], name
    assert [line[:-1] for line in lines if line.endswith(":") and line[0] != " "] == list(GROUPS)
    assert max(map(len, lines)) <= 80 and len(lines) < 40
    assert main([]) == 0 and capsys.readouterr().out.splitlines() == lines
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"repic {__version__}\n"


def test_these_are_the_commands():
    wanted = "caption concepts demo data train plan reproduce evaluate score prefer merge export"
    assert list(COMMANDS) == [*wanted.split(), "notebooks", "benchmark", "toyworld"]
    assert {name for name, _ in EVERY if " " in name} == {
        *("concepts init", "concepts check", "concepts list", "concepts describe"),
        *("demo viewer", "demo live", "data build", "data convert", "data check", "train grpo", "train sft"),
        *("benchmark training-step", "benchmark captions", "benchmark kept-references"),
        *("benchmark large-index", "benchmark page-load", "benchmark merge-drift", "benchmark gpu"),
        *("toyworld atlas", "toyworld pretrain", "toyworld miniature"),
        *("toyworld ablations", "toyworld retrieval", "toyworld negatives", "toyworld infos"),
        *("toyworld dialogues", "toyworld questions", "toyworld skills"),
        "toyworld recognition",
    }


@pytest.mark.parametrize(("name", "parser"), EVERY, ids=[name for name, _ in EVERY])
def test_each_help_has_an_example_that_parses(name, parser):
    text = parser.format_help()
    program, *arguments = shlex.split(text.partition("example:\n")[2])
    assert program == "repic" and " ".join(arguments).startswith(name)
    options = parse(arguments)
    assert callable(options.run) and options.prog == f"repic {name}" and options.quiet is False
    assert parser.description and not re.search(r"%\(|None", text)


@pytest.mark.parametrize(("name", "parser"), EVERY, ids=[name for name, _ in EVERY])
def test_flags_are_spelled_with_hyphens(name, parser):
    for action in parser._actions:
        flags = [flag for flag in action.option_strings if "_" in flag]
        # of a trainer, whose other arguments TRL spells with underscores
        assert not flags or (name.startswith("train") and len(action.option_strings) == 2)
        assert action.help, f"{name} {action.option_strings or action.dest}: says nothing"


def test_one_flag_means_one_kind_of_thing_everywhere():
    """Flags that take a value in one command are no switches in another, but for those named here."""
    values: dict[str, set[bool]] = {}
    for _, parser in EVERY:
        for action in parser._actions:
            for flag in action.option_strings:
                values.setdefault(flag, set()).add(action.nargs == 0)
    assert {flag for flag, kinds in values.items() if len(kinds) > 1} == {
        "--references"
    }  # a switch of `prefer`


def test_errors_are_one_line_and_status_2(tmp_path, capsys):
    gone = str(tmp_path / "gone.json")
    wrong = {
        "repic: there is no command 'captoin'; did you mean `repic caption`?": ["captoin"],
        "repic: there is no command 'x'; `repic --help` lists the commands": ["x"],
        f"repic score: {gone}: can't be read (No such file or directory): give a JSON file": ["score", gone],
        f"repic concepts check: {gone}: can't be read (No such file or directory): give a JSON file": [
            *("concepts", "check", gone)
        ],
    }
    for message, arguments in wrong.items():
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err == f"{message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption", "a.jpg"], "repic caption: one of the arguments --database --references is required"),
        (["caption", "a.jpg", "--dattabase", "x"], "repic caption: one of the arguments"),
        (["score"], "repic score: the following arguments are required: FILE"),
        (["score", "a.json", "--protocoll", "span"], "repic score: unknown argument: --protocoll span"),
        (["score", "a.json", "--proto", "span"], "repic score: unknown argument: --proto span"),
        (
            ["caption", "a.jpg", "--references", "x", "--retrieve", "0"],
            "argument --retrieve: 0 must be at least 1",
        ),
        (["caption", "a.jpg", "--references", "x", "--retrieve", "a"], "invalid whole number value: 'a'"),
        (["concepts"], "repic concepts: the following arguments are required: COMMAND"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert end.value.code == 2 and printed.out == ""
    assert (
        message in printed.err and printed.err.count("\n") == 1 and "--help` lists the flags" in printed.err
    )


def test_interrupted(tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("repic_core.evaluation.paper_tables.found_settings", stopped)
    assert main(["evaluate", "--root", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "repic evaluate: stopped; the same command continues from here\n"
    monkeypatch.setattr("repic_core.captioner.caption_files.load_captions", stopped)
    assert main(["score", "a.json"]) == 130
    assert capsys.readouterr().err == "repic score: stopped\n"


def test_too_little_gpu_memory_is_one_line(monkeypatch, capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    def load(*_):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr("repic_core.captioner.caption_files.load_captions", load)
    assert main(["score", "a.json"]) == 2
    assert "repic score: the GPU has too little memory: CUDA out of memory." in capsys.readouterr().err
    monkeypatch.setattr("repic_core.captioner.caption_files.load_captions", lambda _: [][1:].pop() + 1 / 0)
    with pytest.raises(IndexError):  # a fault of the kit keeps its traceback
        main(["score", "a.json"])


def test_python_m_is_the_same():
    said = subprocess.check_output([sys.executable, "-m", "repic_core", "--help"], text=True)
    assert said.startswith("usage: repic COMMAND") and "toyworld" in said


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_imports_nothing_heavy(arguments):
    assert not modules_after(*arguments) & {*HEAVY, "PIL", "yaml", "tqdm"}


def test_scoring_imports_nothing_heavy(folder):
    files = [str(folder / "ours.json"), "--database", str(folder / "database.json")]
    assert not modules_after("score", *files, "--no-intervals") & HEAVY
    assert modules_after("score", *files) & HEAVY == {"numpy", "scipy"}  # of the intervals


def test_concepts_and_rows_import_nothing_heavy(folder):
    assert not modules_after("concepts", "list", str(folder / "database.json")) & HEAVY
    assert not modules_after("concepts", "check", str(folder / "database.json")) & HEAVY


@pytest.mark.parametrize("quiet", [False, True])
def test_what_an_adapter_changes_is_shown(capsys, quiet):
    with notes_shown(quiet):
        logging.getLogger("repic_core.models.adapters").info("adapter a: 28 layers adapted")
    logging.getLogger("repic_core.models.adapters").info("later")
    assert capsys.readouterr().err == ("" if quiet else "adapter a: 28 layers adapted\n")
