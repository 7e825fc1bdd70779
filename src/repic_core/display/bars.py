"""Bars with error bars, for scores that come with their intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.display.caption_grid import RULE
from repic_core.display.charts import TEXT, legend_below, series_colors, style_axes
from repic_core.display.typeset import BLACK, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
# Bars differ in colour and in hatching.
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")
# With more bars than this in a panel, they get no numbers.
MOST_NUMBERS = 16
# Shares below this are drawn on an axis of their own length, others on one up to 100%.
SMALL = 0.3


def interval_bars(
    rows: Rows,
    by: str,
    panels: Mapping[str, str],
    series: str = "",
    path: str | Path | None = None,
    label: str = "",
) -> Figure:
    """Bars of each score by `by`, side by side for each of `series`, 7.2 inches wide; they lie if names are long.

    Args:
        rows: of a table. A score is a share in [0, 1], None (no bar), or has a `value` between `low` and `high`,
            which are drawn as an error bar, in percent if its `percent` says so: `intervals.Interval`.
        by: the column with what is compared, which is named beside its bars.
        panels: column of a score -> the title of its panel.
        series: the column with what is told apart by colour and hatching.
        path: where to write, as in `caption_grid.caption_grid`.
        label: what `by` means, below the axis.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("interval_bars needs at least one row")
    places = list(dict.fromkeys(str(row[by]) for row in rows))
    kinds = list(dict.fromkeys(str(row[series]) for row in rows)) if series else [""]
    # Letters that fit below the bars of one place, at this font size.
    room = max(7, round(80 / (len(places) * len(panels))))
    lying = max(map(len, places)) > 2 * room
    height = 0.9 + 0.21 * len(places) * (len(kinds) + 0.6) if lying else 2.9
    figure = new_figure(figsize=(7.2, max(2.2, height)), layout="constrained")
    shared = {"sharey": True} if lying else {}
    drawn = figure.subplots(1, len(panels), squeeze=False, **shared)[0]
    for axes, (column, title) in zip(drawn, panels.items(), strict=True):
        by_kind = {kind: [r for r in rows if not series or str(r[series]) == kind] for kind in kinds}
        _bars(axes, by_kind, places, by, column, lying)
        style_axes(axes, title)
        axes.set_axisbelow(True)
        whole = {"break_on_hyphens": False, "break_long_words": False}
        names = [textwrap.fill(place, 22 if lying else room, **whole) for place in places]
        if lying:
            axes.grid(visible=False, axis="y")
            axes.grid(axis="x", color=RULE, linewidth=0.5)
            axes.set_yticks(range(len(places)), names)
            axes.set_ylim(len(places) - 0.5, -0.5)
        else:
            axes.set_xticks(range(len(places)), names)
        if label:
            (axes.set_ylabel if lying else axes.set_xlabel)(label, fontsize=TEXT)
    if len(kinds) > 1:
        legend_below(figure, drawn[:1], 4)
    figure.alt = " ".join(_said(rows, by, column, title, series) for column, title in panels.items())
    if path is not None:
        save_figure(figure, path)
    return figure


def _said(rows: Rows, by: str, column: str, title: str, series: str) -> str:
    """A panel in words."""
    values = [
        " ".join(filter(None, (str(row[by]), str(row[series]) if series else "", str(row[column]))))
        for row in rows
        if row.get(column) is not None
    ]
    return f"{title}: {'; '.join(values)}."


def _bars(
    axes: Any, by_kind: Mapping[str, Rows], places: list[str], by: str, column: str, lying: bool
) -> None:
    """The bars of one panel."""
    found = [row[column] for rows in by_kind.values() for row in rows if row.get(column) is not None]
    scale = 100 if all(getattr(score, "percent", True) for score in found) else 1
    reach = max((scale * getattr(score, "high", score) for score in found), default=1)
    colors, width = series_colors(by_kind), 0.8 / len(by_kind)
    numbered = len(found) <= MOST_NUMBERS
    for number, (kind, rows) in enumerate(by_kind.items()):
        known = [row for row in rows if row.get(column) is not None]
        at = [places.index(str(row[by])) + width * (number - (len(by_kind) - 1) / 2) for row in known]
        scores = [row[column] for row in known]
        values = [scale * getattr(score, "value", score) for score in scores]
        ends = [
            [max(0.0, v - scale * getattr(s, "low", s)) for s, v in zip(scores, values, strict=True)],
            [max(0.0, scale * getattr(s, "high", s) - v) for s, v in zip(scores, values, strict=True)],
        ]
        style = {"color": colors[kind], "hatch": HATCHES[number % len(HATCHES)], "edgecolor": "white"}
        (axes.barh if lying else axes.bar)(at, values, 0.92 * width, label=kind, linewidth=0.6, **style)
        lines = {"fmt": "none", "ecolor": BLACK, "elinewidth": 0.9, "capsize": 2.5}
        if lying:
            axes.errorbar(values, at, xerr=ends, **lines)
        else:
            axes.errorbar(at, values, yerr=ends, **lines)
        for place, value, above in zip(at, values, ends[1], strict=True) if numbered else ():
            end = (value + above, place) if lying else (place, value + above)
            words = {"ha": "left", "va": "center"} if lying else {"ha": "center", "va": "bottom"}
            away = (4, 0) if lying else (0, 2)
            axes.annotate(
                _short(value, scale), end, xytext=away, textcoords="offset points", fontsize=TEXT - 1, **words
            )
    limit = 108 if scale == 100 and reach > 100 * SMALL else 1.15 * reach or 1
    (axes.set_xlim if lying else axes.set_ylim)(0, limit * (1.06 if lying else 1))


def _short(value: float, scale: float) -> str:
    """A number beside a bar: whole percents, or two digits.

    >>> _short(99.6, 100), _short(0.752, 1), _short(4.06, 1), _short(54.6, 1)
    ('100', '0.75', '4.1', '55')
    """
    digits = 0 if scale == 100 or value >= 10 else 1 if value >= 1 else 2
    return f"{value:.{digits}f}"
