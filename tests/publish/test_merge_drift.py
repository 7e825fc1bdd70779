"""What is lost by rounding: layers, grids of few bits, and a random model on them."""

import pytest
import torch

from helpers.publishing import make_adapter, save_untied_model
from repic_core.evaluation.query_sets import QuerySettings
from repic_core.publish import merge_drift
from repic_core.publish.merge import rounding
from repic_core.publish.merge_drift import grid_rows, layer_rows, round_bits
from repic_core.publish.verify import drawn_items


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_untied_model(tmp_path_factory.mktemp("merging") / "tiny")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("adapter") / "lora")


@pytest.mark.parametrize("delta", [0.0, 0.0009765625, 0.00390625, 0.00391, 0.0078125])
def test_rounding_by_hand(delta):
    """Above 1.0, bfloat16 has steps of 2^-7; less than half a step is lost."""
    row = rounding(torch.ones(4, 4), torch.full((4, 4), delta), torch.bfloat16)
    step = 0.0078125
    kept = 0 if delta <= step / 2 else step
    assert row["lost"] == (1.0 if delta and not kept else 0.0)
    assert row["relative"] == pytest.approx(delta)
    assert row["kept"] == pytest.approx(kept / delta if delta else 1)
    assert row["error"] == pytest.approx(abs(kept - delta) / delta if delta else 0)


def test_what_is_kept_is_counted_from_the_rounded_weight():
    """1.003 is 1 on the grid, and 1.003 + 0.002 is 1 + 2^-7: a change of 2^-7 instead of 0.002."""
    row = rounding(torch.full((2, 2), 1.003), torch.full((2, 2), 0.002), torch.bfloat16)
    assert row["kept"] == pytest.approx(2**-7 / 0.002, rel=1e-4) and row["lost"] == 0


def test_eight_bits_are_bfloat16():
    torch.manual_seed(0)
    weights = torch.randn(10000) * torch.logspace(-6, 3, 10000)
    assert torch.equal(round_bits(weights, 8), weights.bfloat16().float())
    assert torch.equal(round_bits(weights, 24), weights) and not torch.equal(round_bits(weights, 7), weights)


def test_layers_by_way_of_merging(monkeypatch):
    """With small layers: the precision of merging makes no difference, only the last rounding does."""
    monkeypatch.setattr(merge_drift, "LAYERS", {"q_proj": (256, 192)})
    small, large = layer_rows((1e-5, 1e-1), ("q_proj",))
    assert small["equal"] == large["equal"] == 1
    assert small["kept"] < 0.2 and small["lost"] > 0.9 and small["merged in bf16, aligned"] < 0.5
    assert large["kept"] == pytest.approx(1, abs=0.01)
    assert large["merged in bf16, aligned"] == pytest.approx(1, abs=0.05)
    assert large["adapter, bf16, aligned"] == pytest.approx(1, abs=0.05)
    assert large["relative"] == pytest.approx(small["relative"] * 1e4, rel=1e-3)
    assert max(small["error, fp32"], large["error, fp32"]) < 1e-3


def test_grids_on_a_random_model(base, adapter):
    settings = QuerySettings(system=None, max_new_tokens=64)
    rows = grid_rows(base, adapter, drawn_items()[:1], settings, bits=(20, 3))
    assert rows[0]["kept"] == pytest.approx(1, abs=1e-2) and rows[1]["kept"] < 0.99
    assert rows[1]["relative"] == pytest.approx(rows[0]["relative"] * 2**-17, rel=0.1)
