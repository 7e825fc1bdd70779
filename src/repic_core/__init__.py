"""RePIC as a small kit: concepts, prompts, rewards, GRPO post-training, captioning and evaluation.

Data flows one way: concepts -> prompts -> model -> captions -> evaluation, and tasks -> rewards -> training.
The main names are importable from here and loaded on first use, so that ``import repic_core`` stays light:
no torch, transformers, TRL or Gradio before they are needed.

>>> from repic_core import Concept, ConceptDatabase, Captioner, load_model  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "Captioner": "captioner.captioner",
    "Concept": "concepts.concept",
    "ConceptDatabase": "concepts.database",
    "ConceptIndex": "retrieval.index",
    "TrainingExample": "data.rows",
    "find_concepts": "retrieval.find",
    "load_captions": "captioner.caption_files",
    "load_model": "models.loading",
    "personalization_reward": "rewards",
    "score": "evaluation.scores",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
