"""Photos as unit vectors for retrieval: the loaded model's own vision tower, or a CLIP, SigLIP or DINO model.

An embedder has a `name` and turns photos into float32 rows of length 1, so that the product of two rows is their
cosine similarity. The name says which model it is and how it is used; only vectors of the same name can be
compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.io.images import open_image
from repic_core.models.parts import eval_mode, hash_weights

# Pixels. Half the side of the published image limit is enough to recognise an object.
TOWER_SIDE = 448


class EmbedderError(ValueError):
    """A model that can't embed photos or texts; the message names it and says how to fix it."""


class TowerEmbedder:
    """The mean of the visual tokens of a loaded Qwen-VL model, which needs no other weights.

    Args:
        model, processor: from `loading.load_model`.
        side: photos are scaled to ``side * side`` pixels in their own shape (within the processor's limits), so
            that a crop of a scene looks like a reference photo. The toy world's reference photos have 48.
        batch_size: photos in a forward pass.
    """

    def __init__(self, model: Any, processor: Any, side: int = TOWER_SIDE, batch_size: int = 32) -> None:
        self._tower = next((part for name, part in model.named_modules() if name.endswith("visual")), None)
        if self._tower is None:
            raise EmbedderError(f"{type(model).__name__} has no vision tower: give a Qwen-VL model")
        self._processor = processor.image_processor
        self.side, self._batch_size = side, batch_size
        limits = dict(self._processor.size)
        self.name = f"vision tower {hash_weights(self._tower)[:16]} at {side} within {limits}"

    def images(self, photos: Sequence[Any]) -> Any:
        """Paths or PIL images as unit vectors (photos, hidden size of the language model), float32.

        Raises:
            ValueError: a photo can't be read; the message names it.
        """
        import numpy as np
        import torch

        weight = next(self._tower.parameters())
        rows = []
        for start in range(0, len(photos), self._batch_size):
            some = photos[start : start + self._batch_size]
            scaled = [_scaled(open_image(photo), self.side) for photo in some]
            inputs = self._processor(scaled, return_tensors="pt").to(weight.device)
            with eval_mode(self._tower), torch.inference_mode():
                out = self._tower(inputs["pixel_values"].to(weight.dtype), grid_thw=inputs["image_grid_thw"])
            counts = inputs["image_grid_thw"].prod(-1) // self._processor.merge_size**2
            rows += [tokens.float().mean(0) for tokens in out.pooler_output.split(counts.tolist())]
        return unit(torch.stack(rows).cpu().numpy()) if rows else np.empty((0, 0), np.float32)


class PretrainedEmbedder:
    """A CLIP, SigLIP or DINO model of `transformers`: a name on the hub or a local folder, safetensors only.

    Models with two towers (CLIP, SigLIP) give their projected image features, and `texts` embeds into the same
    space. Others (DINO, ViT) give their pooled output, or that of the first token if they don't pool.
    """

    def __init__(self, name_or_path: str | Path, device: str = "cpu", batch_size: int = 32) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        options = {"trust_remote_code": False}
        try:
            self._model = AutoModel.from_pretrained(name_or_path, use_safetensors=True, **options)
            self._processor = AutoImageProcessor.from_pretrained(name_or_path, **options)
            self._two_towers, self._tokenizer = hasattr(self._model, "get_image_features"), None
            if self._two_towers:
                self._tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:240]
            raise EmbedderError(f"{name_or_path}: can't be loaded as an embedder ({reason})") from None
        self._model = self._model.to(device).eval()
        self._batch_size = batch_size
        prepared = json.dumps(self._processor.to_dict(), sort_keys=True, default=str)
        self.name = (
            f"{type(self._model).__name__} {hash_weights(self._model)[:16]}, "
            f"photos prepared as {hashlib.sha256(prepared.encode()).hexdigest()[:8]}"
        )

    def images(self, photos: Sequence[Any]) -> Any:
        """Paths or PIL images as unit vectors (photos, dimensions), float32; errors as in `TowerEmbedder`."""

        def pixels(some: Sequence[Any]) -> Any:
            return self._processor([open_image(photo) for photo in some], return_tensors="pt")

        return self._embed(photos, pixels, "get_image_features")

    def texts(self, texts: Sequence[str]) -> Any:
        """Texts as unit vectors in the photos' space (texts, dimensions), float32.

        Raises:
            EmbedderError: the model can't embed texts.
        """
        if self._tokenizer is None:
            raise EmbedderError(
                f"{self.name}: has no text side; search by photo, or use a CLIP or SigLIP model"
            )
        limit = self._model.config.text_config.max_position_embeddings
        # SigLIP was trained with texts padded to the limit.
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else True

        def tokens(some: Sequence[str]) -> Any:
            return self._tokenizer(
                list(some), padding=padding, truncation=True, max_length=limit, return_tensors="pt"
            )

        return self._embed(texts, tokens, "get_text_features")

    def _embed(self, things: Sequence[Any], prepare: Any, features: str) -> Any:
        import numpy as np
        import torch

        rows = []
        for start in range(0, len(things), self._batch_size):
            inputs = prepare(things[start : start + self._batch_size]).to(self._model.device)
            with torch.inference_mode():
                out = getattr(self._model, features)(**inputs) if self._two_towers else self._model(**inputs)
            rows.append(_pooled(out).float().cpu().numpy())
        return unit(np.concatenate(rows)) if rows else np.empty((0, 0), np.float32)


def unit(vectors: Any) -> Any:
    """Rows scaled to length 1, float32, contiguous.

    >>> unit([[3.0, 4.0]]).tolist()
    [[0.6000000238418579, 0.800000011920929]]

    Raises:
        ValueError: `vectors` is not a table of numbers, or a row is zero or not finite.
    """
    import numpy as np

    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be a table (n, dimensions), not of shape {vectors.shape}")
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))[:, None]
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise ValueError(f"vector {bad[0]} is zero or not finite, so it has no direction")
    return np.ascontiguousarray(vectors / lengths, np.float32)


def _pooled(out: Any) -> Any:
    pooled = getattr(out, "pooler_output", out)
    return out.last_hidden_state[:, 0] if pooled is None else pooled


def _scaled(photo: Any, side: int) -> Any:
    scale = side / math.sqrt(photo.width * photo.height)
    return photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
