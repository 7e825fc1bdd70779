"""What runs of several arms share: a record of their settings, means over seeds, cells of a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.io.files import write_json_atomic


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


def cell(row: Mapping[str, Any], key: str, scale: float = 100, digits: int = 1) -> str:
    """Mean ± standard deviation from a line of `over_seeds`, in percent by default.

    >>> cell({"f1": 0.75, "f1_sd": 0.25}, "f1"), cell({"f1": None, "f1_sd": None}, "f1")
    ('75.0 ± 25.0', '-')
    """
    if row[key] is None:
        return "-"
    spread = "" if row[f"{key}_sd"] is None else f" ± {scale * row[f'{key}_sd']:.{digits}f}"
    return f"{scale * row[key]:.{digits}f}{spread}"
