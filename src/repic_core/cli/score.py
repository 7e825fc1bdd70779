"""``repic score``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.cli.options import Parser, add_flags, describe
from repic_core.cli.output import print_json


def add_score(parser: Parser) -> None:
    from repic_core.evaluation.scores import PROTOCOLS

    describe(parser, _score, "repic score ours.json base.json --database photos/database.json")
    parser.add_argument("files", nargs="+", metavar="FILE", help="caption files")
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=PROTOCOLS,
        default=["repic-4", "span"],
        metavar="P",
        help=f"{', '.join(PROTOCOLS)} (default: repic-4 span)",
    )
    add_flags(parser, "--database", help="the concepts: further names that span knows, and aliases of tags")
    add_flags(parser, "--root")
    parser.add_argument(
        "--intervals",
        choices=("photo", "caption"),
        default="photo",
        help="of the last protocol's F1, 95%%, by drawing photos or captions (default: photo)",
    )
    parser.add_argument(
        "--no-intervals",
        dest="intervals",
        action="store_const",
        const=None,
        help="leave them out, which is quicker",
    )
    parser.add_argument("--latex", metavar="FILE", help="also write the table as LaTeX")
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV")
    add_flags(parser, "--json")


def _score(options: argparse.Namespace) -> None:
    from repic_core.captioner.caption_files import scored_records
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.evaluation.scores import score
    from repic_core.io import tables
    from repic_core.io.files import write_text_atomic

    database = None
    if options.database:
        database = ConceptDatabase.load(options.database, options.root, check_images=False)
    captions = {name: scored_records(file) for name, file in _named(options.files).items()}
    scores = {
        name: [score(records, protocol, database) for protocol in options.protocol]
        for name, records in captions.items()
    }
    intervals = _intervals(options, captions, database)
    head, rows = _table(options, scores, intervals)
    if options.json:
        print_json(_answers(options, captions, scores, intervals))
    else:
        print(tables.markdown(head, rows))
    if options.latex:
        write_text_atomic(options.latex, tables.latex(head, rows) + "\n")
    if options.csv:
        write_text_atomic(options.csv, tables.csv_text(head, rows))


def _named(files: Sequence[str]) -> dict[str, str]:
    """Each file by its name without folder and ending, or as it was given where two would have one name."""
    stems = [Path(file).stem for file in files]
    return {stem if stems.count(stem) == 1 else file: file for stem, file in zip(stems, files, strict=True)}


def _intervals(options: argparse.Namespace, captions: dict[str, Any], database: Any) -> dict[str, Any]:
    """The interval of the last protocol's F1 of each file; none with ``--no-intervals``."""
    if not options.intervals:
        return {}
    from repic_core.evaluation.intervals import score_intervals

    return {
        name: score_intervals(records, options.protocol[-1], database, options.intervals)["f1"]
        for name, records in captions.items()
    }


def _table(
    options: argparse.Namespace, scores: dict[str, Any], intervals: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    from repic_core.evaluation.scores import cells

    head, rows = cells(scores)
    if options.intervals:
        head.append(f"{options.protocol[-1]} F1 95% by {options.intervals}")
        for row in rows:
            found = intervals.get(row[0])
            row.append(f"{100 * found.low:.1f} to {100 * found.high:.1f}" if found else "")
    return head, rows


def _answers(
    options: argparse.Namespace, captions: dict[str, Any], scores: dict[str, Any], intervals: dict[str, Any]
) -> list[dict[str, Any]]:
    """Scores in [0, 1] of each file."""
    found = []
    for name, records in captions.items():
        values = {
            s.protocol: {"precision": s.precision, "recall": s.recall, "f1": s.f1} for s in scores[name]
        }
        photos = len({record.query for record in records})
        answer = {"file": name, "captions": len(records), "photos": photos, "scores": values}
        if name in intervals:
            ends = [intervals[name].low, intervals[name].high]
            answer["f1_interval"] = {
                "protocol": options.protocol[-1],
                "by": options.intervals,
                "ends": ends,
            }
        found.append(answer)
    return found
