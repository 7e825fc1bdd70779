"""Exactly the known messages are hidden, and those whose cause is ours do not come up at all."""

import os
import subprocess
import sys
import warnings

import pytest
from PIL import Image

from repic_core.models.known_warnings import KNOWN, hide_known_warnings
from repic_core.models.loading import PAPER_MAX_PIXELS, load_model
from repic_core.toyworld.photos import SCENE_SIDE


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
def test_a_limit_on_pixels_is_no_deprecated_argument(base, limit):
    processor = load_model(base, device="cpu", max_pixels=limit)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = processor.image_processor(Image.new("RGB", (400, 300)), return_tensors="pt")["image_grid_thw"]
    assert grid.prod() * 8 * 8 <= (limit or SCENE_SIDE**2)


def test_wandb_offline_prints_nothing():
    """transformers prints a line when its integrations are imported under ``WANDB_MODE=offline``."""
    code = """
from repic_core.models.known_warnings import quiet_libraries
quiet_libraries()
import trl.trainer.grpo_trainer
"""
    environment = {**os.environ, "WANDB_MODE": "offline"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == ""
