"""The command line of the kit: ``repic COMMAND ...``; a file a group of commands."""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import sys
from collections.abc import Sequence

from repic_core import __version__
from repic_core.cli.options import Parser
from repic_core.cli.output import notes_shown

# What each command is for, and the module of this package whose function of the command's name adds its flags.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Use a model": {
        "caption": ("caption", "caption photos with the names of the concepts that they show"),
        "concepts": ("concepts", "make a concept database from a folder of photos; check it, list it"),
        "demo": ("demo", "pages in the browser: look at captions, or make them live"),
    },
    "Train": {
        "data": ("data", "make training rows from your photos; check a file of rows"),
        "train": ("train", "post-train a model with GRPO, or fine-tune it on captions (SFT)"),
        "plan": ("plan", "say what memory and time a training needs, before it is run"),
        "reproduce": ("train", "repeat a training from its run.json and compare the weights"),
    },
    "Evaluate": {
        "evaluate": ("evaluate", "from a model to the paper's tables, in one command"),
        "score": ("score", "score caption files by the names in them, with intervals"),
        "prefer": ("evaluate", "ask a judge which of two caption files is better, photo by photo"),
    },
    "Publish": {
        "merge": ("publish", "merge an adapter into its base, and verify what was saved"),
        "export": ("publish", "a folder for the hub, with its model card; --push uploads it"),
    },
    "The kit itself": {
        "notebooks": ("notebooks", "run all notebooks, or open them"),
        "benchmark": ("benchmark", "measure speed and memory"),
        "toyworld": ("toyworld", "experiments on the toy world, and the toy base itself"),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
EXPECTED = (ValueError, OSError, ImportError, OverflowError)  # the last: a port that can't be


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's); returns the exit status.

    0: done; 1: done, and the answer is no; 2: something in the command line or in a file can't be used, said in one
    line on stderr; 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if given[0] == "--version":
        print(f"repic {__version__}")
        return 0
    if given[0] not in COMMANDS:
        close = difflib.get_close_matches(given[0], COMMANDS, 1)
        hint = f"did you mean `repic {close[0]}`?" if close else "`repic --help` lists the commands"
        print(f"repic: there is no command {given[0]!r}; {hint}", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    options = parse(given)
    with notes_shown(options.quiet):
        try:
            return options.run(options) or 0
        except KeyboardInterrupt:
            print(f"{options.prog}: stopped{options.resumes and '; ' + options.resumes}", file=sys.stderr)
            return 130
        except EXPECTED as error:
            message = " ".join(str(error).split()) or type(error).__name__
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
                raise
            message = f"the GPU has too little memory: {str(error).splitlines()[0]}"
    print(f"{options.prog}: {message}", file=sys.stderr)
    return 2


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line that begins with the name of a command.

    ``run`` is what does the work; ``trainers`` of `repic train` are arguments that are passed to the trainer.

    Raises:
        SystemExit: with status 2 after one line on stderr (an unknown argument, say); with 0 after ``--help``.
    """
    parser = parser_of(arguments[0])
    options, rest = parser.parse_known_args(arguments[1:])
    if hasattr(options, "trainers"):
        options.trainers = rest
    elif rest:
        parser.error(f"unknown argument: {' '.join(rest)}")
    return options


def parser_of(command: str) -> Parser:
    """The parser of one command, such as ``caption``; only its module is imported."""
    module, line = COMMANDS[command]
    parser = Parser(prog=f"repic {command}", description=f"{line[0].upper()}{line[1:]}.")
    add = getattr(importlib.import_module(f"{__name__}.{module}"), f"add_{command}")
    add(parser)
    return parser


def overview() -> str:
    """What ``repic --help`` prints."""
    wide = max(map(len, COMMANDS))
    lines = [
        "usage: repic COMMAND ...",
        "",
        "Personalized captions that name who and what is in your photos.",
    ]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:{wide}}  {line}" for name, (_, line) in commands.items()]
    return "\n".join(
        [
            *lines,
            "",
            "`repic COMMAND --help` lists the flags of a command and shows an example.",
            "`--json` prints an answer for programs, `--quiet` nothing but the answer.",
        ]
    )
