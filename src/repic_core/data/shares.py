"""A share of each of several files: ``a.jsonl:first:1000``, ``b.jsonl:random:20%``, or VLM-R1's YAML list.

The YAML and its three strategies are those of VLM-R1 (`LazySupervisedDataset` in its ``grpo_rec.py``, and in
github.com/oyt9306/CoViP, ``grpo_pmllm.py`` at 0804834)::

    datasets:
      - json_path: a.jsonl
        sampling_strategy: first:1000
      - json_path: b.json
        sampling_strategy: random:20%
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.data.rows import RowError
from repic_core.io.files import read_records, read_yaml

# Anchored at the end, so that the colon of C:\rows.jsonl is part of the path.
_SHARE = re.compile(r"(first|end|random):(\d+)(%?)")
_FILE_AND_SHARE = re.compile(rf"(.+?):({_SHARE.pattern})", re.DOTALL)
FORM = "first:1000, end:1000, random:1000 or random:20%"


@dataclass(frozen=True)
class Share:
    """Which records of a file are taken: the first, the last or random ones, by number or in percent."""

    path: Path
    strategy: str = "first"
    amount: int = 100
    percent: bool = True

    def take(self, records: list[Any], rng: random.Random) -> list[Any]:
        """The records of the share, in the order of the file; parts of a record count as whole, as in VLM-R1.

        >>> Share(Path("a.json"), "end", 40).take([1, 2, 3, 4], random.Random(0))
        [3, 4]
        """
        count = math.ceil(self.amount * len(records) / 100) if self.percent else self.amount
        count = min(count, len(records))
        if self.strategy == "first":
            return records[:count]
        if self.strategy == "end":
            return records[len(records) - count :]
        return [records[i] for i in sorted(rng.sample(range(len(records)), count))]


def read_shares(specs: Iterable[str | Path], seed: int = 0) -> list[tuple[str, Any, Path]]:
    """The records of all files, as (where, record, folder of the file).

    Args:
        specs: a file, a file with a share, or a YAML list of them; see the top of this module.
        seed: of the random shares.

    Raises:
        RowError: a file can't be read, or a share is none; names it.
    """
    rng, found = random.Random(seed), []
    for spec in specs:
        for share in parse_shares(spec):
            records = list(read_records(share.path, RowError))
            found += [(where, record, share.path.parent) for where, record in share.take(records, rng)]
    return found


def parse_shares(spec: str | Path) -> list[Share]:
    """The files and shares that one argument names. A file that exists under the whole text is meant as a whole.

    >>> [share] = parse_shares("D:/rows.jsonl:random:20%")
    >>> share.path.as_posix(), share.strategy, share.amount, share.percent
    ('D:/rows.jsonl', 'random', 20, True)
    """
    path = Path(spec)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _listed(path)
    found = _FILE_AND_SHARE.fullmatch(str(spec))
    if found is None or path.exists():
        return [Share(path)]
    return [_share(Path(found[1]), found[2], str(spec))]


def _share(path: Path, text: Any, where: str) -> Share:
    found = _SHARE.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found[3] and int(found[2]) > 100):
        raise RowError(f"{where}: {text!r} is no share: write {FORM}")
    return Share(path, found[1], int(found[2]), bool(found[3]))


def _listed(path: Path) -> list[Share]:
    what = "`datasets:`, a list with a json_path each"
    entries = read_yaml(path, RowError, what).get("datasets")
    if not isinstance(entries, list) or not entries:
        raise RowError(f"{path}: must hold {what}")
    shares = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, dataset {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
            raise RowError(f"{where}, field 'json_path': missing, or no path")
        file = path.parent / entry["json_path"]
        strategy = entry.get("sampling_strategy", "all")
        whole = strategy == "all"
        shares.append(Share(file) if whole else _share(file, strategy, f"{where}, field 'sampling_strategy'"))
    return shares
