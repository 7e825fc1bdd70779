"""From a model to captions to the paper's tables, in one command; a run that was cut off goes on::

    python -m repic_core.evaluation.paper_tables --root ../RePIC --model Yeongtak/RePIC_Qwen2.5VL_7B --method RePIC
    python -m repic_core.evaluation.paper_tables --root ../RePIC --model Qwen/Qwen2.5-VL-7B-Instruct --method zero-shot \\
        --zero_shot

Captions go to ``OUT/captions/METHOD/SETTING.json`` (with ``--retrieval``: ``SETTING-retrieval.json``). Each call,
also one without a model, makes ``OUT/table.md``, ``.tex`` and ``.csv`` anew of all captions there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionRecord, load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.evaluation.caption_metrics import measure_scored
from repic_core.evaluation.intervals import intervals_of
from repic_core.evaluation.paper_settings import Setting, SettingError, paper_setting, retrieval
from repic_core.evaluation.published import SETS
from repic_core.evaluation.scores import score_captions
from repic_core.io import tables
from repic_core.io.files import write_text_atomic
from repic_core.retrieval.embedders import TOWER_SIDE, PretrainedEmbedder, TowerEmbedder
from repic_core.retrieval.find import ConceptIndex
from repic_core.retrieval.regions import Detector, whole

RETRIEVAL = "-retrieval"
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
) -> Path:
    """Caption `setting` into the folder `out`; returns the caption file.

    Args:
        embedder: if given, the references are retrieved with it. The index is kept in ``out/index-SETTING`` and
            brought up to date with the database.
        detector: a zero-shot object detector that looks for the database's categories; by default the whole photo
            is the only region.
        threshold: least similarity of a retrieved concept.
    """
    name = setting.name
    if embedder is not None:
        index = ConceptIndex.open(out / f"index-{name}", setting.database, embedder)
        categories = [concept.category for concept in setting.database]
        regions = whole if detector is None else Detector(detector, categories, device=captioner.model.device)
        setting = retrieval(setting, index, embedder, regions, threshold=threshold)
        name += RETRIEVAL
    captioner.caption_many(setting.items, out=out / f"{name}.json")
    return out / f"{name}.json"


def rows_of(captions: Path, settings: dict[str, Setting]) -> list[list[str]]:
    """A row of the table (`HEAD`) for each caption file of one of `settings` under `captions`, if not empty."""
    rows = []
    for name, setting in settings.items():
        for suffix in ("", RETRIEVAL):
            for path in sorted(captions.glob(f"*/{name}{suffix}.json")):
                records = load_captions(path)
                if records:
                    references = "retrieved" if suffix else "given"
                    rows.append([name, references, path.parent.name, *table_cells(records, setting)])
    return rows


def table_cells(records: Sequence[CaptionRecord], setting: Setting) -> list[str]:
    """The cells of a caption file, from "captions" in `HEAD` on; each caption is searched once per protocol."""
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m repic_core.evaluation.paper_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", required=True, help="a folder laid out like the authors' repository")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--settings", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--model", help="a name on the hub or a folder; without it, only the table is made")
    parser.add_argument("--adapter")
    parser.add_argument(
        "--method", help="its name in the table (by default the model's or the adapter's folder)"
    )
    parser.add_argument(
        "--zero_shot", action="store_true", help="ask for the name outright, as upstream asks the base"
    )
    parser.add_argument(
        "--retrieval", action="store_true", help="retrieve the references instead of giving them"
    )
    parser.add_argument(
        "--embedder", help="CLIP, SigLIP or DINO model (by default the model's own vision tower)"
    )
    parser.add_argument(
        "--side", type=int, default=TOWER_SIDE, help="own vision tower: photos' side in pixels"
    )
    parser.add_argument(
        "--detector", help="zero-shot object detector (by default the whole photo is searched)"
    )
    parser.add_argument(
        "--threshold", type=float, help="least similarity of a retrieved concept (default: none)"
    )
    parser.add_argument(
        "--system", default="evaluation", help="`evaluation`, `inference`, a text, or '' for none"
    )
    parser.add_argument("--limit", type=int, default=0, help="the first so many rows of each setting")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument("--max_pixels", type=int, help="of a photo (by default the published limit)")
    options = parser.parse_args(arguments)

    _check(options)
    captions = options.out / "captions"
    asked = _found(options.settings, options.root, options.zero_shot, options.limit)
    if not asked:
        raise SettingError("no setting can be run")
    if options.model:
        _caption(options, asked, captions / _method(options))
    others = [n for n in SETS if n not in options.settings and any(captions.glob(f"*/{n}*.json"))]
    every = {**asked, **_found(others, options.root)}
    print(write_table(options.out, rows_of(captions, {n: every[n] for n in SETS if n in every})))


def _check(options: argparse.Namespace) -> None:
    if not options.model and (options.adapter or options.retrieval):
        raise ValueError("--adapter and --retrieval need a --model")
    for name in ("embedder", "detector", "threshold"):
        if getattr(options, name) is not None and not options.retrieval:
            raise ValueError(f"--{name} needs --retrieval")
    if options.method is not None or options.model:
        method = _method(options)
        if method in ("", ".", "..") or set(method) & set("/\\"):
            raise ValueError(f"--method {method!r}: give the name of a folder, without slashes")


def _method(options: argparse.Namespace) -> str:
    return (
        options.method
        if options.method is not None
        else Path(options.adapter or options.model).resolve().name
    )


def _found(names: Sequence[str], root: str, zero_shot: bool = False, limit: int = 0) -> dict[str, Setting]:
    """The settings of these names that can be had; says why of the others."""
    found = {}
    for name in names:
        try:
            found[name] = paper_setting(root, name, zero_shot, limit)
        except SettingError as error:
            print(f"left out: {error}")
    return found


def _caption(options: argparse.Namespace, settings: dict[str, Setting], out: Path) -> None:
    from repic_core.models.loading import PAPER_MAX_PIXELS, load_model

    for setting in settings.values():
        if options.detector and not any(concept.category for concept in setting.database):
            raise ValueError(f"{setting.name}: a detector needs categories, and its database has none")
    max_pixels = options.max_pixels or PAPER_MAX_PIXELS
    model, processor = load_model(options.model, adapter=options.adapter, max_pixels=max_pixels)
    captioner = Captioner(
        model, processor, options.system or None, options.batch_size, options.max_new_tokens
    )
    embedder = None
    if options.embedder:
        embedder = PretrainedEmbedder(options.embedder, device=str(model.device))
    elif options.retrieval:
        embedder = TowerEmbedder(model, processor, options.side)
    for setting in settings.values():
        caption_setting(setting, captioner, out, embedder, options.detector, options.threshold)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on from here") from None
    except (ValueError, OSError) as error:  # something that can't be used: its message is enough
        raise SystemExit(f"repic_core.evaluation.paper_tables: {error}") from None
