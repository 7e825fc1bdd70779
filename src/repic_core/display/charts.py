"""Charts for papers and notebooks: training curves, scores by arm, what a training step costs.

Like `caption_grid.caption_grid`, each function returns a ``matplotlib.figure.Figure``, which a notebook shows.
Given a path, it also writes the figure as PNG and PDF.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.display.caption_grid import RULE
from repic_core.display.typeset import BLACK, new_figure, save_figure
from repic_core.io.files import decode_text
from repic_core.tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people of any colour vision tell apart, without those that are too light on white.
# Series also differ in their markers.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b")
MARKERS = "osD^vP"
# Of a figure 7.2 inches wide, which is still read at half its size.
TEXT, TITLE = 9, 10


def series_colors(names: Iterable[str]) -> dict[str, str]:
    """A colour (``#rrggbb``) for each line or kind of bar, by its place; colours repeat after six.

    >>> series_colors(["base", "grpo"])
    {'base': '#0072b2', 'grpo': '#d55e00'}
    """
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(dict.fromkeys(names))}


def reward_curves(metrics: str | Path, path: str | Path | None = None, smooth: int = 10) -> Figure:
    """Training curves from ``metrics.csv``: reward (in total and by task), completion length, KL to the base.

    Columns are as TRL logs them: ``step``; ``reward`` and ``reward/<method>``; ``completions/mean_length`` (or
    any other with "length"); ``kl``. Cells may be empty (a step without rows of that task). Lines show the mean of
    the last `smooth` values, bands their standard deviation on either side.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no ``step`` column or nothing to draw.
    """
    columns = _read_metrics(Path(metrics))
    steps = columns.pop("step")
    lengths = [name for name in columns if "length" in name]
    panels = {
        "Reward": [name for name in columns if name == "reward" or name.startswith("reward/")],
        "Completion length (tokens)": [n for n in lengths if n.endswith("mean_length")] or lengths,
        "KL to the base": [name for name in columns if name.split("/")[-1] == "kl"],
    }
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise ValueError(f"{metrics}: no column for reward, length or KL among {', '.join(columns)}")
    figure = new_figure(figsize=(2.8 * len(panels), 2.9), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, names) in zip(places, panels.items(), strict=True):
        colors = dict.fromkeys(names, BLACK)
        if len(names) > 1:
            colors |= series_colors(name for name in names if "/" in name)
        for name in names:
            points = [(s, v) for s, v in zip(steps, columns[name], strict=True) if not math.isnan(v)]
            at, values = [s for s, _ in points], [v for _, v in points]
            mean, spread = _running(values, smooth)
            below, above = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(at, below, above, color=colors[name], alpha=0.15, linewidth=0)
            style = {"color": colors[name], "linewidth": 1.6, "marker": "." if len(at) == 1 else ""}
            axes.plot(at, mean, label=_label(name), **style)
        axes.set_xlabel("step", fontsize=TEXT)
        style_axes(axes, title)
    several = [axes for axes, names in zip(places, panels.values(), strict=True) if len(names) > 1]
    legend_below(figure, several, 5)
    figure.alt = f"Training curves over {len(steps)} logged steps: {_ends(columns, panels)}."
    if path is not None:
        save_figure(figure, path)
    return figure


def _running(values: Sequence[float], width: int) -> tuple[list[float], list[float]]:
    """For each value, mean and standard deviation of the last `width` values up to it."""
    windows = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [statistics.fmean(window) for window in windows], [statistics.pstdev(window) for window in windows]


def _ends(columns: Mapping[str, Sequence[float]], panels: Mapping[str, Sequence[str]]) -> str:
    """The first and the last value of the first column of each panel, in words."""
    said = []
    for title, names in panels.items():
        values = [value for value in columns[names[0]] if not math.isnan(value)]
        if values:
            said.append(f"{title} goes from {values[0]:.3g} to {values[-1]:.3g}")
    return ", ".join(said)


def _label(column: str) -> str:
    """What the legend calls a column: the label of a task, or "all"."""
    if "/" not in column:
        return "all"
    task = column.removeprefix("reward/")
    return TASKS[task].label if task in TASKS else task


def _read_metrics(path: Path) -> dict[str, list[float]]:
    """Columns of a metrics CSV as floats; NaN for a cell that is empty or not a number."""
    reader = csv.DictReader(io.StringIO(decode_text(path.read_bytes(), str(path), ValueError)))
    names = [name for name in reader.fieldnames or () if name]
    rows = list(reader)
    if "step" not in names:
        raise ValueError(f"{path}: a column 'step' is needed, but the file has {', '.join(names) or 'none'}")

    def number(cell: str | None) -> float:
        try:
            return float(cell or "nan")
        except ValueError:
            return math.nan

    rows = [row for row in rows if not math.isnan(number(row["step"]))]
    return {name: [number(row[name]) for row in rows] for name in names}


def score_chart(table: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Precision, recall and F1 by the number of references in the prompt, with a line for each arm.

    Args:
        table: rows ``{"arm", "k", "precision", "recall", "f1"}`` with scores in [0, 1] or None, as in
            ``results.json``. Several rows of one arm and k are seeds: the line goes through their mean, and a
            bar reaches from the lowest to the highest.
        path: where to write, as in `caption_grid.caption_grid`.
    """
    arms = list(dict.fromkeys(row["arm"] for row in table))
    ks = sorted({row["k"] for row in table})
    colors = series_colors(arms)
    figure = new_figure(figsize=(7.2, 3.0), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, metric in zip(panels, ("precision", "recall", "f1"), strict=True):
        for number, arm in enumerate(arms):
            x, mean, low, high = [], [], [], []
            for place, k in enumerate(ks):
                seeds = [row[metric] for row in table if (row["arm"], row["k"]) == (arm, k)]
                scores = [score for score in seeds if score is not None]
                if scores:
                    x.append(place + 0.06 * (number - (len(arms) - 1) / 2))
                    mean.append(100 * sum(scores) / len(scores))
                    low.append(mean[-1] - 100 * min(scores))
                    high.append(100 * max(scores) - mean[-1])
            style = {
                "color": colors[arm],
                "marker": MARKERS[number % len(MARKERS)],
                "markersize": 5,
                "linewidth": 1.6,
            }
            axes.errorbar(x, mean, (low, high), capsize=2, label=arm, **style)
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set_xlabel("references in the prompt", fontsize=TEXT)
        axes.set_ylim(-3, 103)
        style_axes(axes, f"{metric.capitalize()} (%)")
    legend_below(figure, panels[:1], 4)
    means = (f"{arm} {_mean_f1(table, arm)}" for arm in arms)
    figure.alt = f"Precision, recall and F1 by references in the prompt; mean F1: {', '.join(means)}."
    if path is not None:
        save_figure(figure, path)
    return figure


def _mean_f1(table: Sequence[Mapping[str, Any]], arm: str) -> str:
    scores = [row["f1"] for row in table if row["arm"] == arm and row["f1"] is not None]
    return f"{100 * statistics.fmean(scores):.1f}" if scores else "none"


def cost_figure(points: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """What a step costs by the number of references and by the group's size, for stock TRL and for this kit.

    Above: tokens that the language model computes in the policy pass, with the least possible, P + G C. Below:
    seconds of the whole step.

    Args:
        points: from the sweep of `benchmarks.training_step`.
        path: where to write, as in `caption_grid.caption_grid`.
    """
    figure = new_figure(figsize=(7.2, 4.8), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    titles = {"references": "references in the prompt", "generations": "completions a prompt"}
    labels = {"stock": ("stock TRL", SERIES[1], "s"), "shared": ("shared prefix", SERIES[0], "o")}
    for column, (name, title) in enumerate(titles.items()):
        mine = [point for point in points if point["sweep"] == name]
        x = [point["settings"][name] for point in mine]
        for contender, (label, color, marker) in labels.items():
            style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.6, "label": label}
            measured = [point["contenders"][contender] for point in mine]
            panels[0][column].plot(x, [one["policy_tokens"] for one in measured], **style)
            panels[1][column].plot(x, [one["seconds"]["step"] for one in measured], **style)
        least = [point["minimum_tokens"] for point in mine]
        panels[0][column].plot(x, least, color=BLACK, linestyle=":", linewidth=1.6, label="least: P + G C")
        style_axes(panels[0][column], "Tokens, policy pass")
        style_axes(panels[1][column], "Seconds, whole step")
        for axes in panels[:, column]:
            axes.set_ylim(bottom=0)
            axes.set_xticks(x, [str(value) for value in x])
        panels[1][column].set_xlabel(title, fontsize=TEXT)
    legend_below(figure, panels[0][:1], 3)
    figure.alt = "Tokens and seconds of a training step, for stock TRL and with a shared prefix."
    if path is not None:
        save_figure(figure, path)
    return figure


def legend_below(figure: Figure, panels: Iterable[Any], columns: int) -> None:
    """One legend below a figure, of what `panels` (axes) show, each label once; none where nothing has a label."""
    shown: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if shown:
        look = {"loc": "outside lower center", "fontsize": TEXT, "frameon": False}
        figure.legend(list(shown.values()), list(shown), ncols=columns, **look)


def style_axes(axes: Any, title: str) -> None:
    """The look of all charts: title at the left, small ticks, a faint grid, no box."""
    axes.set_title(title, fontsize=TITLE, loc="left")
    axes.tick_params(labelsize=TEXT, color=RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
