"""Captions on which two protocols disagree, each with what either finds: what notebook 07 shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.database import ConceptDatabase
from repic_core.display.caption_grid import concept_colors
from repic_core.display.cards import Cards
from repic_core.display.html import color_names, photo
from repic_core.evaluation.scores import CaptionScore
from repic_core.io.images import open_image
from repic_core.io.paths import find_file

# Longest side of the photos, in pixels: several captions are of one photo.
PHOTO_PIXELS = 320
HEAD = "".join(f'<th style="text-align: left">{title}</th>' for title in ("right", "missed", "wrong"))


def disagreement_cards(
    found: Sequence[tuple[CaptionRecord, CaptionScore, CaptionScore]],
    database: ConceptDatabase,
    root: str | Path,
    protocols: Sequence[str] = ("published", "span"),
) -> Cards:
    """A card for each of `scores.disagreements`: photo, caption, and the names that each protocol finds.

    Args:
        database: gives names that count as wrong.
        root: what the photos' paths are relative to.
        protocols: what the two are called.
    """
    cards, lines = [], []
    for record, *scores in found:
        colors = concept_colors(record.tags)
        caption, _ = color_names(record.caption, record.tags, colors, database)
        body = "".join(_result(name, one) for name, one in zip(protocols, scores, strict=True))
        cards.append(
            '<div style="display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 1rem; margin: 1rem 0">'
            f"<div>{_small(find_file(Path(root), record.query))}</div><div><p>{caption}</p>"
            '<table style="white-space: normal; margin-top: .5rem"><thead><tr><th></th>'
            f"{HEAD}</tr></thead><tbody>{body}</tbody></table></div></div>"
        )
        lines.append(record.caption)
        lines += [
            f"  {name}: right {_names(one.correct)}; missed {_names(one.missed)}; wrong {_names(one.wrong)}"
            for name, one in zip(protocols, scores, strict=True)
        ]
    return Cards("".join(cards), "\n".join(lines))


def _result(name: str, score: CaptionScore) -> str:
    """A row of the small table: what one protocol finds."""
    cells = "".join(
        f'<td style="text-align: left; white-space: normal">{escape(_names(tags))}</td>'
        for tags in (score.correct, score.missed, score.wrong)
    )
    return f'<tr><th scope="row" style="white-space: nowrap; overflow-wrap: normal">{escape(name)}</th>{cells}</tr>'


def _names(tags: Iterable[str]) -> str:
    return ", ".join(tags) or "–"


def _small(path: Path) -> str:
    """The photo, shrunk; a placeholder if it can't be read."""
    try:
        image = open_image(path, PHOTO_PIXELS)
    except ValueError:
        return photo(path, "The photo of this caption")
    return photo(image, "The photo of this caption")
