"""Repeat a training from its ``run.json`` and compare: ``repic reproduce run.json --out FOLDER``.

On the same versions, device and number of processes the weights are the same to the bit on a CPU in float32; else
the differences that are found are said.
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

CLOCKS = ("time", "runtime", "per_second")  # metrics named so are of the clock


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
    """Train again as the record says, into the new folder `out`; are the weights the same to the bit?

    Args:
        path: the ``run.json``.
        rows, root, model: where the file of rows, its photos and the model lie now; by default where they lay.
        rewards: the run's further reward functions with their weights.
        anyway: also with other data or another model.
        tell: is given each difference and the comparison at the end, a line each.

    Raises:
        RecordError: the record can't be used, or data, model or rewards are not its own (without `anyway`).
    """
    from trl import GRPOConfig, SFTConfig

    from repic_core.data.rows import read_rows
    from repic_core.models.loading import load_model
    from repic_core.models.parts import hash_weights
    from repic_core.training import grpo, sft

    record = read_record(path)
    data, source, settings = record["data"], record["model"], record["settings"]
    out, rows = Path(out), rows or data.get("rows")
    if out.exists() and any(out.iterdir()):
        raise RecordError(f"{out}: is not empty; give a new folder")
    if rows is None:
        raise RecordError(f"{path}: its rows were given in memory; give the file that they are in (--rows)")
    if named_rewards(rewards) != record["rewards"]:
        names = ", ".join(f"{name} ({weight})" for name, weight in record["rewards"]) or "none"
        raise RecordError(
            f"{path}: trained with further rewards: {names}; call `reproduce.repeat` with rewards=, its own"
        )
    root = root or data.get("root") or Path(rows).parent
    examples = read_rows(rows, root)
    found, processor = load_model(
        model or source["name"],
        dtype=source["dtype"],
        attn=source["attn"],
        load_in_4bit=settings.get("load_in_4bit", False),
    )
    for name, pixels in source["image_size"].items():
        processor.image_processor.size[name] = pixels
    seed = settings.get("seed", (GRPOConfig if record["kind"] == "grpo" else SFTConfig).seed)
    wrong = []
    if hash_weights(found) != source["weights"]:
        wrong.append(f"the model {found.config._name_or_path} has other weights")
    if hash_data(data_of(record["kind"], examples, root, seed)) != data["sha256"]:
        wrong.append(f"the rows of {rows} or their photos are others ({len(examples)}; were {data['count']})")
    if wrong and not anyway:
        raise RecordError(f"{path}: not the run's own: {'; '.join(wrong)} (--anyway trains with them)")
    for line in [*wrong, *differences(record["sessions"], found.device)]:
        tell(f"differs: {line}")

    out.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(out / "recipe.yaml", settings)
    if record["kind"] == "grpo":
        trainer = grpo.train(found, processor, examples, out, recipe, root, rewards)
    else:
        trainer = sft.train(found, processor, examples, out, recipe, root)
    return compare(record.get("result"), last_metrics(trainer.state.log_history), hash_files(out), tell)


def data_of(kind: str, examples: Sequence[Any], root: str | Path, seed: int) -> Any:
    """The dataset that a run of this kind is trained on."""
    from repic_core.data.rows import to_dataset
    from repic_core.training.sft import caption_dataset

    return to_dataset(examples, root, seed) if kind == "grpo" else caption_dataset(examples, root, seed)


def differences(sessions: Sequence[dict[str, Any]], device: Any) -> list[str]:
    """How commit, versions, device and processes are others than in a record's sessions, a line each."""
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
        lines.append("commit: the run's files were not all committed")
    return list(dict.fromkeys(lines))


def write_recipe(path: Path, settings: dict[str, Any]) -> Path:
    """The record's settings as a recipe."""
    import yaml

    from repic_core.io.files import write_text_atomic

    return write_text_atomic(path, f"# From {NAME}.\n" + yaml.safe_dump(settings, sort_keys=False))


def compare(
    result: dict[str, Any] | None,
    metrics: dict[str, float],
    weights: dict[str, str],
    tell: Callable[[str], Any],
) -> bool:
    """Say how the result differs from the record's; are the weights the same to the bit?"""
    if result is None:
        tell("the run did not come to its end: there is nothing to compare with")
        return False
    same = weights == result["weights"]
    tell("weights: the same to the bit" if same else "weights: differ")
    for name, was in result["metrics"].items():
        clock = any(part in name for part in CLOCKS)
        if not clock and metrics.get(name) != was:
            tell(f"metric {name}: was {was}, is {metrics.get(name)}")
    return same
