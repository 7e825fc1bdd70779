"""How a merged model's differences from its adapter are measured and judged."""

import math

import pytest
import torch

from repic_core.publish.verify import Limits, difference, faults_of


def report_of(**changes):
    """A report; ``r1_drift`` changes a value of row 1, ``f1_bfloat16`` an F1 of the merged model."""
    same = {"max": 0.0, "mean": 0.0, "tokens": 0.0, "drift": 0.0}
    rows = [
        {"model": "adapter", "precision": "bfloat16", **same, "drift": 0.5, "tokens": 0.1},
        {"model": "merged", "precision": "float32", **same},
        {"model": "merged", "precision": "bfloat16", **same, "drift": 0.5, "tokens": 0.1},
    ]
    f1 = {"adapter, float32": 0.8, "adapter, bfloat16": 0.8, "merged, float32": 0.8, "merged, bfloat16": 0.8}
    report = {"dtype": "bfloat16", "n_tokens": 1000, "rows": rows, "f1": f1}
    for key, value in changes.items():
        where, _, name = key.partition("_")
        if where == "f1":
            f1[f"merged, {name}"] = value
        else:
            rows[int(where[1:])][name] = value
    return report


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, []),
        # what is allowed is counted beyond what the precision itself costs
        ({"r1_drift": 0.09, "r2_drift": 0.72, "r1_tokens": 0.02}, []),
        ({"r1_drift": 0.11}, ["drift of logits 0.11 in float32 (limit: 0.1 more)"]),
        (
            {"r2_drift": 0.73},
            ["drift of logits 0.73 in bfloat16, the unmerged adapter 0.5 (limit: 0.1 more)"],
        ),
        ({"r2_tokens": 0.14}, []),
        (
            {"r2_tokens": 0.16},
            ["share of changed greedy tokens 0.16 in bfloat16, the unmerged adapter 0.1 (limit: 0.02 more)"],
        ),
        ({"r1_tokens": 0.03}, ["share of changed greedy tokens 0.03 in float32 (limit: 0.02 more)"]),
        ({"r1_drift": math.nan}, ["drift of logits nan in float32 (limit: 0.1 more)"]),
        (
            {"r2_drift": math.inf},
            ["drift of logits inf in bfloat16, the unmerged adapter 0.5 (limit: 0.1 more)"],
        ),
        ({"f1_bfloat16": 0.72}, ["F1 of names 72.0 instead of 80.0 in bfloat16"]),
        ({"f1_float32": 0.795}, []),
    ],
)
def test_limits(changes, faults):
    assert faults_of(report_of(**changes), Limits()) == faults


def test_one_near_tie_is_no_fault():
    report = report_of(r1_tokens=1 / 16)
    assert len(faults_of(report, Limits())) == 1
    assert faults_of(report | {"n_tokens": 16}, Limits()) == []


def test_differences_by_hand():
    one, two = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.5], [2.0, 3.0]])
    assert difference([one], [two]) == {"max": 3.0, "mean": 3.5 / 4, "tokens": 0.5}
    assert difference([one], [two * math.nan])["max"] == math.inf
