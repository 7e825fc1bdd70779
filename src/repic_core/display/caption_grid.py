"""The qualitative caption grid for papers and notebooks (`charts` has the curves).

`caption_grid` returns a ``matplotlib.figure.Figure``, which a notebook shows. Given a path, it also writes the
figure as PNG and PDF, with fonts embedded as TrueType.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.captioner.caption_files import CaptionRecord, whole
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.display.named_pieces import named_pieces
from repic_core.display.typeset import BLACK, Canvas, Piece, fit, save_figure, text_width, wrap
from repic_core.io.images import open_image
from repic_core.io.paths import find_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each has a contrast of at least 4.5 with white (text, WCAG AA) and of 3 with a dark page (frames); none is
# the red of errors. They differ in hue, and a colour is always shown together with the name.
CONCEPT_COLORS = (
    "#1d70c9",  # blue
    "#c2410c",  # orange
    "#15803d",  # green
    "#8b3fd9",  # purple
    "#0e7c8a",  # teal
    "#be2b78",  # magenta
    "#8a6116",  # brown
    "#5f6f86",  # slate
)
ERROR_COLOR, MUTED, RULE = "#b91c1c", "#52525b", "#d4d4d8"


def concept_colors(tags: Iterable[str]) -> dict[str, str]:
    """A colour (``#rrggbb``) for each tag, by its place; colours repeat after eight.

    >>> concept_colors(["<bo>", "<mia>"])
    {'<bo>': '#1d70c9', '<mia>': '#c2410c'}
    """
    return {tag: CONCEPT_COLORS[i % len(CONCEPT_COLORS)] for i, tag in enumerate(dict.fromkeys(tags))}


@dataclass(frozen=True)
class GridRow:
    """One query photo, what was asked, and what each method said.

    Args:
        query: path or PIL image.
        references: the concepts in prompt order.
        captions: method -> caption; None if a method has none for this photo.
        question: the request.
        tags: the concepts that the photo shows; by default all `references`.
        others: concepts whose names are wrong unless they are references.
    """

    query: Any
    references: Sequence[Concept]
    captions: Mapping[str, str | None]
    question: str = ""
    tags: Sequence[str] | None = None
    others: Sequence[Concept] = ()

    @property
    def candidates(self) -> list[Concept]:
        """The concepts whose names are looked for in the captions."""
        return [*self.references, *self.others]

    def __post_init__(self) -> None:
        if self.tags is None:
            object.__setattr__(self, "tags", tuple(concept.tag for concept in self.references))
        # Half an emoji can be neither drawn nor sent to a page.
        said = {method: text if text is None else whole(text) for method, text in self.captions.items()}
        object.__setattr__(self, "captions", said)
        object.__setattr__(self, "question", whole(self.question))


def grid_rows(
    captions: Mapping[str, Sequence[CaptionRecord]], database: ConceptDatabase, root: str | Path
) -> list[GridRow]:
    """Line up the captions of several methods: a row for each photo and its concepts, in the first file's order.

    Args:
        captions: method -> records (`caption_files.load_captions`), with queries relative to `root`. A method
            without a caption for a row gets None there.
        database: a tag that it lacks becomes a concept without a photo, and the info says so.

    Raises:
        ValueError: a query is outside the root, or a tag isn't one name in angle brackets.
    """
    rows: dict[tuple[Any, ...], dict[str, CaptionRecord]] = {}
    for method, records in captions.items():
        seen: Counter[tuple[Any, ...]] = Counter()
        for record in records:
            key = (record.query, tuple(record.tags))
            # The same photo may be asked about twice.
            seen[key] += 1
            rows.setdefault((*key, seen[key]), {})[method] = record
    concepts = {tag: _concept(tag, database) for _, tags, _ in rows for tag in tags}
    others = list({concept.tag: concept for concept in (*database, *concepts.values())}.values())
    found = []
    for (query, tags, _), records in rows.items():
        path = find_file(root, query).resolve()
        if not path.is_relative_to(Path(root).resolve()):
            raise ValueError(f"the query {query!r} is outside the root {root}")
        found.append(
            GridRow(
                query=path,
                references=[concepts[tag] for tag in dict.fromkeys(tags)],
                captions={m: records[m].caption if m in records else None for m in captions},
                question=next(iter(records.values())).question,
                others=others,
            )
        )
    return found


def _concept(tag: str, database: ConceptDatabase) -> Concept:
    return database[tag] if tag in database else Concept(tag, image=tag, info="not in the database")


def caption_grid(
    rows: Sequence[GridRow], path: str | Path | None = None, width: float = 7.2, font_size: float = 8.0
) -> Figure:
    """The qualitative figure (RePIC, Figures 1, A.1, A.2), with one row for each photo.

    A row has the references framed in their colours, the query, and each method's caption with every name in the
    colour of its concept. Struck out are the names of references that the photo doesn't show and of the row's
    `others`, and names in brackets that are none of theirs. Any number of references and methods fits: the height
    follows from the text.

    Args:
        rows: from top to bottom.
        path: where to write; its suffix is replaced by ``.png`` and ``.pdf``.
        width: of the figure in inches (7.2: both columns of a two-column paper).
        font_size: of the captions in points.

    Raises:
        ValueError: there are no rows, or an image is missing or can't be read; the message names it.
    """
    if not rows:
        raise ValueError("caption_grid needs at least one row")
    gap = 1.2 * font_size
    canvas = Canvas(72 * width)
    right = canvas.width - gap / 2
    x_query = gap / 2 + (0.23 * canvas.width if any(row.references for row in rows) else 0.0)
    x_text = x_query + 0.26 * canvas.width + 1.5 * gap
    canvas.rule(0, canvas.width, 0.6, BLACK, 1.2)
    y = 0.6
    for row in rows:
        top = y + gap
        colors = concept_colors(concept.tag for concept in row.references)
        wide = x_query - 1.5 * gap
        below_references = _draw_references(canvas, gap / 2, top, wide, row.references, colors, font_size)
        query = open_image(row.query)
        size = fit(query, x_text - x_query - 1.5 * gap, 0.35 * canvas.width)
        canvas.image(x_query, top, size, query, RULE, 0.8)
        below_captions = _draw_captions(canvas, x_text, top, right - x_text, row, colors, font_size)
        y = max(below_references, top + size[1], below_captions) + gap
        canvas.rule(0, canvas.width, y, RULE, 0.6)
    canvas.rule(0, canvas.width, y, BLACK, 1.2)
    figure = canvas.figure(y + 0.6)
    figure.alt = " ".join(f"Photo {number}: {_alt(row)}" for number, row in enumerate(rows, 1))
    if path is not None:
        save_figure(figure, path)
    return figure


def _alt(row: GridRow) -> str:
    given = ", ".join(concept.tag for concept in row.references) or "none"
    said = (f"{method}: {'no caption' if text is None else text}" for method, text in row.captions.items())
    return f"references {given}. {' '.join(said)}"


def _draw_references(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    references: Sequence[Concept],
    colors: Mapping[str, str],
    font_size: float,
) -> float:
    """Draw tiles of a framed photo with its tag below; returns the y below them."""
    if len(references) == 1:
        # A single photo is drawn no larger than the query.
        columns, x, width = 1, x + 0.2 * width, 0.6 * width
    elif len(references) <= 4:
        columns = 2
    else:
        columns = 3
    gap = 0.8 * font_size
    tile = (width - gap * (columns - 1)) / columns
    words = [word for concept in references for word in concept.tag.split()]
    widest = max((text_width(word, bold=True) for word in words), default=1.0)
    size = max(min(0.85 * font_size, tile / widest), 0.5 * font_size)
    for start in range(0, len(references), columns):
        bottoms = []
        for column, concept in enumerate(references[start : start + columns]):
            left = x + column * (tile + gap)
            photo = open_image(concept.images[0])
            w, h = fit(photo, tile, tile)
            canvas.image(left + (tile - w) / 2, y, (w, h), photo, colors[concept.tag], 2.0)
            label = wrap([Piece(concept.tag, colors[concept.tag], bold=True)], tile, size)
            bottoms.append(canvas.lines(left, y + h + 3, label, size, center=tile))
        y = max(bottoms) + gap / 2
    return y - gap / 2 if references else y


def _draw_captions(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    row: GridRow,
    colors: Mapping[str, str],
    font_size: float,
) -> float:
    """Draw the question, then each method's caption and the names that it misses; returns the y below them."""
    if row.question:
        y = canvas.lines(x, y, wrap([Piece(row.question, MUTED)], width, font_size), font_size)
    for method in row.captions:
        y += 0.6 * font_size
        pieces, missing = _caption_pieces(row, method, colors)
        y = canvas.lines(x, y, wrap(pieces, width, font_size), font_size)
        if missing:
            note = wrap([Piece(f"Missing: {', '.join(missing)}", ERROR_COLOR)], width, 0.85 * font_size)
            y = canvas.lines(x, y, note, 0.85 * font_size)
    return y


def _caption_pieces(row: GridRow, method: str, colors: Mapping[str, str]) -> tuple[list[Piece], list[str]]:
    caption = row.captions[method]
    pieces = [Piece(f"{whole(method)}:", bold=True), Piece(" ")]
    if caption is None:
        return [*pieces, Piece("no caption", MUTED)], []
    # RAP's captions end with "</s>".
    text = caption.replace("</s>", "")
    named, missing = named_pieces(text, row.tags, row.candidates)
    color_of = {key(tag): color for tag, color in colors.items()}
    for piece, tag in named:
        style = (color_of[key(tag)], True, False) if tag else (ERROR_COLOR, False, True) if tag == "" else ()
        pieces.append(Piece(piece, *style))
    return pieces if text.strip() else [*pieces, Piece("(empty)")], missing
