"""Tables of results for notebooks: a pandas data frame with the best values in bold and intervals shown.

The look is fixed and the HTML has no random ids, so that a table that is made again is the same, character for
character.
"""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLES = [
    {"selector": "", "props": "border-collapse: collapse; font-variant-numeric: tabular-nums"},
    {
        "selector": "caption",
        "props": "caption-side: top; text-align: left; font-weight: 600; padding: 0 0 .4em; white-space: nowrap",
    },
    {"selector": "th", "props": "text-align: left; font-weight: 600; padding: .25em .7em .25em 0"},
    {"selector": "th.col_heading", "props": "white-space: nowrap"},
    {"selector": "td", "props": "text-align: right; white-space: nowrap; padding: .25em .7em .25em 0"},
    {"selector": "td.text", "props": "text-align: left; white-space: normal; max-width: 48em"},
]


class Table:
    """Rows of results as a table that a notebook shows; what all rows lack is left to the caller to leave out.

    Args:
        rows: one mapping a row, column -> value: a number, text, None (a dash), or an interval with ``value``,
            which writes itself in percent.
        best: the columns whose best value is bold: the largest or, in a mapping, as ``"max"`` or ``"min"`` says.
        percent: the columns with shares in [0, 1], which are shown in percent.
        digits: after the point.
        within: a column; the best is bold among the rows that are equal there.
        names: column -> what it is called in the table.
        empty: what is said where there are no rows.

    Attributes:
        frame: the values, as a ``pandas.DataFrame``.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        best: Mapping[str, str] | Sequence[str] = (),
        percent: Sequence[str] = (),
        title: str = "",
        digits: int = 1,
        within: str = "",
        names: Mapping[str, str] | None = None,
        empty: str = "nothing",
    ) -> None:
        import pandas as pd

        self.frame = pd.DataFrame([dict(row) for row in rows], dtype=object)
        ways = best if isinstance(best, Mapping) else dict.fromkeys(best, "max")
        self.best, self.percent, self.title, self.digits = dict(ways), tuple(percent), title, digits
        self.within, self.names, self.empty = within, dict(names or {}), empty

    def _text(self, column: str, value: Any) -> str:
        if value is None or (isinstance(value, float) and value != value):
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if not isinstance(value, numbers.Real):
            return str(value)  # also an interval, which writes itself in percent
        if column in self.percent:
            return f"{100 * value:.{self.digits}f}"
        return str(value) if isinstance(value, numbers.Integral) else f"{value:.{self.digits}f}"

    def _is_best(self, column: str) -> list[bool]:
        """Which cells of a column are the best of their group; none where all are equal."""
        values = [getattr(value, "value", value) for value in self.frame[column]]
        groups = list(self.frame[self.within]) if self.within else [""] * len(values)
        best: dict[Any, Any] = {}
        for group in set(groups) if column in self.best else ():
            mine = [value for value, of in zip(values, groups, strict=True) if of == group]
            known = {value for value in mine if isinstance(value, numbers.Real) and value == value}
            if len(known) > 1:
                best[group] = (max if self.best[column] == "max" else min)(known)
        return [of in best and value == best[of] for value, of in zip(values, groups, strict=True)]

    def texts(self) -> Any:
        """The data frame with each value as it is shown."""
        shown = self.frame.copy()
        for column in shown:
            shown[column] = [self._text(column, value) for value in self.frame[column]]
        return shown.rename(columns=self.names)

    def _repr_html_(self) -> str:
        import pandas as pd

        if self.frame.empty:
            said = f"<b>{escape(self.title)}</b>: " if self.title else ""
            return f"<p>{said}{escape(self.empty)}</p>"
        shown = self.texts()
        looks = (
            {c: ["font-weight: 700" if one else "" for one in self._is_best(c)] for c in self.frame},
            {c: ["text" if isinstance(v, str) else "" for v in self.frame[c]] for c in self.frame},
        )
        bold, words = (pd.DataFrame(one, shown.index).rename(columns=self.names) for one in looks)
        key = hashlib.sha256((self.title + shown.to_csv()).encode("utf-8", "backslashreplace")).hexdigest()
        style = shown.style.set_uuid(key[:8]).hide(axis="index").format(escape="html")
        style = style.set_table_styles(STYLES).apply(lambda _: bold, axis=None).set_td_classes(words)
        return style.set_caption(escape(self.title)).to_html() if self.title else style.to_html()

    def __repr__(self) -> str:
        text = self.empty if self.frame.empty else self.texts().to_string(index=False)
        return f"{self.title}\n{text}" if self.title else text
