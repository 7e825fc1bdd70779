"""Bars are as high as their scores and their error bars as long as the intervals, standing or lying."""

import pytest

from repic_core.display.bars import interval_bars
from repic_core.evaluation.intervals import Amount, Interval

ROWS = [
    {"arm": "base", "k": "1", "f1": Interval(0.9, 0.8, 1.0), "words": Amount(9, 8, 11)},
    {"arm": "tuned", "k": "1", "f1": Interval(1.0, 0.9, 1.0), "words": Amount(5, 5, 5)},
    {"arm": "base", "k": "4", "f1": Interval(0.2, 0.1, 0.4), "words": Amount(12, 9, 15)},
    {"arm": "tuned", "k": "4", "f1": None, "words": Amount(6, 6, 7)},
]
PANELS = {"f1": "F1 (%)", "words": "Words"}


def bars_of(axes) -> list[tuple[float, float]]:
    """(centre, height) of each bar of a panel that stands."""
    return [(round(bar.get_x() + bar.get_width() / 2, 2), round(bar.get_height(), 6)) for bar in axes.patches]


def ends_of(axes, along: int) -> list[tuple[float, float]]:
    """Where each error bar begins and ends, along x (0) or y (1)."""
    lines = [segment for lines in axes.collections for segment in lines.get_segments()]
    return sorted(tuple(round(float(point[along]), 6) for point in segment) for segment in lines)


def test_bars_and_error_bars_are_the_scores(tmp_path):
    figure = interval_bars(ROWS, "k", PANELS, "arm", tmp_path / "bars", "references in the prompt")
    f1, words = figure.axes
    assert bars_of(f1) == [(-0.2, 90), (0.8, 20), (0.2, 100)]  # a score that is None has no bar
    assert ends_of(f1, 1) == [(10, 40), (80, 100), (90, 100)]
    assert [height for _, height in bars_of(words)] == [9, 12, 5, 6]
    assert f1.get_ylim() == (0, 108) and words.get_ylim()[1] < 20
    assert [text.get_text() for text in f1.texts] == ["90", "20", "100"]
    assert f1.get_xlabel() == "references in the prompt"
    assert [text.get_text() for text in figure.legends[0].texts] == ["base", "tuned"]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in f1.patches}) == 2
    assert (tmp_path / "bars.png").exists() and (tmp_path / "bars.pdf").exists()


def test_long_names_are_beside_lying_bars():
    names = ("A model with a rather long name", "Another model")
    three = {f"s{number}": "F1" for number in range(3)}
    lying = interval_bars([{"method": n, **dict.fromkeys(three, 0.5)} for n in names], "method", three)
    for axes in lying.axes:
        assert [round(bar.get_width()) for bar in axes.patches] == [50, 50]
    shown = [label.get_text() for label in lying.axes[0].get_yticklabels()]
    assert [text.replace("\n", " ") for text in shown] == list(names)
    assert lying.axes[0].get_ylim() == (1.5, -0.5)  # the first row is above


def test_the_figure_in_words():
    said = interval_bars(ROWS, "k", {"f1": "F1 (%)"}, "arm").alt
    assert said == "F1 (%): 1 base 90.0 [80.0, 100.0]; 1 tuned 100.0 [90.0, 100.0]; 4 base 20.0 [10.0, 40.0]."
    with pytest.raises(ValueError, match="at least one row"):
        interval_bars([], "k", PANELS)
