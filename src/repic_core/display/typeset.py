"""What `caption_grid` draws with: coloured, wrapped text beside pictures on a matplotlib figure.

Lengths are in points, from the figure's top left. Text is measured by its outlines, so a line that fits in the PNG
also fits in the PDF.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repic_core.io.files import replaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

BLACK = "#18181b"
# Of these, the installed ones are used.
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Emoji")
LINE_HEIGHT = 1.3  # of the font size
IMAGE_DPI = 300
LANCZOS = 1  # PIL's number of this filter


class Piece(NamedTuple):
    """Text in one style. Pieces without white space between them stay one word."""

    text: str
    color: str = BLACK
    bold: bool = False
    struck: bool = False


Line = list[tuple[float, Piece]]  # (x offset in points, piece)


def new_figure(**options: Any) -> Figure:
    """A white ``matplotlib.figure.Figure`` that notebooks show as a PNG and that pyplot doesn't keep.

    What is set as its ``alt`` is shown instead where pictures are not, and read out by screen readers.
    """
    return _figure_class()(facecolor="white", **options)


@lru_cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        alt = "A figure."

        def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=120)
            return buffer.getvalue(), {"alt": self.alt}

        def __repr__(self) -> str:
            return self.alt

    return NotebookFigure


@lru_cache
def font(bold: bool) -> Any:
    """The font of all figures; glyphs that the first family lacks come from the next."""
    from matplotlib.font_manager import FontProperties, fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return FontProperties(
        family=[name for name in FONTS if name in installed], weight="bold" if bold else "normal"
    )


@lru_cache(maxsize=20_000)
def text_width(text: str, bold: bool = False) -> float:
    """Width of `text` in units of the font size."""
    from matplotlib.textpath import text_to_path

    sized = font(bold).copy()
    sized.set_size(100)
    # A glyph that no font has is drawn as a box; the warning comes when it is drawn.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return text_to_path.get_text_width_height_descent(text, sized, ismath=False)[0] / 100


def line_width(line: Line, size: float) -> float:
    """Width of a wrapped line in points."""
    return line[-1][0] + text_width(line[-1][1].text, line[-1][1].bold) * size if line else 0.0


def wrap(pieces: Iterable[Piece], width: float, size: float) -> list[Line]:
    """Break `pieces` into lines of at most `width` points at font size `size`.

    Lines break at white space (any run of it counts as one space). A word that is wider than a line is cut where
    the line is full.
    """
    lines: list[Line] = []
    # The line counts as full, so that the first word begins a new one.
    end = width
    space = (text_width("n n") - text_width("nn")) * size
    for word in _words(pieces):
        parts = [word] if _length(word) * size <= width else _cut(word, width / size)
        for part in parts:
            if not lines or end + space + _length(part) * size > width:
                lines.append([])
                x = 0.0
            else:
                x = end + space
            for piece in part:
                lines[-1].append((x, piece))
                x += text_width(piece.text, piece.bold) * size
            end = x
    return lines


def _words(pieces: Iterable[Piece]) -> list[list[Piece]]:
    words: list[list[Piece]] = [[]]
    for piece in pieces:
        for part in re.findall(r"\s+|\S+", piece.text):
            if part.isspace():
                words.append([])
            else:
                words[-1].append(piece._replace(text=part))
    return [word for word in words if word]


def _length(word: Iterable[Piece]) -> float:
    return sum(text_width(piece.text, piece.bold) for piece in word)


def _cut(word: Iterable[Piece], width: float) -> list[list[Piece]]:
    """`word` in parts of at most `width` font sizes, but at least one character."""
    parts: list[list[Piece]] = [[]]
    for piece in word:
        for character in piece.text:
            new = piece._replace(text=character)
            last = parts[-1][-1] if parts[-1] else None
            if last is not None and last[1:] == piece[1:]:
                # The same style: one longer piece.
                grown = [*parts[-1][:-1], last._replace(text=last.text + character)]
            else:
                grown = [*parts[-1], new]
            if parts[-1] and _length(grown) > width:
                parts.append([new])
            else:
                parts[-1] = grown
    return parts


class Canvas:
    """Marks at (x, y) points from the top left corner, drawn once the height is known."""

    def __init__(self, width: float):
        self.width = width
        self._marks: list[Callable[[Figure, float], None]] = []

    def figure(self, height: float) -> Figure:
        """A figure of `height` points with all marks."""
        figure = new_figure(figsize=(self.width / 72, height / 72))
        for mark in self._marks:
            mark(figure, height)
        return figure

    def lines(self, x: float, y: float, lines: Sequence[Line], size: float, center: float = 0.0) -> float:
        """Draw wrapped lines, centred in a width of `center` points if given; returns the y below them."""
        for line in lines:
            shift = max(center - line_width(line, size), 0.0) / 2 if center else 0.0
            for offset, piece in line:
                self._text(x + shift + offset, y + size, piece, size)
            y += LINE_HEIGHT * size
        return y

    def _text(self, x: float, baseline: float, piece: Piece, size: float) -> None:
        def mark(figure: Figure, height: float) -> None:
            figure.text(
                x / self.width,
                1 - baseline / height,
                piece.text,
                fontproperties=font(piece.bold),
                fontsize=size,
                color=piece.color,
                verticalalignment="baseline",
                parse_math=False,  # a caption may hold dollar signs
            )

        self._marks.append(mark)
        if piece.struck:
            end = x + text_width(piece.text, piece.bold) * size
            self.rule(x, end, baseline - 0.3 * size, piece.color, 0.1 * size)

    def rule(self, x0: float, x1: float, y: float, color: str, width: float) -> None:
        """Draw a horizontal line of `width` points."""
        from matplotlib.lines import Line2D

        def mark(figure: Figure, height: float) -> None:
            ends = [x0 / self.width, x1 / self.width]
            figure.add_artist(Line2D(ends, [1 - y / height] * 2, color=color, linewidth=width))

        self._marks.append(mark)

    def image(
        self, x: float, y: float, size: tuple[float, float], image: Image.Image, color: str, frame: float
    ) -> None:
        """Draw `image` at `size` (width, height in points) in a frame of `color`, `frame` points thick."""
        pixels = tuple(max(round(points / 72 * IMAGE_DPI), 1) for points in size)
        if image.width > pixels[0]:
            image = image.resize(pixels, LANCZOS)

        def mark(figure: Figure, height: float) -> None:
            box = (x / self.width, 1 - (y + size[1]) / height, size[0] / self.width, size[1] / height)
            axes = figure.add_axes(box, xticks=[], yticks=[])
            axes.imshow(image, aspect="auto", interpolation="none")
            axes.spines[:].set(color=color, linewidth=frame)

        self._marks.append(mark)


def fit(image: Image.Image, width: float, height: float) -> tuple[float, float]:
    """The largest (width, height) of `image` that fits into `width` x `height`."""
    scale = min(width / image.width, height / image.height)
    return image.width * scale, image.height * scale


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write `figure` as ``.png`` (200 dpi) and as ``.pdf``, each whole or not at all; returns both paths.

    The suffix of `path` is dropped if it is one of the two. Fonts are embedded (TrueType, ``fonttype`` 42),
    and no date is written, so that the same figure gives the same bytes. The PNG carries the figure's `alt`.
    """
    import matplotlib

    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf") else path
    written = []
    # A name may hold half of a surrogate pair, which no file can.
    said = {"Description": figure.alt.encode(errors="replace").decode()} if hasattr(figure, "alt") else {}
    for suffix, metadata in ((".png", {"Software": None, **said}), (".pdf", {"CreationDate": None})):
        written.append(stem.with_name(stem.name + suffix))
        with replaced(written[-1]) as file, matplotlib.rc_context({"pdf.fonttype": 42}):
            figure.savefig(file, format=suffix[1:], dpi=200, metadata=metadata)
    return written
