"""The figure of the ablations: bars for tasks on and off, lines for number of scenes, group size and KL weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.display.charts import MARKERS, legend_below, series_colors, style_axes
from repic_core.display.typeset import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {
    "f1_4": "F1, 4 references",
    "f1_2": "F1, 2 references",
    "oct": "OCT accuracy",
    "vlt_hit": "VLT, IoU ≥ 0.5",
}
TASK_ARMS = ("base", "full", "no OCT", "no OCT, equal ICT", "no VLT", "no VLT, equal ICT", "no ICT")
TASK_ARMS += ("single ICT only", "multi ICT only")
# For each panel, the arms in order, each with its label on the axis.
LINES = {
    "training scenes": {
        "8 scenes": "8",
        "32 scenes": "32",
        "125 scenes": "125",
        "500 scenes": "500",
        "full": "2000",
    },
    "group size": {"group 2": "2", "group 4": "4", "full": "8", "group 16": "16"},
    "KL weight": {"KL 0": "0", "full": "0.04", "KL 0.2": "0.2", "KL 1": "1"},
}


def ablation_figure(table: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Scores in percent, mean and standard deviation over seeds, 6.9 inches wide.

    Args:
        table: from `ablations.summarize`. Arms that it lacks are left out, and so is a panel with only `full`.
        path: where to write, as in `caption_grid.caption_grid`.
    """
    lines = {row["arm"]: row for row in table}
    panels = {}
    for title, arms in LINES.items():
        known = {arm: label for arm, label in arms.items() if arm in lines}
        if set(known) - {"full"}:
            panels[title] = known
    colors = series_colors(SCORES)
    figure = new_figure(figsize=(6.9, 5.2 if panels else 3.0), layout="constrained")
    grid = figure.add_gridspec(2 if panels else 1, max(1, len(panels)))
    axes = figure.add_subplot(grid[0, :])
    arms = [arm for arm in TASK_ARMS if arm in lines]
    for number, (key, label) in enumerate(SCORES.items()):
        x = [place + 0.2 * (number - 1.5) for place in range(len(arms))]
        values, errors = _spread([lines[arm] for arm in arms], key)
        marks = {"color": colors[key], "label": label, "capsize": 2, "error_kw": {"linewidth": 0.8}}
        axes.bar(x, values, 0.18, yerr=errors, **marks)
    axes.set_xticks(range(len(arms)), [_label(arm) for arm in arms])
    style_axes(axes, "Tasks on and off (%)")
    for column, (title, places) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[1, column])
        for number, key in enumerate(SCORES):
            values, errors = _spread([lines[arm] for arm in places], key)
            x = [place + 0.1 * (number - 1.5) for place in range(len(places))]
            marks = {"marker": MARKERS[number], "markersize": 5, "linewidth": 1.6, "capsize": 2}
            axes.errorbar(x, values, errors, color=colors[key], **marks)
        axes.set_xticks(range(len(places)), places.values())
        style_axes(axes, f"By {title} (%)")
    for axes in figure.axes:
        axes.set_ylim(-3, 103)
        axes.set_axisbelow(True)
    legend_below(figure, figure.axes[:1], 4)
    figure.alt = f"Scores of {len(lines)} arms: {', '.join(lines)}."
    if path is not None:
        save_figure(figure, path)
    return figure


def _label(arm: str) -> str:
    """An arm's name on the axis, in two lines where it is long.

    >>> _label("no OCT, equal ICT"), _label("multi ICT only"), _label("no ICT")
    ('no OCT,\\nequal ICT', 'multi\\nICT only', 'no ICT')
    """
    return arm.replace(", ", ",\n").replace(" ICT only", "\nICT only")


def _spread(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Means and standard deviations in percent; NaN if there is none."""

    def percent(name: str) -> list[float]:
        return [float("nan") if row[name] is None else 100 * row[name] for row in rows]

    return percent(key), percent(f"{key}_sd")
