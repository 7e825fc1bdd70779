"""The toy base and models made from it: how they are told from others, and what is said when one sees a photo."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)

AUTHORS_MODEL = "Yeongtak/RePIC_Qwen2.5VL_7B"
TOY_WORDS = 10_000  # a toy's vocabulary has a few hundred words, any other one more than 100,000
# Taken by the first in this process who says it, and never released.
_said = threading.Lock()


def knows_toys_only(words: Any) -> bool:
    """Whether a model with a vocabulary of so many `words` knows the toy world only."""
    return isinstance(words, int) and words < TOY_WORDS


def tell_if_toy(model: Any, processor: Any, photos: Sequence[Any]) -> None:
    """Log, once a process, that a toy can't read real photos, if `model` is one and is shown one.

    That is a photo of more pixels than `processor` leaves as they are: scenes of the toy world have no more.

    Args:
        photos: opened.
    """
    most = processor.image_processor.size["longest_edge"]
    large = [photo.size for photo in photos if photo.width * photo.height > most]
    if not large or not knows_toys_only(model.config.get_text_config().vocab_size):
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
