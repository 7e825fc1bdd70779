"""What a merge's report says: whether it is past the limits, its table, its part of a model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repic_core.cards import front_matter, text_line
from repic_core.tables import markdown

NOISE = 1.25  # two runs in one low precision differ: on the toy merged / unmerged drift is 0.8 to 1.02


@dataclass(frozen=True)
class Limits:
    """What a merged model may differ by from its adapter, beyond what the unmerged adapter loses in that precision
    (times `NOISE`).

    `drift`: mean absolute difference of logits, in units of the adapter's own effect (adapter against base): 0 is
    the adapter, 1 as far off as no adapter; `tokens`: share of greedy tokens that differ (one is always allowed);
    `f1`: F1 of names lost. Measured on the toy: drift 2e-6 in float32, 0.01 in bfloat16, no token or F1 lost; an
    eighth of its adapter merged on ever coarser grids (`merge_drift`, table 3) has a drift of 0.14 where 92% of
    the changes are kept and F1 is whole, and 0.73, 2.6% of tokens and 6 points of F1 lost where 25% are kept.
    """

    drift: float = 0.1
    tokens: float = 0.02
    f1: float = 0.01


def faults_of(report: dict[str, Any], limits: Limits) -> list[str]:
    """Which limits a report is past, with the numbers."""
    rows = {(row["model"], row["precision"]): row for row in report["rows"]}
    faults = []
    for precision in dict.fromkeys(("float32", report["dtype"])):
        merged, adapter = rows["merged", precision], rows.get(("adapter", precision), {})
        for name, what in (("drift", "drift of logits"), ("tokens", "share of other greedy tokens")):
            limit, own = getattr(limits, name), adapter.get(name, 0.0)
            allowed = (
                max(limit, 1 / report["n_tokens"]) if name == "tokens" else limit
            )  # one near tie is none
            if not merged[name] <= allowed + NOISE * own:  # also where it is not a number
                beside = f", the unmerged adapter {own:.3g}" if adapter else ""
                faults.append(f"{what} {merged[name]:.3g} in {precision}{beside} (limit: {allowed:g} more)")
        if report["f1"]:
            before, after = (report["f1"][f"{what}, {precision}"] for what in ("adapter", "merged"))
            if not before - after <= limits.f1:
                faults.append(f"F1 of names {100 * after:.1f} instead of {100 * before:.1f} in {precision}")
    return faults


def report_table(report: dict[str, Any]) -> str:
    """The report's rows as Markdown."""
    head = ["model", "computed in", "max", "mean", "drift", "other greedy tokens", "F1 of names"]
    f1 = report["f1"]
    body = [["adapter", "float32", "", "", "", "", _percent(f1.get("adapter, float32"))]]
    for row in report["rows"]:
        found = f1.get(f"{row['model']}, {row['precision']}")
        numbers = [f"{row['max']:.2g}", f"{row['mean']:.2g}", f"{row['drift']:.2g}", f"{row['tokens']:.1%}"]
        body.append([row["model"], row["precision"], *numbers, _percent(found)])
    return markdown(head, body)


def merge_section(report: dict[str, Any]) -> str:
    """What a model card says of a merge."""
    weights = report["weights"]
    lost = (
        f"The adapter changes its layers' weights by {weights['relative']:.2%} (norm); of these changes "
        f"{weights['kept']:.0%} are kept in {report['dtype']}, {weights['lost']:.0%} of single weights are as "
        "before.\n\n"
        if "relative" in weights
        else ""
    )
    return (
        f"{text_line(report['adapter'])} was merged into {text_line(report['base'])} in float32 and saved in "
        f"{report['dtype']}. {lost}Difference of logits from the unmerged adapter in float32, along its greedy "
        f"captions of {report['n_prompts']} prompts ({report['prompts']}; {report['n_tokens']} tokens); *drift* is "
        f"the mean in units of the adapter's own effect:\n\n{report_table(report)}\n"
    )


def merge_card(report: dict[str, Any]) -> str:
    """The model card of a merged model that was not exported yet (`export` writes the whole one)."""
    head = front_matter(report["base"], report["base_revision"], "transformers", relation="merge")
    return f"{head}\n# Merged model\n\n## Merge\n\n{merge_section(report)}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
