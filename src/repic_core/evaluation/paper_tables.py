"""From a model to captions to the paper's tables, in one command; a run that was cut off is resumed::

    repic evaluate --root ../RePIC --model Yeongtak/RePIC_Qwen2.5VL_7B --method RePIC
    repic evaluate --root ../RePIC --model Qwen/Qwen2.5-VL-7B-Instruct --method zero-shot --zero-shot

Captions go to ``OUT/captions/METHOD/SETTING.json`` (with ``--retrieval``: ``SETTING-retrieval.json``). Each call,
also one without a model, makes ``OUT/table.md``, ``.tex`` and ``.csv`` anew of all captions there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.evaluation.caption_metrics import measure
from repic_core.evaluation.intervals import score_intervals
from repic_core.evaluation.paper_settings import Setting, SettingError, paper_setting, retrieval
from repic_core.evaluation.published import SETS
from repic_core.evaluation.scores import score
from repic_core.io import tables
from repic_core.io.files import write_text_atomic
from repic_core.retrieval.find import ConceptIndex
from repic_core.retrieval.regions import Detector, whole

RETRIEVAL = "-retrieval"
HEAD = [
    *("setting", "references", "method", "captions", "published P", "published R", "published F1"),
    *("span P", "span R", "span F1", "F1 95% by photo", "hallucinated", "copied", "words"),
]


def caption_setting(
    setting: Setting,
    captioner: Captioner,
    out: Path,
    embedder: Any = None,
    detector: str | None = None,
    threshold: float | None = None,
    progress: bool = True,
) -> Path:
    """Caption `setting` into the folder `out`; with an `embedder`, given the concepts that are retrieved.

    The index is kept in ``out/index-SETTING`` and brought up to date with the database; `detector`: a zero-shot
    object detector that is asked for the database's categories, else the whole photo is the only region.
    """
    name = setting.name
    if embedder is not None:
        index = ConceptIndex.open(out / f"index-{name}", setting.database, embedder)
        categories = [concept.category for concept in setting.database]
        regions = whole if detector is None else Detector(detector, categories, device=captioner.model.device)
        setting = retrieval(setting, index, embedder, regions, threshold=threshold)
        name += RETRIEVAL
    captioner.caption_many(setting.items, out=out / f"{name}.json", progress=progress)
    return out / f"{name}.json"


def rows_of(captions: Path, settings: dict[str, Setting]) -> list[list[str]]:
    """A row of the table for each caption file under `captions` of one of `settings`; empty files give none."""
    rows = []
    for name in (name for name in SETS if name in settings):
        setting = settings[name]
        for suffix in ("", RETRIEVAL):
            for path in sorted(captions.glob(f"*/{name}{suffix}.json")):
                records = load_captions(path)
                if not records:
                    continue
                scores = [score(records, p, setting.database) for p in (setting.protocol, "span")]
                f1 = score_intervals(records, "span", setting.database)["f1"]
                more = measure(records, setting.database)
                count = str(len(records))
                if len(records) < len(setting.items):  # of a run that was cut off
                    count += f" of {len(setting.items)}"
                rows.append(
                    [name, "retrieved" if suffix else "given", path.parent.name, count]
                    + [f"{100 * v:.1f}" for s in scores for v in (s.precision, s.recall, s.f1)]
                    + [f"{100 * f1.low:.1f} to {100 * f1.high:.1f}", f"{more['hallucinated'].value:.2f}"]
                    + [f"{100 * more['copied'].value:.1f}%", f"{more['words'].value:.1f}"]
                )
    return rows


def write_table(out: Path, rows: list[list[str]]) -> str:
    """Write ``table.md``, ``table.tex`` and ``table.csv`` into `out`; returns the Markdown."""
    text = tables.markdown(HEAD, rows)
    write_text_atomic(out / "table.md", text + "\n")
    write_text_atomic(out / "table.tex", tables.latex(HEAD, rows, left=3) + "\n")
    write_text_atomic(out / "table.csv", tables.csv_text(HEAD, rows))
    return text


def found_settings(
    root: str | Path,
    names: Sequence[str],
    zero_shot: bool = False,
    limit: int = 0,
    tell: Callable[[str], Any] = print,
) -> dict[str, Setting]:
    """The paper's settings of these names that can be had from `root` (`paper_setting`).

    Args:
        tell: is given a line for each setting that is left out, which says why.
    """
    found = {}
    for name in names:
        try:
            found[name] = paper_setting(root, name, zero_shot, limit)
        except SettingError as error:
            tell(f"left out: {error}")
    return found


def with_captions(captions: Path) -> list[str]:
    """The settings, keys of `published.SETS`, that have caption files of any method in the folder `captions`."""
    return [name for name in SETS if any(captions.glob(f"*/{name}*.json"))]
