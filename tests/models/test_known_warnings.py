"""Exactly the known messages are hidden, and those whose cause is ours do not come up at all."""

import warnings

import pytest
from PIL import Image

from helpers.places import BASE
from repic_core.models.known_warnings import KNOWN, hide_known_warnings
from repic_core.models.loading import PAPER_MAX_PIXELS, load_model


def test_only_these_messages_are_hidden():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        hide_known_warnings()
        for message in KNOWN:
            warnings.warn(f"{message} and will be removed.", FutureWarning, stacklevel=1)
        warnings.warn("`gradient_checkpointing_kwargs` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn(f"Look: {KNOWN[0]}", stacklevel=1)
    assert [str(one.message)[:12] for one in shown] == ["`gradient_ch", "Look: `gradi"]


@pytest.mark.parametrize("limit", [None, 4096, PAPER_MAX_PIXELS])
def test_a_limit_on_pixels_is_no_deprecated_argument(limit):
    processor = load_model(BASE, device="cpu", max_pixels=limit)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = processor.image_processor(Image.new("RGB", (400, 300)), return_tensors="pt")["image_grid_thw"]
    assert grid.prod() * 8 * 8 <= (limit or 9216)
