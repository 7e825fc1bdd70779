"""What runs of several arms share: their rows, a record of their settings, means over seeds, cells of a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.data.rows import TrainingExample
from repic_core.io.files import write_json_atomic


def select_rows(
    rows: Sequence[TrainingExample], without: Sequence[str] = (), scenes: int | None = None
) -> list[TrainingExample]:
    """The rows of `dataset.write_training` without some methods, and only of the first `scenes` scenes."""
    rows = [row for row in rows if row.method not in without]
    if scenes is None:
        return rows
    return [row for row in rows if int(Path(row.images[-1]).name.split("_")[0]) < scenes]


def check_settings(base: str | Path, out: Path, arms: Mapping[str, Mapping[str, Any]], **common: Any) -> None:
    """Write ``settings.json`` into `out`; ValueError if the run in `out` was made with other settings.

    Args:
        base: the model's folder; the hash of its weights is written.
        arms: the settings of each wanted arm, as JSON has them (lists, no tuples).
        common: settings of all arms.
    """
    path, remedy = out / "settings.json", "give another --out, or delete that folder"
    weights = hashlib.sha256()
    for file in sorted(Path(base).glob("*.safetensors")):
        weights.update(file.read_bytes())
    new: dict[str, Any] = {"base": weights.hexdigest(), **common, "arms": dict(arms)}
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (out / "data").exists():
            raise ValueError(
                f"{out}: holds a run without {path.name}, so what it was made from is unknown: {remedy}"
            ) from None
        old = {"arms": {}}
    for key in ("base", *common):
        if old.get(key, new[key]) != new[key]:
            raise ValueError(f"{path}: made with another {key} ({old[key]}, now {new[key]}): {remedy}")
    for arm in arms:
        if old["arms"].get(arm, new["arms"][arm]) != new["arms"][arm]:
            raise ValueError(
                f"{path}: arm {arm} was made with {old['arms'][arm]}, now {new['arms'][arm]}: {remedy}"
            )
    write_json_atomic(path, {**new, "arms": old["arms"] | new["arms"]})


def over_seeds(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1) of each key over rows, as ``key`` and ``key_sd``; None if unknown.

    >>> over_seeds([{"f1": 0.5}, {"f1": 1.0}, {"f1": None}], ["f1"])
    {'f1': 0.75, 'f1_sd': 0.3535533905932738}
    """
    line: dict[str, float | None] = {}
    for key in keys:
        values = [row[key] for row in rows if row[key] is not None]
        line[key] = float(np.mean(values)) if values else None
        line[f"{key}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return line


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with the standard deviation (None of one seed); printed in percent if `percent` says so."""

    value: float
    sd: float | None
    percent: bool = True

    def __str__(self) -> str:
        scale, digits = (100, 1) if self.percent else (1, 1 if self.value >= 10 else 3)
        return _plus_minus(self.value, self.sd, scale, digits)


def spread(row: Mapping[str, Any], key: str, percent: bool = True) -> Spread | None:
    """Mean and standard deviation from a line of `over_seeds`; None if unknown.

    >>> str(spread({"f1": 0.75, "f1_sd": 0.25}, "f1")), str(spread({"kl": 0.5, "kl_sd": None}, "kl", False))
    ('75.0 ± 25.0', '0.500')
    """
    return None if row[key] is None else Spread(row[key], row[f"{key}_sd"], percent)


def cell(row: Mapping[str, Any], key: str, scale: float = 100, digits: int = 1) -> str:
    """Mean ± standard deviation from a line of `over_seeds`, in percent by default.

    >>> cell({"f1": 0.75, "f1_sd": 0.25}, "f1"), cell({"f1": None, "f1_sd": None}, "f1")
    ('75.0 ± 25.0', '-')
    """
    if row[key] is None:
        return "-"
    return _plus_minus(row[key], row[f"{key}_sd"], scale, digits)


def _plus_minus(value: float, sd: float | None, scale: float, digits: int) -> str:
    return f"{scale * value:.{digits}f}" + ("" if sd is None else f" ± {scale * sd:.{digits}f}")
