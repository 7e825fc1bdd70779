"""Captions from a model on a server: `EndpointCaptioner`, with the methods of `Captioner`."""

from __future__ import annotations

import base64
import io
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from repic_core.captioner.caption_files import DEFAULT_QUESTION, CaptionItem, item_hashes, whole
from repic_core.captioner.caption_run import run_items
from repic_core.concepts.concept import Concept
from repic_core.io.endpoint import SECONDS, Answer, Endpoint
from repic_core.io.images import open_for_model
from repic_core.prompts import caption_messages, check_reference_style, system_text

# How many photos of a run stay in memory as they are sent.
KEPT_PHOTOS = 32
# A photo's sides are multiples of so many pixels where it is resized: two patches of Qwen2-VL and Qwen2.5-VL.
GRID = 28


class EndpointCaptioner:
    """Captions photos with a model on a server with OpenAI's protocol (vLLM, SGLang, ``transformers serve``, ...).

    Prompts are those of `Captioner`; the server applies the chat template. Photos are sent as PNG, without loss.
    Captions are greedy unless asked otherwise. The key, if the server needs one, is read from the environment
    variable ``OPENAI_API_KEY``, and is sent to `base_url` only.

    >>> captioner = EndpointCaptioner("http://localhost:8000/v1", "assets/toy-base", system=None)  # doctest: +SKIP
    >>> captioner.caption("scene.png", [Concept("<bo>", "bo", "bo.png", "a toy")])  # doctest: +SKIP

    Args:
        base_url: the server's address, which mostly ends with ``/v1``; None for OpenAI's.
        model: as the server calls it.
        system: as in `prompts.system_text`, a key or a text; None for the toy base.
        concurrency: how many prompts `caption_many` sends at once; a server that makes batches is fast with many.
        max_new_tokens: of a caption; upstream uses 1024.
        reference_style: how the references' lines are written, ``tag`` or ``numbered``.
        max_pixels: photos are shrunk to at most this many pixels before they are sent, as the processor does it;
            by default the server alone resizes them.
        min_pixels: photos are enlarged to at least this many pixels.
        grid: the sides of a photo that is resized are multiples of so many pixels: 28 for Qwen2-VL and Qwen2.5-VL,
            32 for Qwen3-VL.
        prices: of a million prompt tokens and of a million completion tokens, in any currency.
        retries, request, seconds: as in `io.endpoint.Endpoint`.

    Attributes:
        prompt_tokens, completion_tokens: of all answers so far, as the server counts them.

    Raises:
        EndpointError: as `Endpoint`.
        ValueError: an unknown `reference_style`; or as `prompts.system_text`.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        system: str | None = "evaluation",
        concurrency: int = 8,
        max_new_tokens: int = 1024,
        reference_style: str = "tag",
        max_pixels: int | None = None,
        min_pixels: int | None = None,
        grid: int = GRID,
        prices: tuple[float, float] = (0.0, 0.0),
        retries: int = 5,
        request: Mapping[str, Any] | None = None,
        seconds: float = SECONDS,
    ) -> None:
        system_text(system)  # a typo is refused before anything is captioned
        check_reference_style(reference_style)
        self.endpoint = Endpoint(
            model, base_url, max_tokens=max_new_tokens, retries=retries, request=request, seconds=seconds
        )
        self.system, self.reference_style, self.concurrency = system, reference_style, concurrency
        self.max_pixels, self.min_pixels, self.grid, self.prices = max_pixels, min_pixels, grid, prices
        self.prompt_tokens = self.completion_tokens = 0
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        """Of all answers so far, in the currency of `prices`."""
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    def caption(
        self, query: Any, references: Sequence[Concept], question: str = DEFAULT_QUESTION, **request: Any
    ) -> str:
        """The caption of one photo (path or PIL image). `request` are further parameters, such as ``temperature``.

        Raises:
            EndpointError: no answer after the retries; names the server, the model and the cause.
            ValueError: an image that can't be read (the message names it), or a control token in a text.
        """
        return self.answer(self.messages(CaptionItem(query, references, question)), **request)

    def caption_many(
        self,
        items: Sequence[CaptionItem],
        out: str | Path | None = None,
        resume: bool = True,
        progress: bool = True,
        **request: Any,
    ) -> list[list[Any]]:
        """Rows ``[query path, tags, caption, question]`` of all items, in order: as `Captioner.caption_many`.

        If a prompt fails, no further ones are sent, and what the others answer is kept in the files before the
        error is raised. The settings beside `out` name the server's model; what weights it has is not known here.
        """
        return run_items(
            items,
            lambda places: self._captions(items, places, **request),
            lambda: self._settings(items, request),
            out,
            resume,
            progress,
        )

    def stream(
        self, query: Any, references: Sequence[Concept], question: str = DEFAULT_QUESTION, **request: Any
    ) -> Iterator[str]:
        """The caption as it grows; the last text is what `caption` returns.

        Closing the iterator closes the connection, at which servers stop the model.
        """
        messages = self._sent(self.messages(CaptionItem(query, references, question)), self.data_url)
        last, shown = Answer(""), ""
        for last in self.endpoint.stream(messages, **request):
            text = _caption(last)
            if text and text != shown:
                yield text
                shown = text
        self._count(last)

    def answer(self, messages: list[dict[str, Any]], **request: Any) -> str:
        """The answer to messages of your own, in the form of `prompts`; photos are paths or PIL images."""
        return self._answer(messages, self.data_url, request)

    def messages(self, item: CaptionItem) -> list[dict[str, Any]]:
        """The chat messages of one item, in the form of `prompts`."""
        return caption_messages(
            item.query,
            item.references,
            item.question,
            self.system,
            item.reference_photos,
            self.reference_style,
        )

    def data_url(self, photo: Any) -> str:
        """A photo (path or PIL image) as a PNG in a ``data:`` URL: upright, without EXIF, resized as asked.

        Raises:
            ValueError: the photo can't be read; names the file.
        """
        opened = resized(open_for_model(photo), self.min_pixels, self.max_pixels, self.grid)
        opened.info = {}
        file = io.BytesIO()
        opened.save(file, "PNG", compress_level=1)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

    def _captions(
        self, items: Sequence[CaptionItem], places: Sequence[int], **request: Any
    ) -> Iterator[tuple[int, str]]:
        """The captions of the items at these places, each with its place, as they arrive.

        Threads are daemons, so that an interrupted program does not wait for a silent server.
        """
        wanted: SimpleQueue[int] = SimpleQueue()
        found: SimpleQueue[Any] = SimpleQueue()
        for place in places:
            wanted.put(place)
        stop, kept = threading.Event(), lru_cache(KEPT_PHOTOS)(self.data_url)

        def url(photo: Any) -> str:
            return kept(photo) if isinstance(photo, str | Path) else self.data_url(photo)

        def work() -> None:
            while not stop.is_set():
                try:
                    place = wanted.get_nowait()
                except Empty:
                    break
                try:
                    found.put((place, self._answer(self.messages(items[place]), url, request)))
                except BaseException as error:
                    stop.set()
                    found.put(error)
            found.put(None)

        working = min(self.concurrency, len(places))
        for _ in range(working):
            threading.Thread(target=work, daemon=True).start()
        errors: list[BaseException] = []
        try:
            while working:
                one = found.get()
                if one is None:
                    working -= 1
                elif isinstance(one, BaseException):
                    errors.append(one)
                else:
                    yield one
        finally:
            stop.set()
        if errors:
            raise errors[0]

    def _answer(
        self, messages: list[dict[str, Any]], url: Callable[[Any], str], request: dict[str, Any]
    ) -> str:
        answer = self.endpoint.ask(self._sent(messages, url), **request)
        self._count(answer)
        return _caption(answer)

    def _count(self, answer: Answer) -> None:
        with self._lock:
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens

    def _sent(self, messages: list[dict[str, Any]], url: Callable[[Any], str]) -> list[dict[str, Any]]:
        """Messages in OpenAI's form; those without photos as plain text, which every server takes."""
        sent = []
        for message in messages:
            content = [
                {"type": "image_url", "image_url": {"url": url(block["image"])}}
                if block["type"] == "image"
                else {"type": "text", "text": whole(block["text"])}
                for block in message["content"]
            ]
            plain = len(content) == 1 and content[0]["type"] == "text"
            sent.append({"role": message["role"], "content": content[0]["text"] if plain else content})
        return sent

    def _settings(self, items: Sequence[CaptionItem], request: dict[str, Any]) -> dict[str, Any]:
        """What the captions of `items` depend on, as far as it is known here."""
        return {
            "model": self.endpoint.model,
            "server's model": self.endpoint.model,
            "image size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "system": system_text(self.system),
            "reference style": self.reference_style,
            "request": self.endpoint.body(request),
            "items": item_hashes(items, self.reference_style),
        }


def resized(photo: Any, least: int | None, most: int | None, grid: int = GRID) -> Any:
    """`photo` resized as the processors do it within these limits, pixel for pixel.

    It is `photo` itself where a processor without limits would give it the same size.
    """
    if least is None and most is None:
        return photo
    from PIL import Image
    from torchvision.transforms.v2 import functional
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    sides = photo.height, photo.width, grid
    size = smart_resize(*sides, min_pixels=least or grid**2, max_pixels=most or sys.maxsize)
    if size == smart_resize(*sides, min_pixels=grid**2, max_pixels=sys.maxsize):
        return photo
    values = functional.resize(
        functional.pil_to_tensor(photo), list(size), functional.InterpolationMode.BICUBIC, antialias=True
    )
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _caption(answer: Answer) -> str:
    return whole(answer.text).strip()
