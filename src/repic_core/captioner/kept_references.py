"""Captions of many photos with the same concepts, whose photos and texts are encoded once and kept.

A prompt is the system prompt, the references' photos and lines, then the query's photo and the question. Everything
before the query's photo is the *prefix*, which is the same for every query. A token sees only what comes before it,
so the keys and values of the prefix are computed once. Each further query costs only its own photo and question.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.io.images import image_hash, open_for_model, open_image
from repic_core.models.parts import conditional_model, eval_mode, rope_positions
from repic_core.prompts import caption_messages

PHOTO = "<|vision_start|>"  # comes before every photo of a prompt, in all families; user text can't hold it


@dataclass(frozen=True)
class Prefix:
    """Encoded references of P tokens and n photos.

    Args:
        fields: ``input_ids``, ``attention_mask`` and ``mm_token_type_ids`` (1, P), ``image_grid_thw`` (n, 3).
        cache: the model's keys and values of the tokens.
    """

    fields: dict[str, Any]
    cache: Any


class PrefixCaptioner(Captioner):
    """A `Captioner` that keeps the encoded references of the last prompts; the captions are the same.

    Prefixes are kept for single prompts (`caption`, `stream`, batches of one). Larger batches, prompts without
    reference photos, and captions without the growing cache (``use_cache=False``, ``cache_implementation``) are
    generated as usual. A prefix is encoded again after a change of a photo, an info, the order, the adapter or the
    image size. After a change of the weights themselves, call `forget`.

    Args:
        keep: how many prefixes are kept; the least recently used is dropped. With 7B in bf16, a token takes 56 KiB,
            and four photos of 512 x 512 take about 80 MiB.

    Attributes:
        reused: whether the last prompt's prefix had been kept; None if the prompt had no prefix to keep.
    """

    def __init__(self, *arguments: Any, keep: int = 4, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.keep = keep
        self.reused: bool | None = None
        self._kept: OrderedDict[tuple[str, ...], Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Drop all kept prefixes."""
        with self._lock:
            self._kept.clear()

    def _prepare(self, items: Sequence[CaptionItem], **generation: Any) -> Any:
        """Inputs for a cache that already holds the prefix.

        ``position_ids`` are given for the whole prompt. So `generate` neither reads nor writes the positions that
        the model remembers (``rope_deltas``), and captions that run at the same time do not disturb each other.
        """
        import torch

        self.reused = None
        item = items[0]
        photos = [photo for concept in item.references for photo in concept.images if item.reference_photos]
        alone = len(items) == 1 and self._rows(generation) == 1 and item.query is not None
        if not (alone and photos and self._growing_cache(generation)):
            return super()._prepare(items, **generation)
        query = open_for_model(item.query)
        messages = caption_messages(
            query, item.references, item.question, self.system, reference_style=self.reference_style
        )
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, mark, after = text.rpartition(PHOTO)
        prefix = self._prefix(before, photos)
        suffix = self._processed(mark + after, [query])
        whole = {
            name: torch.cat([field, suffix[name]], dim=0 if name == "image_grid_thw" else 1)
            for name, field in prefix.fields.items()
        }
        return {
            "input_ids": whole["input_ids"],
            "attention_mask": whole["attention_mask"],
            "position_ids": self._positions(whole),
            "past_key_values": copied(prefix.cache),
            "pixel_values": suffix["pixel_values"],
            "image_grid_thw": suffix["image_grid_thw"],
        }

    def _prefix(self, text: str, photos: Sequence[Any]) -> Prefix:
        """The kept prefix, or a new one, which is kept from now on."""
        key = (text, *map(photo_hash, photos), *self._state())
        with self._lock:
            self.reused = key in self._kept
            prefix = self._kept[key] if self.reused else self._encoded(text, photos)
            self._kept[key] = prefix
            self._kept.move_to_end(key)
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        return prefix

    def _encoded(self, text: str, photos: Sequence[Any]) -> Prefix:
        import torch

        inputs = self._processed(text, [open_for_model(photo) for photo in photos])
        with eval_mode(self.model), torch.inference_mode():
            cache = conditional_model(self.model)(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                position_ids=self._positions(inputs),
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
                use_cache=True,
                logits_to_keep=1,
            ).past_key_values
        names = ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")
        return Prefix({name: inputs[name] for name in names}, cache)

    def _processed(self, text: str, photos: list[Any]) -> Any:
        images = [self._resized(photos)]
        return self.processor(text=[text], images=images, return_tensors="pt").to(self.model.device)

    def _positions(self, fields: Any) -> Any:
        ids, mask = fields["input_ids"], fields["attention_mask"]
        return rope_positions(conditional_model(self.model), ids, mask, fields)[0]

    def _state(self) -> list[str]:
        """What a prefix depends on, besides its text and photos, that may change between two captions."""
        layers = [m for m in self.model.modules() if isinstance(getattr(m, "scaling", None), dict)]  # LoRA
        adapters = [f"{m.active_adapters} {m.disable_adapters} {m.scaling}" for m in layers]
        return [str(self.processor.image_processor.size), self.resized_by, *adapters]

    def _growing_cache(self, generation: dict[str, Any]) -> bool:
        """Whether `generate` keeps keys and values in the usual cache, which a kept prefix can begin."""
        return self._option("use_cache", generation) is not False and not self._option(
            "cache_implementation", generation
        )

    def _rows(self, generation: dict[str, Any]) -> int:
        """How many sequences `generate` makes of one prompt: beams, or several answers."""
        return max(self._option(name, generation) or 1 for name in ("num_beams", "num_return_sequences"))

    def _option(self, name: str, generation: dict[str, Any]) -> Any:
        """An option of `generate`: as given, or the model's own."""
        default = getattr(self.model.generation_config, name, None)
        return default if generation.get(name) is None else generation[name]


def photo_hash(photo: Any) -> str:
    """`image_hash`, but with the `ValueError` of `open_image` if the file can't be read."""
    try:
        return image_hash(photo)
    except OSError:
        open_image(photo)
        raise


def copied(cache: Any) -> Any:
    """A copy of `cache` that can grow on its own: layers replace their tensors instead of writing into them."""
    twin = copy(cache)
    twin.layers = [copy(layer) for layer in cache.layers]
    return twin
