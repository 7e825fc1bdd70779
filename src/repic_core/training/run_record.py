"""``run.json`` beside a training's result: what it was made of, so that `repic_core.training.reproduce` can repeat it.

Paths stand in it as they were given; no name of a user or a machine is written.
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
from importlib import metadata
from pathlib import Path
from typing import Any

from repic_core.io.files import read_json, write_json_atomic
from repic_core.io.images import image_hash

logger = logging.getLogger(__name__)

NAME = "run.json"
FORMAT = 1
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "pillow", "numpy")
SHAPE = {
    "format": int,
    "kind": str,
    "settings": dict,
    "rewards": list,
    "data": dict,
    "model": dict,
    "sessions": list,
}
# What stands elsewhere in the record, where the result lies, what follows from others (TRL refuses both).
NOT_SETTINGS = {"model", "rows", "image_root", "resume", "output_dir", "logging_dir", "run_name"}
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
    """The record of a run that begins; only on the process that saves, else None.

    Args:
        kind: ``grpo`` or ``sft``.
        model: before the trainer puts an adapter on it.
        arguments: the `TuneArguments` and the trainer's configuration; values that are not the default are kept.
        rewards: further reward functions with their weights, of which the names are kept.
        source: ``recipe``, ``rows`` and ``root`` as they were given, where they were.
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
    """The values of a configuration that are not its class's defaults, as JSON has them; no tokens or paths."""
    plain = arguments.to_dict() if hasattr(arguments, "to_dict") else vars(arguments)
    found = {}
    for field in fields(arguments):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        named = field.init and field.name not in NOT_SETTINGS and not field.name.endswith("_token")
        if named and getattr(arguments, field.name) != default:
            found[field.name] = json.loads(json.dumps(plain[field.name], default=str))
    return found


def hash_data(dataset: Any) -> str:
    """A hash of all rows: every column, and photos by their content, wherever they lie."""
    from repic_core.training.photos import photo_key, undecoded

    files: dict[str, str] = {}

    def photo(image: Any) -> str:
        if isinstance(image, dict) and image.get("bytes") is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()
        path = image.get("path") if isinstance(image, dict) else image
        if not isinstance(path, str):
            return repr(photo_key(image))
        if path not in files:
            try:
                files[path] = image_hash(path)
            except OSError:  # training says so when it comes to it
                files[path] = "unreadable"
        return files[path]

    digest = hashlib.sha256()
    for row in undecoded(dataset):
        columns = {name: value for name, value in row.items() if name not in ("image", "images")}
        photos = [photo(one) for one in row.get("images") or ()]
        photos += [photo(row["image"])] if row.get("image") is not None else []
        digest.update(json.dumps([columns, photos], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def surroundings(device: Any) -> dict[str, Any]:
    """Commit of the working folder, versions and device: what may change the bits of a result."""
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
    """Further reward functions as the record holds them: [name, weight] of each."""
    return [[getattr(function, "__name__", type(function).__name__), weight] for function, weight in rewards]


def commit() -> dict[str, Any] | None:
    """The working folder's git commit and whether tracked files differ from it; None outside a repository."""

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
    """Write ``run.json``; of a run that goes on from `checkpoint`, with the sessions before.

    Says where data, model or settings are not those of the sessions before.
    """
    path = Path(output_dir) / NAME
    if checkpoint is not None:
        record["sessions"][0]["from"] = checkpoint.name
        try:
            old = read_record(path)
        except RecordError as error:
            logger.warning("%s; the sessions before this one are not in the new one", error)
        else:
            other = [name for name in ("settings", "rewards", "data", "model") if old[name] != record[name]]
            if other:
                record["sessions"][0]["changed"] = other
                logger.warning("%s: resumed with other %s", path, ", ".join(other))
            record["sessions"] = [*old["sessions"], *record["sessions"]]
    write_json_atomic(path, record)


def complete_record(output_dir: str | Path, state: Any) -> None:
    """Add the result to ``run.json``: steps, the last logged metrics, hashes of the saved weights, wall time."""
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
    }
    write_json_atomic(path, record)


def last_metrics(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The last logged step's finite numbers."""
    logged = [entry for entry in history if "loss" in entry]
    numbers = logged[-1].items() if logged else ()
    return {k: v for k, v in numbers if isinstance(v, int | float) and math.isfinite(v)}


def hash_files(folder: str | Path) -> dict[str, str]:
    """SHA-256 of each file of weights in a folder."""
    hashes = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def read_record(path: str | Path) -> dict[str, Any]:
    """A checked ``run.json``.

    Raises:
        RecordError: no such file, no JSON, another format, a field that is missing or of another kind.
    """
    path = Path(path)
    record = read_json(path, RecordError)
    if not isinstance(record, dict):
        raise RecordError(f"{path}: must hold an object, as {NAME} of a run does")
    for name, kind in SHAPE.items():
        if not isinstance(record.get(name), kind):
            raise RecordError(
                f"{path}, field {name!r}: missing, or no {kind.__name__}; is it a run's {NAME}?"
            )
    if record["format"] != FORMAT:
        raise RecordError(f"{path}, field 'format': {record['format']}; this version reads {FORMAT}")
    if record["kind"] not in ("grpo", "sft"):
        raise RecordError(f"{path}, field 'kind': {record['kind']!r} is neither 'grpo' nor 'sft'")
    for name, wanted in {
        "data": ("count", "sha256"),
        "model": ("name", "weights", "dtype", "attn", "image_size"),
    }.items():
        for key in wanted:
            if record[name].get(key) in (None, ""):
                raise RecordError(f"{path}, field '{name}.{key}': missing")
    sessions = record["sessions"]
    if not sessions or not all(isinstance(s, dict) and isinstance(s.get("started"), str) for s in sessions):
        raise RecordError(f"{path}, field 'sessions': must be a list of objects with 'started', one or more")
    result = record.get("result")  # none where the run did not come to its end
    if result is not None and not (
        isinstance(result, dict) and all(isinstance(result.get(k), dict) for k in ("metrics", "weights"))
    ):
        raise RecordError(f"{path}, field 'result': must be an object with 'metrics' and 'weights'")
    return record


def _text(given: Any) -> str | None:
    return None if given is None else str(given)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
