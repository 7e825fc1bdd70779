"""Tables show what they are given: the best in bold, intervals, dashes; the same bytes when they are made again."""

import re
from dataclasses import dataclass

from repic_core.display.tables import Table


@dataclass(frozen=True)
class Range:
    """As `evaluation.intervals.Interval`."""

    value: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [0.0, 100.0]"


ROWS = [
    {"arm": "base", "photos": 12, "f1": 0.25, "recall": Range(0.5), "wrong": 0.1, "same": 1.0, "ran": True},
    {
        "arm": "<grpo>",
        "photos": 12,
        "f1": 0.75,
        "recall": Range(0.4),
        "wrong": None,
        "same": 1.0,
        "ran": False,
    },
    {"arm": "sft", "photos": 12, "f1": 0.75, "recall": None, "wrong": 0.05, "same": 1.0, "ran": False},
]


def shown():
    return Table(
        ROWS, {"f1": "max", "recall": "max", "wrong": "min", "same": "max"}, ["f1", "wrong"], "Names"
    )


def test_the_best_within_groups():
    rows = [{"k": k, "f1": f1} for k, f1 in (("1", 0.5), ("1", 0.5), ("4", 0.2), ("4", 0.9))]
    found = Table(rows, ["f1"], within="k")
    assert found._is_best("f1") == [False, False, False, True]
    assert Table(rows, ["f1"])._is_best("f1") == [False, False, False, True]
    rows[0]["f1"] = 0.6
    assert Table(rows, ["f1"], within="k")._is_best("f1") == [True, False, False, True]


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in rows if "<td" in row]


def bold(html: str) -> set[tuple[int, int]]:
    rule = re.search(r"([^}]*)\{\s*font-weight: 700;", html)[1]
    return {(int(row), int(column)) for row, column in re.findall(r"_row(\d+)_col(\d+)", rule)}


def test_cells_and_the_best_of_each_column():
    html = shown()._repr_html_()
    assert cells(html) == [
        ["base", "12", "25.0", "50.0 [0.0, 100.0]", "10.0", "1.0", "yes"],
        ["&lt;grpo&gt;", "12", "75.0", "40.0 [0.0, 100.0]", "–", "1.0", "no"],
        ["sft", "12", "75.0", "–", "5.0", "1.0", "no"],
    ]
    # Both of a tie; none where all are equal.
    assert bold(html) == {(1, 2), (2, 2), (0, 3), (2, 4)}
    assert "<caption>Names</caption>" in html


def test_made_again_it_is_the_same():
    assert shown()._repr_html_() == shown()._repr_html_() and repr(shown()) == repr(shown())
    assert " at 0x" not in repr(shown()) and repr(shown()).splitlines()[0] == "Names"
    assert list(shown().frame["f1"]) == [0.25, 0.75, 0.75]


def test_a_table_without_rows_says_so():
    assert Table([], title="Yours")._repr_html_() == "<p><b>Yours</b>: nothing</p>"
    assert repr(Table([], title="Yours")) == "Yours\nnothing"
    assert Table([], title="Yours", empty="<none>")._repr_html_() == "<p><b>Yours</b>: &lt;none&gt;</p>"
    assert Table([])._repr_html_() == "<p>nothing</p>"


def test_columns_have_other_names_in_the_table_alone():
    rows = [{"k": "4", "f1": 0.5}, {"k": "4", "f1": 0.75}, {"k": "7", "f1": 0.25}]
    table = Table(rows, ["f1"], ["f1"], within="k", names={"k": "set", "f1": "F1"})
    assert list(table.frame) == ["k", "f1"] and list(table.texts()) == ["set", "F1"]
    assert bold(table._repr_html_()) == {(1, 1)}


def test_a_title_with_tags_is_text():
    assert "<caption>Where &lt;bo&gt; is</caption>" in Table(ROWS, title="Where <bo> is")._repr_html_()
