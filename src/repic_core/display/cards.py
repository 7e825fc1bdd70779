"""Captions beside their photos as a notebook shows them: names in colour, and growing in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.display.caption_grid import MUTED, GridRow, concept_colors
from repic_core.display.html import STYLE, caption_card, concept_cards, photo

# Colours are the notebook's variables, so that light and dark follow its theme.
THEME = (
    'style="--muted: var(--jp-ui-font-color2, #52525b); --error: var(--jp-error-color1, #b91c1c); '
    "--body-text-color: var(--jp-content-font-color1, inherit); "
    '--background-fill-secondary: var(--jp-layout-color2, #f4f4f5)"'
)
# A notebook has less room than a page.
SMALLER = "<style>.repic.cell .query img { max-height: 15rem; }</style>"


class Cards:
    """HTML that a notebook shows, with the same as text.

    Attributes:
        html: what is inside of the frame with the kit's style.
    """

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return f'{STYLE}{SMALLER}<div class="repic cell" {THEME}>{self.html}</div>'

    def __repr__(self) -> str:
        return self.text


def caption_cards(rows: Sequence[GridRow]) -> Cards:
    """Each row's photo and references, with a card for each method's caption below."""
    return Cards("<hr>".join(map(_row_html, rows)), "\n\n".join(map(_row_text, rows)))


def reference_cards(concepts: Iterable[Concept], most: int = 12) -> Cards:
    """The first `most` concepts: photo, tag, name, info."""
    concepts = list(concepts)
    shown = concepts[:most]
    count = f"{len(shown)} of {len(concepts)} concepts" if len(shown) < len(concepts) else ""
    note = f'<p class="muted">{count}</p>' if count else ""
    lines = [f"{concept.tag}  {concept.name}: {concept.info}" for concept in shown]
    cards = concept_cards(shown, concept_colors(concept.tag for concept in shown))
    return Cards(note + cards, "\n".join([count, *lines] if count else lines))


def show_growing(
    texts: Iterable[str],
    query: Any,
    references: Sequence[Concept],
    question: str = "",
    tags: Sequence[str] | None = None,
    method: str = "Caption",
) -> str:
    """Show a caption as it grows, in one output; returns the whole caption.

    Args:
        texts: the growing caption, as `Captioner.stream` gives it.
        query: the photo, a path or a PIL image.
        tags: the concepts that it shows; by default all references.
    """
    from IPython.display import display

    def card(text: str) -> Cards:
        return caption_cards([GridRow(query, references, {method: text}, question, tags)])

    text = ""
    handle = display(card(text), display_id=True)
    for text in texts:
        if handle:
            handle.update(card(text))
    return text


def _row_html(row: GridRow) -> str:
    colors = concept_colors(concept.tag for concept in row.references)
    colors |= {tag: MUTED for tag in row.tags or () if tag not in colors}
    cards = "".join(
        caption_card(method, text, row.tags or (), colors, row.candidates, "Not named")
        for method, text in row.captions.items()
    )
    asked = f"<figcaption>{escape(row.question)}</figcaption>" if row.question else ""
    return (
        f'<div class="top"><figure class="query">{photo(row.query, "The photo that is captioned")}{asked}</figure>'
        f'{concept_cards(row.references, colors)}</div><div class="captions">{cards}</div>'
    )


def _row_text(row: GridRow) -> str:
    shown = f"shown: {', '.join(row.tags or ())}"
    return "\n".join([shown, *(f"{method}: {text}" for method, text in row.captions.items())])
