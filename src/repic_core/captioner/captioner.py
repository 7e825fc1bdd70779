"""Personalised captions from a loaded model: one photo, many photos, or word by word."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import (
    DEFAULT_QUESTION,
    CaptionItem,
    item_hashes,
    text_hash,
)
from repic_core.captioner.caption_run import run_items
from repic_core.captioner.photos_once import PhotosOnce
from repic_core.concepts.concept import Concept
from repic_core.io.images import open_for_model
from repic_core.models.parts import eval_mode, hash_weights
from repic_core.models.toys import tell_if_toy
from repic_core.prompts import caption_messages, check_reference_style, system_text

RESIZERS = ("processor", "qwen-vl-utils")


class Captioner:
    """Captions photos with `model` (greedy unless asked otherwise), in eval mode whatever mode the model is in.

    >>> model, processor = load_model("assets/toy-base")  # doctest: +SKIP
    >>> captioner = Captioner(model, processor, system=None)  # doctest: +SKIP
    >>> captioner.caption("scene.png", [Concept("<bo>", "bo", "bo.png", "a toy")])  # doctest: +SKIP

    Args:
        system: as in `prompts.system_text`, a key or a text; None for the toy base.
        batch_size: prompts that `caption_many` generates together, padded on the left.
        max_new_tokens: upstream uses 1024.
        resized_by: who shrinks the photos. ``processor``: the processor itself, as in training. ``qwen-vl-utils``:
            that package first, then the processor, as in the authors' evaluation (which does not turn photos
            upright; here they always are). Sizes are the same for photos within the processor's limit.
        reference_style: how the references' lines are written, ``tag`` or ``numbered`` (as in the authors'
            evaluation): `prompts.reference_text`.
        photos_once: `caption_many` opens and encodes each photo once, and keeps the features of the latest
            `photos_once.KEPT_TOKENS` image tokens to its end.

    Raises:
        ValueError: an unknown `resized_by` or `reference_style`; or as `prompts.system_text`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        system: str | None = "evaluation",
        batch_size: int = 8,
        max_new_tokens: int = 1024,
        resized_by: str = "processor",
        reference_style: str = "tag",
        photos_once: bool = True,
    ) -> None:
        if resized_by not in RESIZERS:
            raise ValueError(f"resized_by {resized_by!r}: use one of {', '.join(RESIZERS)}")
        system_text(system)  # a typo is refused before anything is captioned
        check_reference_style(reference_style)
        self.model, self.processor, self.system = model, processor, system
        self.batch_size, self.max_new_tokens, self.resized_by = batch_size, max_new_tokens, resized_by
        self.reference_style, self.photos_once = reference_style, photos_once
        self._photos: PhotosOnce | None = None

    def caption(
        self, query: Any, references: Sequence[Concept], question: str = DEFAULT_QUESTION, **generation: Any
    ) -> str:
        """The caption of one photo (path or PIL image). `generation` is passed to ``model.generate``.

        Raises:
            ValueError: an image that can't be read (the message names it), or a control token in a text.
        """
        return self._generate([CaptionItem(query, references, question)], **generation)[0]

    def caption_many(
        self,
        items: Sequence[CaptionItem],
        out: str | Path | None = None,
        resume: bool = True,
        progress: bool = True,
        **generation: Any,
    ) -> list[list[Any]]:
        """Rows ``[query path, tags, caption, question]`` of all items, in order.

        With `out`, the rows are written there during the run, as `caption_run.run_items` says, even if the run
        ends early. If the file exists, it is resumed. What the captions depend on (`_settings`) is
        written beside it, to `caption_files.settings_path`. With ``resume=False`` the first new rows replace an old
        file.

        Raises:
            ValueError: the file is cut off, or its rows are not those of `items` or were made with different
                settings (delete it or change `out`); or an image can't be read (the rows before its batch are
                kept). The message names the file.
        """
        return run_items(
            items,
            lambda places: self._captions(items, places, **generation),
            lambda: self._settings(items, generation),
            out,
            resume,
            progress,
        )

    def _captions(
        self, items: Sequence[CaptionItem], places: Sequence[int], **generation: Any
    ) -> Iterator[tuple[int, str]]:
        """The captions of the items at these places, each with its place, in batches."""
        self._photos = PhotosOnce(self.model, self.processor, self._resized) if self.photos_once else None
        try:
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                captions = self._generate([items[place] for place in batch], **generation)
                yield from zip(batch, captions, strict=True)
        finally:
            self._photos = None

    def stream(
        self, query: Any, references: Sequence[Concept], question: str = DEFAULT_QUESTION, **generation: Any
    ) -> Iterator[str]:
        """The caption as it grows, word by word; the last text is what `caption` returns.

        The model runs in a thread. Closing the iterator stops the model; an error in the thread is raised here.
        """
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        stop, errors = threading.Event(), []

        class Stopped(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                import torch

                return torch.full((len(input_ids),), stop.is_set(), dtype=torch.bool, device=input_ids.device)

        item = CaptionItem(query, references, question)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

        def run() -> None:
            try:
                self._run(
                    self._prepare([item], **generation),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([Stopped()]),
                    **generation,
                )
            except BaseException as error:
                errors.append(error)
                streamer.on_finalized_text("", stream_end=True)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        text = ""
        try:
            for piece in streamer:
                text += piece
                if piece.strip():
                    yield text.strip()
        finally:
            stop.set()
            thread.join()
        if errors:
            raise errors[0]

    def messages(self, item: CaptionItem) -> list[dict[str, Any]]:
        """The chat messages of one item, with opened photos."""
        opened = open_for_model if self._photos is None else self._photos.opened
        return caption_messages(
            None if item.query is None else opened(item.query),
            [
                replace(concept, image=[opened(image) for image in concept.images])
                for concept in item.references
            ],
            item.question,
            self.system,
            item.reference_photos,
            self.reference_style,
        )

    def inputs(self, items: Sequence[CaptionItem]) -> Any:
        """The processor's inputs for a batch of items, on the model's device."""
        return self._chat_inputs([self.messages(item) for item in items])

    def answer(self, messages: list[dict[str, Any]], **generation: Any) -> str:
        """The answer to messages of your own, in the form of `prompts`; photos are paths or PIL images.

        Raises:
            ValueError: an image that can't be read (the message names it).
        """
        return self.answer_many([messages], **generation)[0]

    def answer_many(self, conversations: Sequence[list[dict[str, Any]]], **generation: Any) -> list[str]:
        """`answer` to each of several conversations, in batches."""
        answers: list[str] = []
        for start in range(0, len(conversations), self.batch_size):
            some = [
                [{**message, "content": list(map(_opened_block, message["content"]))} for message in messages]
                for messages in conversations[start : start + self.batch_size]
            ]
            answers += self._answers(self._chat_inputs(some), **generation)
        return answers

    def _chat_inputs(self, conversations: Sequence[list[dict[str, Any]]]) -> Any:
        """The processor's inputs for conversations with opened photos, on the model's device."""
        texts = [
            self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for messages in conversations
        ]
        photos = [
            [
                block["image"]
                for message in messages
                for block in message["content"]
                if block["type"] == "image"
            ]
            for messages in conversations
        ]
        if self._photos is not None and any(photos):
            return self._photos.inputs(texts, photos)
        images = [self._resized(some) for some in photos]
        shown = images if any(images) else None  # the processor takes no batch without any photo
        inputs = self.processor(text=texts, images=shown, padding=True, return_tensors="pt")
        return inputs.to(self.model.device)

    def _resized(self, photos: list[Any]) -> list[Any]:
        """Opened photos as they go to the processor."""
        tell_if_toy(self.model, self.processor, photos)
        if self.resized_by == "processor" or not photos:
            return photos
        from qwen_vl_utils import process_vision_info

        content = [{"type": "image", "image": photo} for photo in photos]
        patch = self.processor.image_processor.patch_size
        return process_vision_info([{"role": "user", "content": content}], image_patch_size=patch)[0]

    def _prepare(self, items: Sequence[CaptionItem], **generation: Any) -> Any:
        """The inputs of ``model.generate`` for a batch; subclasses may need `generation` for them."""
        return self.inputs(items)

    def _generate(self, items: Sequence[CaptionItem], **generation: Any) -> list[str]:
        return self._answers(self._prepare(items, **generation), **generation)

    def _answers(self, inputs: Any, **generation: Any) -> list[str]:
        out = self._run(inputs, **generation)
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def _run(self, inputs: Any, **generation: Any) -> Any:
        import torch

        with eval_mode(self.model), torch.inference_mode():
            return self.model.generate(**inputs, **self._options(generation))

    def _options(self, generation: dict[str, Any]) -> dict[str, Any]:
        options = {"max_new_tokens": self.max_new_tokens, "do_sample": False, **generation}
        if not options["do_sample"]:  # an instruct model's defaults for sampling would cause warnings
            options = {"temperature": None, "top_p": None, "top_k": None, **options}
        return options

    def _settings(self, items: Sequence[CaptionItem], generation: dict[str, Any]) -> dict[str, Any]:
        """What the captions of `items` depend on, as JSON; the photos and texts of an item as one hash.

        ``model`` is its name, for the reader only: the weights' hash tells models apart, wherever they lie. Of the
        chat template, too, there is a hash.
        """
        defaults = self.model.generation_config.to_diff_dict()
        defaults.pop("transformers_version", None)
        settings = {
            "model": self.model.name_or_path,
            "weights": hash_weights(self.model),
            "dtype": str(self.model.dtype),
            "image size": dict(self.processor.image_processor.size),
            "resized by": self.resized_by,
            "system": system_text(self.system),
            "reference style": self.reference_style,
            "chat template": text_hash(self.processor.chat_template),
            "generation": {**defaults, **self._options(generation)},
            "items": item_hashes(items, self.reference_style),
        }
        return json.loads(json.dumps(settings, default=lambda value: type(value).__name__))


def _opened_block(block: dict[str, Any]) -> dict[str, Any]:
    return {**block, "image": open_for_model(block["image"])} if block["type"] == "image" else block
