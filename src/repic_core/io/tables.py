"""A table as Markdown, LaTeX or CSV, from a list of cells for the head and one for each row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a ``|`` in a cell is escaped. `ValueError` if a row is not as long as the head."""
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"each row must have {len(head)} cells, as the head has")
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def latex(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A LaTeX tabular with the rules of booktabs; the first `left` columns are aligned left, the rest right."""
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (head, *rows)]
    columns = "l" * left + "r" * (len(head) - left)
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"])


def csv_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """CSV with a head line."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows((head, *rows))
    return file.getvalue()


def _escaped(cell: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
    text = re.sub(r"[\\~^<>|±&%$#_{}]", lambda found: special.get(found[0], "\\" + found[0]), cell)
    # LaTeX would take a leading [ or * for an argument of the line break before it.
    return re.sub(r"^(?=[\[*])", "{}", text)
