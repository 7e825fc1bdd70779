"""Warnings of libraries about their own calls, which a user of this kit can do nothing about."""

from __future__ import annotations

import warnings

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
