"""The toy base and models made from it: how they are told from others, and what is said when one sees a photo."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.io.kit import kit_path

logger = logging.getLogger(__name__)

AUTHORS_MODEL = "Yeongtak/RePIC_Qwen2.5VL_7B"
TOY_WORDS = 10_000  # a toy's vocabulary has about a thousand words, any other one more than 100,000
# Taken by the first in this process who says it, and never released.
_said = threading.Lock()


def is_toy_model(model: Any) -> bool:
    """Whether a model is the toy base or made from it: a loaded one, or the folder of one.

    A name on the hub is never looked up, and is none; nor is a folder that can't be read.
    """
    if isinstance(model, str | Path):
        text = local_config(model, "config.json").get("text_config")
        words = text.get("vocab_size") if isinstance(text, dict) else None
    else:
        words = model.config.get_text_config().vocab_size
    return isinstance(words, int) and words < TOY_WORDS


def local_config(folder: str | Path, name: str) -> dict[str, Any]:
    """A JSON file in a local folder; empty where there is none (loading says what is wrong)."""
    try:
        found = json.loads((kit_path(folder).expanduser() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def tell_if_toy(model: Any, processor: Any, photos: Sequence[Any]) -> None:
    """Log, once a process, that a toy can't read real photos, if `model` is one and is shown one.

    That is a photo of more pixels than `processor` leaves as they are: scenes of the toy world have no more.

    Args:
        photos: opened.
    """
    most = processor.image_processor.size["longest_edge"]
    large = [photo.size for photo in photos if photo.width * photo.height > most]
    if not large or not is_toy_model(model):
        return
    if _said.acquire(blocking=False):
        width, height = large[0]
        logger.warning(
            "the toy base knows nothing but its drawn toys, so what it says about a photo of %d x %d pixels means "
            'nothing: take real weights (--model %s, in Python load_model("%s"))',
            width,
            height,
            AUTHORS_MODEL,
            AUTHORS_MODEL,
        )
