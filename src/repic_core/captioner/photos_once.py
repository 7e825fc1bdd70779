"""Photos of one run, each opened, prepared and encoded once, however many prompts show it.

The rows of an evaluation show few photos often: the paper's 4-concept setting has 105 rows with 525 photos, of
which 35 differ. What the vision tower makes of a photo does not depend on the prompt, so it is kept.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.io.images import open_for_model
from repic_core.models.parts import conditional_model, eval_mode
from repic_core.models.vision import image_features, select_features

# How many image tokens are kept, those of the photos that were not used for longest are dropped: 0.5 GB with
# Qwen2.5-VL-7B in bf16, 2 GB with Qwen3-VL-8B, which has features for four layers.
KEPT_TOKENS = 65536


@dataclass(frozen=True)
class Known:
    """Stands for a photo file that was seen before in the run."""

    path: str
    key: str


@dataclass(frozen=True)
class _Encoded:
    """A photo's grid of patches (3,) and its features, as a model output of one photo."""

    grid: Any
    features: Any
    tokens: int


class PhotosOnce:
    """The photos of one run with one model; files, weights and the processor must stay as they are meanwhile.

    Args:
        resized: makes of opened photos what goes to the processor.
        keep: how many image tokens are kept.
    """

    def __init__(
        self, model: Any, processor: Any, resized: Callable[[list[Any]], list[Any]], keep: int = KEPT_TOKENS
    ) -> None:
        self.model, self.processor, self.resized, self.keep = model, processor, resized, keep
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._kept: OrderedDict[str, _Encoded] = OrderedDict()

    def opened(self, photo: Any) -> Any:
        """The opened photo, or `Known` for a file that is still kept.

        Raises:
            ValueError: as `open_image`.
        """
        path = str(photo) if isinstance(photo, str | Path) else None
        if path is not None and self._paths.get(path) in self._kept:
            return Known(path, self._paths[path])
        found = open_for_model(photo)
        if path is not None:
            self._paths[path] = _key(found)
        return found

    def inputs(self, texts: list[str], photos: Sequence[Sequence[Any]]) -> Any:
        """What ``model.generate`` takes for prompts and their photos (of `opened`), with the photos' features
        instead of their pixels."""
        import torch
        from PIL import Image

        flat = [photo for some in photos for photo in some]
        with self._lock:
            found = self._encode(flat)
        processor = copy.copy(self.processor)
        processor.image_processor = _Grids(
            self.processor.image_processor, torch.stack([p.grid for p in found])
        )
        # The processor counts photos, and asks for their grids only.
        blank = Image.new("RGB", (1, 1))
        fields = processor(text=texts, images=[blank] * len(flat), padding=True, return_tensors="pt")
        fields = fields.to(self.model.device)
        fields["mm_encoder_outputs"] = {"image": _joined([one.features for one in found])}
        return fields

    def _encode(self, photos: Sequence[Any]) -> list[_Encoded]:
        """The photos, those that are not kept encoded together."""
        keys = [photo.key if isinstance(photo, Known) else _key(photo) for photo in photos]
        new = {key: photo for key, photo in zip(keys, photos, strict=True) if key not in self._kept}
        if new:
            shown = [open_for_model(one.path) if isinstance(one, Known) else one for one in new.values()]
            for key, one in zip(new, self._features(shown), strict=True):
                self._kept[key] = one
        found = [self._kept[key] for key in keys]
        for key in keys:
            self._kept.move_to_end(key)
        tokens = sum(one.tokens for one in self._kept.values())
        while tokens > self.keep:
            tokens -= self._kept.popitem(last=False)[1].tokens
        return found

    def _features(self, photos: list[Any]) -> list[_Encoded]:
        import torch

        fields = self.processor.image_processor(self.resized(photos), return_tensors="pt")
        grids, device = fields["image_grid_thw"], self.model.device
        with eval_mode(self.model), torch.inference_mode():
            features = image_features(
                conditional_model(self.model), fields["pixel_values"].to(device), grids.to(device)
            )
        return [_encoded(grid, features, place) for place, grid in enumerate(grids)]


class _Grids:
    """An image processor that answers with grids it was given."""

    def __init__(self, own: Any, grids: Any) -> None:
        self._own, self._grids = own, grids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, images: Any, **_: Any) -> dict[str, Any]:
        return {"image_grid_thw": self._grids}


def _encoded(grid: Any, features: Any, place: int) -> _Encoded:
    """One photo of several, copied: a slice would keep the features of all in memory."""
    one = select_features(features, [place])
    one.pooler_output = tuple(values.clone() for values in one.pooler_output)
    if getattr(one, "deepstack_features", None) is not None:  # Qwen3-VL
        one.deepstack_features = [
            tuple(values.clone() for values in layer) for layer in one.deepstack_features
        ]
    return _Encoded(grid, one, len(one.pooler_output[0]))


def _joined(features: Sequence[Any]) -> Any:
    """Model outputs of one photo each as one of all."""
    joined = type(features[0])(pooler_output=tuple(one.pooler_output[0] for one in features))
    if getattr(features[0], "deepstack_features", None) is not None:  # Qwen3-VL
        layers = range(len(features[0].deepstack_features))
        joined.deepstack_features = [
            tuple(one.deepstack_features[layer][0] for one in features) for layer in layers
        ]
    return joined


def _key(photo: Any) -> str:
    """What an opened photo looks like, as a hash of its size and pixels."""
    return hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest()
