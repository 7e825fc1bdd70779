"""The viewer's table of all methods, and how the present row compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.filters import JudgedRow, published_protocol
from repic_core.display.html import counted
from repic_core.evaluation.scores import Score, score


class Summary:
    """Tables of every method's precision, recall and F1 (%), one for each number of concepts.

    Scores are by the published protocol and by `span`; the best F1 is bold. The last columns are the chosen row's
    F1 (`span`), and the share of the method's captions of as many concepts that have a lower F1.
    """

    def __init__(
        self,
        captions: Mapping[str, Sequence[CaptionRecord]],
        database: ConceptDatabase,
        rows: Sequence[JudgedRow],
    ) -> None:
        self._rows, self._methods = rows, list(captions)
        self._scores: dict[tuple[int, str], list[Score]] = {}
        self._f1: dict[tuple[int, str], list[float]] = {}
        for count in sorted({row.concepts for row in rows}):
            for method, records in captions.items():
                chosen = [record for record in records if len(record.tags) == count]
                protocols = (published_protocol(count), "span") if chosen else ()
                self._scores[count, method] = [score(chosen, protocol, database) for protocol in protocols]
                found = (row.scores.get(method) for row in rows if row.concepts == count)
                self._f1[count, method] = [one["span"].score("span").f1 for one in found if one]

    def html(self, place: int) -> str:
        """The tables; the one for row `place` (from 0) also shows where this row ranks."""
        tables = (self._table(count, place) for count in sorted({row.concepts for row in self._rows}))
        return f'<div class="repic">{"".join(tables)}</div>'

    def _table(self, count: int, place: int) -> str:
        here = self._rows[place] if self._rows[place].concepts == count else None
        scored = [scores for (concepts, _), scores in self._scores.items() if concepts == count and scores]
        best = [max(result.f1 for result in results) for results in zip(*scored, strict=True)]
        body = []
        for method in self._methods:
            cells = []
            for result, highest in zip(self._scores[count, method], best, strict=False):
                mark = ' class="best"' if result.f1 == highest else ""
                cells.append(f"<td>{100 * result.precision:.1f}</td><td>{100 * result.recall:.1f}</td>")
                cells.append(f"<td{mark}>{100 * result.f1:.1f}</td>")
            if cells and here is not None:
                cells += self._place(here, count, method)
            body.append(f'<tr><th scope="row">{escape(method)}</th>{"".join(cells)}</tr>')
        rows = sum(row.concepts == count for row in self._rows)
        title = f"{counted(count, 'concept')}, {counted(rows, 'row')}"
        protocols = (published_protocol(count), "span")
        heads = "".join(f'<th colspan="3" scope="colgroup">{protocol} (%)</th>' for protocol in protocols)
        metrics = "<th>P</th><th>R</th><th>F1</th>" * len(protocols)
        if here is not None:
            heads += '<th colspan="2" scope="colgroup">this row, span (%)</th>'
            metrics += "<th>F1</th><th>better than</th>"
        return (
            f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{heads}</tr>'
            f'<tr><th scope="col">{title}</th>{metrics}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        )

    def _place(self, row: JudgedRow, count: int, method: str) -> list[str]:
        found = row.scores.get(method)
        if found is None:
            return ["<td>–</td><td>–</td>"]
        f1 = found["span"].score("span").f1
        others = self._f1[count, method]
        lower = sum(other < f1 for other in others) / len(others)
        return [f"<td>{100 * f1:.0f}</td><td>{100 * lower:.0f}</td>"]
