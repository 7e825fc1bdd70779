"""Flags that several sub-commands share, each defined once, and what they mean where they are left out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from repic_core.models.toys import AUTHORS_MODEL, is_toy_model, local_config

TOY_BASE = "assets/toy-base"


class Parser(argparse.ArgumentParser):
    """A parser that takes no shortened flags and whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` lists the flags)\n")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number of at least `least`, for argparse."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} must be at least {least}")
        return value

    number.__name__ = "whole number"  # argparse: "invalid whole number value"
    return number


SHARED: dict[str, dict[str, Any]] = {
    "--model": {"metavar": "M", "help": f"a name on the hub or a folder (default: {AUTHORS_MODEL})"},
    "--adapter": {"metavar": "A", "help": "a LoRA adapter on the model: a folder or a name on the hub"},
    "--database": {"metavar": "FILE", "help": "a concept database, as `repic concepts init` writes it"},
    "--root": {
        "metavar": "FOLDER",
        "help": "what the image paths in the database are relative to (default: its folder)",
    },
    "--system": {
        "metavar": "NAME",
        "help": "system prompt: inference, inference-2025 (the authors' newest), evaluation or none"
        " (default: the published one for the task; for the toy base none)",
    },
    "--system-text": {"metavar": "TEXT", "help": "instead: a system prompt of your own"},
    "--system-file": {"metavar": "FILE", "help": "instead: a text file with it"},
    "--reference-style": {
        "choices": ("tag", "numbered"),
        "help": "how a reference is introduced: tag, `Name: <bo>, Info: ...`; or numbered with the database's name,"
        " `1. Name: <Bo>, Info: ...` (default: the published one for the task; for the toy base tag)",
    },
    "--max-pixels": {
        "type": at_least(0),
        "metavar": "N",
        "help": "shrink photos to so many pixels; 0: the processor's own limit"
        " (default: the published 802816; for the toy base 0)",
    },
    "--min-pixels": {
        "type": at_least(1),
        "metavar": "N",
        "help": "enlarge photos to so many pixels (default: the processor's own limit)",
    },
    "--max-new-tokens": {
        "type": at_least(1),
        "default": 1024,
        "metavar": "N",
        "help": "of a caption (default: %(default)s)",
    },
    "--batch-size": {
        "type": at_least(1),
        "default": 8,
        "metavar": "N",
        "help": "photos captioned together; less needs less memory (default: %(default)s)",
    },
    "--retrieve": {
        "type": at_least(1),
        "metavar": "K",
        "help": "find the K concepts of the database that are nearest to each photo",
    },
    "--verify": {
        "nargs": "?",
        "type": float,
        "const": 0.0,
        "metavar": "LEAST",
        "help": "only keep retrieved concepts of which the model says that the photo shows the same object, with "
        "log-odds of at least LEAST (default: 0, a plain yes)",
    },
    "--side": {
        "type": at_least(1),
        "metavar": "N",
        "help": "for retrieval: scale photos to N x N pixels (default: 448; for the toy base 48)",
    },
    "--device": {"default": "auto", "metavar": "D", "help": "auto, cpu, cuda, cuda:1, ... (default: auto)"},
    "--rows": {"metavar": "FILE", "help": "training rows, JSON or JSONL"},
    "--image-root": {
        "metavar": "FOLDER",
        "help": "what the rows' image paths are relative to (default: the rows' folder)",
    },
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "default: %(default)s"},
    "--seeds": {
        "type": int,
        "nargs": "+",
        "default": [0, 1, 2],
        "metavar": "N",
        "help": "a run each (default: 0 1 2)",
    },
    "--base": {"metavar": "M", "default": TOY_BASE, "help": "default: %(default)s"},
    "--split": {"choices": ("val", "test"), "default": "test", "help": "held-out toys (default: test)"},
    "--json": {"action": "store_true", "help": "print the answer as JSON, and nothing else"},
    "--quiet": {"action": "store_true", "help": "no progress and no notes, only the result"},
}


def named_file(text: str) -> tuple[str, str]:
    """Name and path in ``[NAME=]FILE``, where the path may hold further ``=``; by default the file's name.

    >>> named_file("ours=runs/lr=1e-5/captions.json"), named_file("ours.json")
    (('ours', 'runs/lr=1e-5/captions.json'), ('ours', 'ours.json'))
    """
    parts = text.split("=")
    splits = [("=".join(parts[:n]), "=".join(parts[n:])) for n in range(len(parts))]
    there = [(name, path) for name, path in splits if Path(path).is_file()]
    name, path = (there or splits[1:2] or splits)[0]
    return name or Path(path).stem, path


def add_flags(parser: argparse._ActionsContainer, *flags: str, **changes: Any) -> None:
    """Add shared flags to `parser`; `changes` replace what `SHARED` says of them, such as ``required=True``."""
    for flag in flags:
        parser.add_argument(flag, **{**SHARED[flag], **changes})


def add_system_flags(parser: argparse.ArgumentParser) -> None:
    """Add the three flags that give a system prompt, of which one may be used."""
    add_flags(parser.add_mutually_exclusive_group(), "--system", "--system-text", "--system-file")


def describe(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], Any], example: str, resumes: str = ""
) -> None:
    """What `parser`'s command does, an example of it for ``--help``, and what it says when it is interrupted.

    Args:
        run: is given the options; returns the exit status, or None for 0.
        resumes: how an interrupted run is continued, if it can be.
    """
    parser.epilog = f"example:\n  {example}"
    parser.set_defaults(run=run, prog=parser.prog, resumes=resumes)
    add_flags(parser, "--quiet")


def add_commands(parser: argparse.ArgumentParser) -> Any:
    """The commands within a command, of which one must be given; `add_command` adds each."""
    return parser.add_subparsers(required=True, title="commands", metavar="COMMAND")


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], Any],
    line: str,
    example: str,
    resumes: str = "",
    more: str = "",
) -> argparse.ArgumentParser:
    """A command within a command, such as ``init`` of `repic concepts`.

    Args:
        commands: of `add_commands`.
        line: what it is for, in the list of commands and, followed by `more`, in its own help.
        run, example, resumes: as in `describe`.
    """
    text = f"{line[0].upper()}{line[1:]}."
    parser = commands.add_parser(name, help=line, description=f"{text}\n\n{more}" if more else text)
    describe(parser, run, example, resumes)
    return parser


@dataclass(frozen=True)
class Chosen:
    """A model and how photos and prompts are given to it.

    Args:
        system: a key of `prompts.SYSTEM_PROMPTS`, a text, or None.
        max_pixels: what photos are shrunk to; None for the processor's own limit.
        side: of photos in retrieval, in pixels.
        reference_style: one of `prompts.REFERENCE_STYLES`.
        min_pixels: what photos are enlarged to; None for the processor's own limit.
    """

    model: str
    system: str | None
    max_pixels: int | None
    side: int
    reference_style: str = "tag"
    min_pixels: int | None = None


def defaults_for(
    model: str | None, adapter: str | None = None, published: str | None = "inference"
) -> Chosen:
    """What is taken where a command line leaves it out.

    Without a `model` that is the one that the local `adapter` was trained on, else the authors'. The toy base, and
    models made from it, take no system prompt, photos as they are, and small ones in retrieval; all others what
    the authors published.

    Args:
        published: the authors' system prompt for the task, ``inference`` or ``evaluation``; None for none.
    """
    from repic_core.models.loading import PAPER_MAX_PIXELS
    from repic_core.prompts import PUBLISHED_STYLES
    from repic_core.retrieval.embedders import TOWER_SIDE

    model = model or _base_of(adapter) or AUTHORS_MODEL
    if is_toy_model(model):
        from repic_core.toyworld.photos import REFERENCE_SIDE

        return Chosen(model, None, None, REFERENCE_SIDE)
    return Chosen(model, published, PAPER_MAX_PIXELS, TOWER_SIDE, PUBLISHED_STYLES.get(published, "tag"))


def chosen(options: argparse.Namespace, published: str | None = "inference") -> Chosen:
    """`defaults_for` what `options` leaves out, and what it gives.

    Raises:
        ValueError: an unknown name of a system prompt (the message lists the names), or a file that can't be read.
    """
    found = defaults_for(options.model, getattr(options, "adapter", None), published)
    if (options.system, options.system_text, options.system_file) != (None, None, None):
        found = replace(found, system=_system(options))
    for name in ("max_pixels", "min_pixels", "side"):
        value = getattr(options, name, None)
        if value is not None:
            found = replace(found, **{name: value or None})
    return replace(found, reference_style=getattr(options, "reference_style", None) or found.reference_style)


def _system(options: argparse.Namespace) -> str | None:
    """The system prompt that the flags of `add_system_flags` give."""
    from repic_core.prompts import NO_SYSTEM, SYSTEM_PROMPTS

    if options.system_text is not None:
        return options.system_text
    if options.system_file is not None:
        try:
            text = Path(options.system_file).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise ValueError(f"--system-file {options.system_file}: can't be read ({reason})") from None
        if not text:
            raise ValueError(
                f"--system-file {options.system_file}: is empty; for no prompt: --system {NO_SYSTEM}"
            )
        return text
    if options.system not in (*SYSTEM_PROMPTS, NO_SYSTEM):
        raise ValueError(
            f"--system {options.system!r}: use {', '.join(SYSTEM_PROMPTS)} or {NO_SYSTEM}; a prompt of your own "
            "goes into --system-text or --system-file"
        )
    return None if options.system == NO_SYSTEM else options.system


def load_chosen(found: Chosen, adapter: str | None, device: str = "auto") -> tuple[Any, Any]:
    """`load_model` of what was chosen; where the authors' model can't be loaded, the error names the toy base.

    Raises:
        ModelError: as `load_model`.
    """
    from repic_core.models.loading import ModelError, load_model

    try:
        pixels = {"max_pixels": found.max_pixels, "min_pixels": found.min_pixels}
        return load_model(found.model, adapter=adapter, device=device, **pixels)
    except ModelError as error:
        if found.model != AUTHORS_MODEL:
            raise
        raise ModelError(
            f"{error}; give --model a folder or another name (to try the command out: --model {TOY_BASE}, "
            "in a clone of the repository)"
        ) from None


def _base_of(adapter: str | None) -> str | None:
    """The model that a local adapter was trained on, as its configuration says."""
    return local_config(adapter, "adapter_config.json").get("base_model_name_or_path") if adapter else None
