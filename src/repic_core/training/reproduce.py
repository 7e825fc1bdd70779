"""Repeat a training from its ``run.json`` and compare: ``repic reproduce run.json --out FOLDER``.

On a CPU in float32, with the same versions, device and number of processes, the weights are equal bit for bit.
Whatever differs is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repic_core.training.run_record import (
    NAME,
    RecordError,
    hash_data,
    hash_files,
    last_metrics,
    named_rewards,
    read_record,
    surroundings,
)

CLOCKS = ("time", "runtime", "per_second")  # parts of the names of metrics that measure time


def repeat(
    path: str | Path,
    out: str | Path,
    rows: str | Path | None = None,
    root: str | Path | None = None,
    model: str | Path | None = None,
    rewards: Sequence[tuple[Callable[..., list[float | None]], float]] = (),
    anyway: bool = False,
    tell: Callable[[str], Any] = print,
) -> bool:
    """Train again as the record says, into the new folder `out`.

    Args:
        path: the ``run.json``.
        rows, root, model: where the file of rows, its photos and the model are now; by default where they were.
        rewards: the run's further reward functions with their weights.
        anyway: also train with data or a model that differ from the run's.
        tell: is called with one line for each difference, and with the comparison at the end.

    Returns:
        Whether the weights are equal bit for bit.

    Raises:
        RecordError: the record can't be used; `out` is not empty; the rewards differ from the run's or, without
            `anyway`, the data or the model.
        TrainingError: the repeated run stopped early.
    """
    from repic_core.data.rows import read_rows
    from repic_core.models.loading import load_model
    from repic_core.training import grpo, sft

    record = read_record(path)
    source, settings = record["model"], record["settings"]
    out, rows = Path(out), rows or record["data"].get("rows")
    if out.exists() and any(out.iterdir()):
        raise RecordError(f"{out}: is not empty; give a new folder")
    if rows is None:
        raise RecordError(f"{path}: its rows were given in memory; give the file that they are in (--rows)")
    _check_rewards(path, record, rewards)
    if (record.get("result") or {}).get("validation"):
        raise RecordError(
            f"{path}: its result was chosen by validation, whose rows are not recorded: train it again"
        )
    root = root or record["data"].get("root") or Path(rows).parent
    examples = read_rows(rows, root)
    found, processor = load_model(
        model or source["name"],
        dtype=source["dtype"],
        attn=source["attn"],
        load_in_4bit=settings.get("load_in_4bit", False),
    )
    for name, pixels in source["image_size"].items():
        processor.image_processor.size[name] = pixels
    other = _other_inputs(record, found, examples, rows, root)
    if other and not anyway:
        raise RecordError(
            f"{path}: not what the run was trained on: {'; '.join(other)} (--anyway trains with it)"
        )
    for line in [*other, *differences(record["sessions"], found.device)]:
        tell(f"differs: {line}")

    out.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(out / "recipe.yaml", settings)
    if record["kind"] == "grpo":
        trainer = grpo.train(found, processor, examples, out, recipe, root, rewards)
    else:
        trainer = sft.train(found, processor, examples, out, recipe, root)
    return compare(record.get("result"), last_metrics(trainer.state.log_history), hash_files(out), tell)


def _check_rewards(path: str | Path, record: dict[str, Any], rewards: Sequence[Any]) -> None:
    """RecordError if `rewards` are not the run's further rewards."""
    if named_rewards(rewards) != record["rewards"]:
        names = ", ".join(f"{name} ({weight})" for name, weight in record["rewards"]) or "none"
        raise RecordError(
            f"{path}: trained with further rewards: {names}; call `reproduce.repeat` with the same in rewards="
        )


def _other_inputs(
    record: dict[str, Any], model: Any, examples: Sequence[Any], rows: Any, root: Any
) -> list[str]:
    """Which of model and data differ from the run's, as messages."""
    from trl import GRPOConfig, SFTConfig

    from repic_core.data.rows import to_dataset
    from repic_core.models.parts import hash_weights
    from repic_core.training.sft import caption_dataset

    settings = record["settings"]
    if record["kind"] == "grpo":
        dataset = to_dataset(examples, root, settings.get("seed", GRPOConfig.seed))
    else:
        dataset = caption_dataset(examples, root, settings.get("seed", SFTConfig.seed))
    data, other = record["data"], []
    if hash_weights(model) != record["model"]["weights"]:
        other.append(f"the model {model.config._name_or_path} has other weights")
    if hash_data(dataset) != data["sha256"]:
        other.append(
            f"the rows of {rows} or their photos differ ({len(examples)} rows; were {data['count']})"
        )
    return other


def differences(sessions: Sequence[dict[str, Any]], device: Any) -> list[str]:
    """How commit, versions, device and processes differ from those of a record's sessions, one line each."""
    from accelerate import PartialState

    now = surroundings(device) | {"processes": PartialState().num_processes}
    lines = []
    if len(sessions) > 1:
        lines.append(f"the run had {len(sessions)} sessions; it is repeated in one")
    for session in sessions:
        for name, value in now.items():
            was = session.get(name)
            pairs = [(name, was, value)]
            if isinstance(was, dict) and isinstance(value, dict):
                pairs = [(f"{name} {key}", was.get(key), value.get(key)) for key in {**was, **value}]
            lines += [f"{what}: was {one}, is {two}" for what, one, two in pairs if one != two]
    if any((session.get("commit") or {}).get("dirty") for session in sessions):
        lines.append("commit: some of the run's files were not committed")
    return list(dict.fromkeys(lines))


def write_recipe(path: Path, settings: dict[str, Any]) -> Path:
    """Write the record's settings as a recipe."""
    import yaml

    from repic_core.io.files import write_text_atomic

    return write_text_atomic(path, f"# From {NAME}.\n" + yaml.safe_dump(settings, sort_keys=False))


def compare(
    result: dict[str, Any] | None,
    metrics: dict[str, float],
    weights: dict[str, str],
    tell: Callable[[str], Any],
) -> bool:
    """Tell how the result differs from the record's; returns whether the weights are equal bit for bit."""
    if result is None:
        tell("the run was not finished: there is no result to compare with")
        return False
    same = weights == result["weights"]
    tell("weights: equal bit for bit" if same else "weights: differ")
    for name, was in result["metrics"].items():
        measures_time = any(part in name for part in CLOCKS)
        if not measures_time and metrics.get(name) != was:
            tell(f"metric {name}: was {was}, is {metrics.get(name)}")
    return same
