"""The table of scale: bytes by hand, and the page against a plan."""

import pytest

from helpers.places import ROOT
from repic_core.planning.plan import GIB, plan
from repic_core.planning.scale import ROWS, SETUPS, network_bytes, photos_a_step
from repic_core.planning.seconds import optimizer_steps
from repic_core.planning.settings import resolve

TOY = ROOT / "assets" / "toy-base"
PAGE = ROOT / "assets" / "results" / "scale.md"


def test_network_and_photos_by_hand():
    """LoRA r 64 of the toy: the adapter's values are float32, and its bfloat16 weights are 2 bytes each."""
    of = {"model": TOY, "gpus": 8}
    found = {name: resolve(name, {}, **of) for name in ("7b-1gpu-80gb", "paper-7b-8gpu", "7b-multinode")}
    sizes = plan("7b-1gpu-80gb", advise=False, **of)
    adapter, base = sizes["trainable"], sizes["parameters"]
    assert network_bytes(found["7b-1gpu-80gb"]) == 2 * 4 * adapter * 7 // 8
    assert network_bytes(found["paper-7b-8gpu"]) == 2 * 2 * adapter * 7 // 8
    step = found["7b-multinode"].step
    gathers = step.reference + step.old_policy + 1 + 1 + step.checkpointing
    assert network_bytes(found["7b-multinode"]) == int(
        (gathers * (2 * base + 4 * adapter) + 4 * adapter) * 7 / 8
    )
    assert network_bytes(resolve("7b-1gpu-80gb", {}, model=TOY)) == 0
    # Four references and the query: two prompts a GPU; all GPUs' two prompts, opened by each of them.
    assert photos_a_step(found["7b-1gpu-80gb"]) == 8 * 2 * 5 / found["7b-1gpu-80gb"].step.iterations


def test_every_row_of_the_page_is_of_its_recipe():
    """Steps and bytes of all rows; hours by the steps, as a step takes as long for any number of rows."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith(("| 1 ", "| 8 ", "| 64 "))]
    rows = [[cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in lines]
    wanted = [(gpus, recipe, count) for gpus, recipe in SETUPS for count in ROWS]
    assert [(int(row[0]), row[2].strip("`"), int(row[1])) for row in rows] == wanted
    for (gpus, recipe, count), row in zip(wanted, rows, strict=True):
        settings = resolve(recipe, {}, gpus=gpus)
        assert int(row[3]) == optimizer_steps(settings.trainer, settings.step, count)
        largest = next(other for other in rows if other[2] == row[2] and other[:2] == [row[0], "200000"])
        assert float(row[4]) == pytest.approx(float(largest[4]) * int(row[3]) / int(largest[3]), abs=0.06)
        assert row[5:] == [*largest[5:]]
        if count == ROWS[-1]:
            sent = network_bytes(settings)
            assert row[6] == (f"{sent / 1e9:.2f} GB" if sent else "none")


@pytest.mark.parametrize("gpus", [8])
def test_the_page_has_what_the_plan_says(gpus):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    row = next(row for row in cells if row[:3] == [str(gpus), "20,000", "`7b-1gpu-80gb`"])
    found = plan("7b-1gpu-80gb", gpus=gpus, rows=20_000, advise=False)
    hours = found["steps"] * sum(found["seconds"].values()) / 3600
    assert row[3:6] == [f"{found['steps']:,}", f"{hours:,.1f}", f"{found['peak'] / GIB:.1f}"]
