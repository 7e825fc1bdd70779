"""From a model to captions to the paper's tables, in one command; a run that was cut off is resumed::

    repic evaluate --root ../RePIC --model Yeongtak/RePIC_Qwen2.5VL_7B --method RePIC
    repic evaluate --root ../RePIC --model Qwen/Qwen2.5-VL-7B-Instruct --method zero-shot --zero-shot

Captions go to ``OUT/captions/METHOD/SETTING.json``, with retrieved references to ``SETTING-retrieval.json``
(`REFERENCES` has all endings). Each call, also one without a model, makes ``OUT/table.md``, ``.tex`` and ``.csv``
again from all captions there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import Captions, load_captions, scored_records
from repic_core.captioner.captioner import Captioner
from repic_core.evaluation.caption_metrics import measure_scored
from repic_core.evaluation.intervals import intervals_of
from repic_core.evaluation.paper_settings import Setting, SettingError, paper_setting, retrieval
from repic_core.evaluation.published import SETS
from repic_core.evaluation.scores import score_captions
from repic_core.io import tables
from repic_core.io.files import write_text_atomic
from repic_core.retrieval.find import ConceptIndex
from repic_core.retrieval.regions import Detector, whole
from repic_core.retrieval.verify import Verifier
from repic_core.retrieval.yolo_world import WEIGHTS, YoloWorld

# The ending of a caption file -> where its references are from, as the table says it.
REFERENCES = {
    "": "given",
    "-retrieval": "retrieved",
    "-retrieval-verified": "retrieved, verified",
    "-published": "retrieved as published",
    "-published-verified": "retrieved as published, verified",
}
HEAD = [
    "setting",
    "references",
    "method",
    "captions",
    "published P",
    "published R",
    "published F1",
    "span P",
    "span R",
    "span F1",
    "F1 95% by photo",
    "hallucinated",
    "copied",
    "words",
]


def caption_setting(
    setting: Setting,
    captioner: Captioner,
    out: Path,
    embedder: Any = None,
    detector: str | None = None,
    threshold: float | None = None,
    published: bool = False,
    sureness: float | None = None,
    progress: bool = True,
) -> Path:
    """Caption `setting` into the folder `out`; returns the caption file.

    Args:
        captioner: one with a model that is loaded here if references are retrieved; else also one of a server.
        embedder: if given, the references are retrieved with it. The index is kept in ``out/index-SETTING`` and
            brought up to date with the database.
        detector: a zero-shot object detector that looks for the database's categories; by default the whole photo
            is the only region.
        threshold: least similarity of a retrieved concept.
        published: as the authors retrieve: `detector` is a file with the weights of YOLO-World, and references are
            sorted by similarity alone (`find_concepts`).
        sureness: if given, the model confirms retrieved concepts; the least sureness of one that stays
            (`Verifier`).
    """
    name = setting.name
    if embedder is not None:
        categories = [concept.category for concept in setting.database]
        device, confirm = str(captioner.model.device), None
        if published:
            regions: Any = YoloWorld(detector or WEIGHTS, categories, device)
        else:
            regions = whole if detector is None else Detector(detector, categories, device=device)
        index = ConceptIndex.open(out / f"index-{name}", setting.database, embedder)
        if sureness is not None:
            model = captioner.model, captioner.processor
            confirm = Verifier(*model, setting.database, sureness, captioner.batch_size)
        options = {"threshold": threshold, "published": published, "confirm": confirm}
        setting = retrieval(setting, index, embedder, regions, **options)
        name += ("-published" if published else "-retrieval") + ("-verified" if confirm else "")
    captioner.caption_many(setting.items, out=out / f"{name}.json", progress=progress)
    return out / f"{name}.json"


def rows_of(captions: Path, settings: dict[str, Setting]) -> list[list[str]]:
    """A row of the table (`HEAD`) for each caption file of one of `settings` under `captions`, if not empty."""
    rows = []
    for name in (name for name in SETS if name in settings):
        setting = settings[name]
        for suffix, references in REFERENCES.items():
            for path in sorted(captions.glob(f"*/{name}{suffix}.json")):
                records = load_captions(path)
                if records:
                    rows.append([name, references, path.parent.name, *table_cells(records, setting)])
    return rows


def table_cells(captions: Captions, setting: Setting) -> list[str]:
    """The cells of a caption file, from "captions" in `HEAD` on; each caption is searched once per protocol.

    Raises:
        CaptionFileError: as `scores.score`.
    """
    records = scored_records(captions)
    published = score_captions(records, setting.protocol, setting.database)
    span = score_captions(records, "span", setting.database)
    count = str(len(records))
    if len(records) < len(setting.items):  # of an interrupted run
        count += f" of {len(setting.items)}"
    cells = [count]
    for score in (published.total(), span.total()):
        cells += [f"{100 * value:.1f}" for value in (score.precision, score.recall, score.f1)]
    f1 = intervals_of(span)["f1"]
    more = measure_scored(span, setting.database)
    cells += [
        f"{100 * f1.low:.1f} to {100 * f1.high:.1f}",
        f"{more['hallucinated'].value:.2f}",
        f"{100 * more['copied'].value:.1f}%",
        f"{more['words'].value:.1f}",
    ]
    return cells


def write_table(out: Path, rows: list[list[str]]) -> str:
    """Write ``table.md``, ``table.tex`` and ``table.csv`` into the folder `out`; returns the Markdown."""
    text = tables.markdown(HEAD, rows)
    write_text_atomic(out / "table.md", text + "\n")
    write_text_atomic(out / "table.tex", tables.latex(HEAD, rows, left=3) + "\n")
    write_text_atomic(out / "table.csv", tables.csv_text(HEAD, rows))
    return text


def found_settings(
    root: str | Path,
    names: Sequence[str],
    suffix: str = "none",
    limit: int = 0,
    tell: Callable[[str], Any] = print,
    questions: str = "single",
) -> dict[str, Setting]:
    """The paper's settings of these names whose files are in `root` (`paper_setting`).

    Args:
        tell: is given a line for each setting that is left out, which says why.
    """
    found = {}
    for name in names:
        try:
            found[name] = paper_setting(root, name, suffix, limit, questions)
        except SettingError as error:
            tell(f"left out: {error}")
    return found


def with_captions(captions: Path) -> list[str]:
    """The settings, keys of `published.SETS`, that have caption files of any method in the folder `captions`."""
    return [name for name in SETS if any(captions.glob(f"*/{name}*.json"))]
