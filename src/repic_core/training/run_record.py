"""``run.json`` beside a training's result: what it was made from, so that `reproduce` can repeat the run.

Paths are written as they were given; no name of a user or a machine is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from repic_core.io.files import read_json, write_json_atomic
from repic_core.io.images import image_hash

logger = logging.getLogger(__name__)

NAME = "run.json"
FORMAT = 1
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "pillow", "numpy")
# The fields that every record has, and their types.
SHAPE = {
    "format": int,
    "kind": str,
    "settings": dict,
    "rewards": list,
    "data": dict,
    "model": dict,
    "sessions": list,
}
# Fields that every record has within these fields, and that are not empty.
NEEDED = {"data": ("count", "sha256"), "model": ("name", "weights", "dtype", "attn", "image_size")}
# Not among the settings, since they are elsewhere in the record or say only where the result is ...
NOT_SETTINGS = {"model", "rows", "image_root", "resume", "overwrite", "output_dir", "logging_dir", "run_name"}
# ... or follow from other settings (TRL refuses to be given both).
NOT_SETTINGS |= {"generation_batch_size"}


class RecordError(ValueError):
    """A ``run.json`` that can't be used; the message names the file and the field."""


def begin(
    kind: str,
    model: Any,
    processor: Any,
    dataset: Any,
    arguments: Sequence[Any],
    rewards: Sequence[Any] = (),
    **source: Any,
) -> dict[str, Any] | None:
    """The record of a run that begins; None on the processes that do not save.

    Args:
        kind: ``grpo`` or ``sft``.
        model: before the trainer puts an adapter on it.
        arguments: the `TuneArguments` and the trainer's configuration; values other than the defaults are kept.
        rewards: further reward functions with their weights; the functions' names are kept.
        source: ``recipe``, ``rows`` and ``root`` as they were given, if they were.
    """
    from repic_core.models.parts import hash_weights
    from repic_core.training.shared_prefix import GROUPED

    config = arguments[-1]
    if not config.should_save:
        return None
    return {
        "format": FORMAT,
        "kind": kind,
        "recipe": _text(source.get("recipe")),
        "settings": {name: value for one in arguments for name, value in changed(one).items()},
        "seeds": {"seed": config.seed, "data_seed": config.data_seed},
        "rewards": named_rewards(rewards),
        "data": {
            "rows": _text(source.get("rows")),
            "root": _text(source.get("root")),
            "count": len(dataset),
            "sha256": hash_data(dataset),
        },
        "model": {
            "name": model.config._name_or_path,
            "weights": hash_weights(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attn": str(model.config._attn_implementation).removeprefix(GROUPED),
            "image_size": {k: v for k, v in dict(processor.image_processor.size).items() if v is not None},
        },
        "sessions": [
            {"started": _now(), "from": None, **surroundings(model.device), "processes": config.world_size}
        ],
    }


def changed(arguments: Any) -> dict[str, Any]:
    """The values of a configuration that differ from its class's defaults, as JSON; without tokens and paths."""
    plain = arguments.to_dict() if hasattr(arguments, "to_dict") else vars(arguments)
    found = {}
    for field in fields(arguments):
        if not field.init or field.name in NOT_SETTINGS or field.name.endswith("_token"):
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if getattr(arguments, field.name) != default:
            found[field.name] = json.loads(json.dumps(plain[field.name], default=str))
    return found


def hash_data(dataset: Any) -> str:
    """A hash of all rows: of every column, and of photos by their content, wherever the files are."""
    from repic_core.training.photos import photo_key, undecoded

    @cache
    def file_hash(path: str) -> str:
        try:
            return image_hash(path)
        except OSError:  # training names the file when it opens it
            return "unreadable"

    def photo(image: Any) -> str:
        if isinstance(image, dict) and image.get("bytes") is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()
        path = image.get("path") if isinstance(image, dict) else image
        return file_hash(path) if isinstance(path, str) else repr(photo_key(image))

    digest = hashlib.sha256()
    for row in undecoded(dataset):
        columns = {name: value for name, value in row.items() if name not in ("image", "images")}
        photos = [photo(one) for one in row.get("images") or ()]
        if row.get("image") is not None:
            photos.append(photo(row["image"]))
        digest.update(json.dumps([columns, photos], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def surroundings(device: Any) -> dict[str, Any]:
    """Commit of the working folder, versions and device: what may change a result in its last bits."""
    import torch

    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    versions = {"python": platform.python_version(), "repic_core": metadata.version("repic-core")}
    return {
        "commit": commit(),
        "versions": versions | {package: metadata.version(package) for package in PACKAGES},
        "device": {
            "type": device.type,
            "name": name,
            "threads": torch.get_num_threads(),
            "system": platform.system(),
        },
    }


def named_rewards(rewards: Sequence[tuple[Any, float]]) -> list[list[Any]]:
    """Further reward functions as the record holds them, each as [name, weight]."""
    return [[getattr(function, "__name__", type(function).__name__), weight] for function, weight in rewards]


def commit() -> dict[str, Any] | None:
    """The git commit of the working folder, and whether tracked files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        return {
            "sha": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def write_record(output_dir: str | Path, record: dict[str, Any], checkpoint: Path | None) -> None:
    """Write ``run.json``; if the run is resumed from `checkpoint`, with its earlier sessions.

    Logs a warning if data, model, settings or rewards differ from those of the earlier sessions.
    """
    path = Path(output_dir) / NAME
    if checkpoint is not None:
        record["sessions"][0]["from"] = checkpoint.name
        try:
            old = read_record(path)
        except RecordError as error:
            logger.warning("%s; the new record is without the earlier sessions", error)
        else:
            other = [name for name in ("settings", "rewards", "data", "model") if old[name] != record[name]]
            if other:
                record["sessions"][0]["changed"] = other
                logger.warning("%s: resumed with different %s", path, ", ".join(other))
            record["sessions"] = [*old["sessions"], *record["sessions"]]
    write_json_atomic(path, record)


def complete_record(output_dir: str | Path, state: Any, validation: dict[str, Any] | None = None) -> None:
    """Add the result to ``run.json``: steps, the last logged metrics, hashes of the saved weights, wall time, and
    what validation found."""
    path = Path(output_dir) / NAME
    record = read_record(path)
    session = record["sessions"][-1]
    session["ended"] = _now()
    started = datetime.fromisoformat(session["started"])
    session["seconds"] = (datetime.fromisoformat(session["ended"]) - started).total_seconds()
    record["result"] = {
        "steps": state.global_step,
        "metrics": last_metrics(state.log_history),
        "weights": hash_files(output_dir),
        **({"validation": validation} if validation else {}),
    }
    write_json_atomic(path, record)


def last_metrics(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The finite numbers that were logged for the last step."""
    logged = [entry for entry in history if "loss" in entry]
    numbers = logged[-1].items() if logged else ()
    return {k: v for k, v in numbers if isinstance(v, int | float) and math.isfinite(v)}


def hash_files(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of each safetensors file in a folder, by its name."""
    hashes = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def read_record(path: str | Path) -> dict[str, Any]:
    """Read and check a ``run.json``.

    Raises:
        RecordError: no such file, no JSON, another format, a field that is missing or of another type.
    """
    path = Path(path)
    record = read_json(path, RecordError)
    if not isinstance(record, dict):
        raise RecordError(f"{path}: must hold an object, as {NAME} of a run does")
    for name, kind in SHAPE.items():
        if not isinstance(record.get(name), kind):
            raise RecordError(
                f"{path}, field {name!r}: missing, or not of type {kind.__name__}; is this the {NAME} of a run?"
            )
    if record["format"] != FORMAT:
        raise RecordError(f"{path}, field 'format': {record['format']}; this version reads {FORMAT}")
    if record["kind"] not in ("grpo", "sft"):
        raise RecordError(f"{path}, field 'kind': {record['kind']!r} is neither 'grpo' nor 'sft'")
    for name, keys in NEEDED.items():
        for key in keys:
            if record[name].get(key) in (None, ""):
                raise RecordError(f"{path}, field '{name}.{key}': missing")
    sessions = record["sessions"]
    if not sessions or not all(isinstance(s, dict) and isinstance(s.get("started"), str) for s in sessions):
        raise RecordError(f"{path}, field 'sessions': must be a list of objects with 'started', one or more")
    result = record.get("result")  # none if the run was not finished
    if result is not None and not _is_result(result):
        raise RecordError(f"{path}, field 'result': must be an object with 'metrics' and 'weights'")
    return record


def _is_result(result: Any) -> bool:
    return isinstance(result, dict) and all(
        isinstance(result.get(key), dict) for key in ("metrics", "weights")
    )


def _text(given: Any) -> str | None:
    return None if given is None else str(given)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
