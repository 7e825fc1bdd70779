"""What the command lines of `grpo` and `sft` share: a recipe, then any argument of it or of the trainer by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from repic_core.data.rows import read_rows
from repic_core.models.known_warnings import hide_known_warnings
from repic_core.training.checkpoints import check_free
from repic_core.training.failures import TrainingError, check_processes
from repic_core.training.recipe import TuneArguments, need_packages, recipe_names, recipe_path, recipe_values
from repic_core.training.validation import Validation


@dataclass
class ScriptArguments(TuneArguments):
    """Arguments of the command line besides the recipe's and the trainer's own."""

    model: str = field(default="Qwen/Qwen2.5-VL-7B-Instruct", metadata={"help": "hub id or folder"})
    rows: str = field(default="", metadata={"help": "JSON or JSONL file of tuning rows"})
    image_root: str | None = field(default=None, metadata={"help": "what image paths are relative to"})
    eval_rows: str | None = field(
        default=None, metadata={"help": "held-out rows, on which names F1 is measured; the best step is kept"}
    )
    eval_every: int = field(default=50, metadata={"help": "steps between two validations"})
    patience: int = field(
        default=0, metadata={"help": "end after so many validations without a better one; 0: never"}
    )
    resume: bool = field(default=False, metadata={"help": "continue from the last checkpoint"})
    overwrite: bool = field(default=False, metadata={"help": "replace another run in the output folder"})


def read_arguments(
    arguments: Sequence[str], config_class: type, program: str
) -> tuple[ScriptArguments, Any, str]:
    """``--config`` with a recipe (or a YAML file), then arguments that replace its values as ``--name value``.

    Args:
        config_class: TRL's configuration, such as ``GRPOConfig``.
        program: as ``--help`` calls it.

    Returns:
        (the kit's arguments, the trainer's configuration, the recipe)

    Raises:
        ValueError: no recipe or an unknown one, an unknown argument, a value that is refused, no file of rows.
        MissingExtra: the run asks for DeepSpeed or W&B, which is not installed.
    """
    from trl import TrlParser

    hide_known_warnings()
    given = [part for argument in arguments for part in argument.split("=", argument.startswith("--config="))]
    recipe = dict(pairwise(given)).get("--config")
    parser = TrlParser((ScriptArguments, config_class), prog=program)
    parser.error = _refuse
    asked = {name.removeprefix("--"): value for name, value in pairwise(given)}
    need_packages({**(recipe_values(recipe) if recipe is not None else {}), **asked})
    if recipe is not None:
        place = given.index("--config")
        del given[place : place + 2]
        unknown = parser.set_defaults_with_config(**recipe_values(recipe))
        if unknown:
            raise ValueError(f"{recipe_path(recipe)}: unknown key(s) {', '.join(unknown[::2])}")
    elif not {"-h", "--help"} & set(given):
        raise ValueError(
            f"--config: give {', '.join(recipe_names())} or a YAML file; TRL's defaults are another recipe"
        )
    script, config = parser.parse_args_into_dataclasses(given)
    if not script.rows:
        raise ValueError("--rows: give a JSON or JSONL file of tuning rows")
    return script, config, recipe


def run_command(arguments: Sequence[str], config_class: type, run: Callable[..., Any], program: str) -> Path:
    """Read the arguments, the rows and the model, and train; returns the folder of the result.

    Args:
        run: called with (model, processor, rows, kit's arguments, trainer's configuration) and ``resume``,
            ``validation``, ``recipe``, ``rows`` (the file) and ``root`` (the photos' folder) by name.

    Raises:
        ValueError, ImportError: what can't be used.
        TrainingError: the run ended before its end.
    """
    from accelerate import PartialState

    from repic_core.models.loading import load_model

    script, config, recipe = read_arguments(arguments, config_class, program)
    if not script.overwrite:
        check_free(config.output_dir, script.resume)
    root = script.image_root or Path(script.rows).parent
    examples = read_rows(script.rows, root)
    model, processor = load_model(script.model, load_in_4bit=script.load_in_4bit)
    check_processes()
    source = {"recipe": recipe, "rows": script.rows, "root": root}
    held_out = _validation(script, config)
    run(model, processor, examples, script, config, resume=script.resume, validation=held_out, **source)
    PartialState().destroy_process_group()  # else a process may abort at its end, after all is saved
    return Path(config.output_dir)


def _validation(script: ScriptArguments, config: Any) -> Validation | None:
    """The validation that the arguments ask for."""
    if script.eval_rows is None:
        return None
    root = script.image_root or Path(script.eval_rows).parent
    longest = getattr(config, "max_completion_length", None) or Validation.max_new_tokens
    rows = read_rows(script.eval_rows, root)
    return Validation(rows, root, script.eval_every, script.patience, max_new_tokens=longest)


def exit_in_a_line(program: str, command: Callable[..., Any], arguments: Sequence[str] | None) -> None:
    """`command` of these arguments (by default the process's); what it raises ends the process with one line."""
    try:
        command(sys.argv[1:] if arguments is None else list(arguments), program)
    except (ValueError, ImportError, TrainingError) as error:
        raise SystemExit(f"{program}: {error}") from None


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)
