"""Warnings of libraries about their own calls, which a user of this kit can do nothing about."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import redirect_stdout

# Beginnings of the messages, each with where it comes from.
KNOWN = (
    # TRL sets `gradient_checkpointing`, PEFT and TRL ask `is_gradient_checkpointing` and call `..._enable`
    "`gradient_checkpointing` is deprecated",
    "`is_gradient_checkpointing` is deprecated",
    "`gradient_checkpointing_enable` is deprecated",
    # Gradio's queue calls pandas so
    "'future.no_silent_downcasting' is deprecated",
    "The copy keyword is deprecated",
    # transformers opens photos with torchvision
    "The image decoding and encoding capabilities of TorchVision are deprecated",
)


def hide_known_warnings() -> None:
    """Show none of `KNOWN` any more in this process; every other warning is shown as before."""
    for beginning in KNOWN:
        warnings.filterwarnings("ignore", message=beginning)


def quiet_libraries() -> None:
    """`hide_known_warnings`, and no bars while weights are loaded or columns cast.

    Bars of downloads stay. The line that transformers prints under ``WANDB_MODE=offline`` is left out.
    """
    from datasets import disable_progress_bars
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    hide_known_warnings()
    disable_progress_bars()
    logging.disable_progress_bar()
    enable_progress_bars()  # the line above also hides those of downloads
    if os.environ.get("WANDB_MODE") == "offline":
        with redirect_stdout(io.StringIO()):
            import transformers.integrations.integration_utils  # noqa: F401
