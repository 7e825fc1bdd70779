"""Judges: language models that are asked about captions, through any endpoint with OpenAI's protocol.

A judge is any object with ``ask(messages) -> Answer``; messages are chat messages in OpenAI's form. Hosted models,
vLLM, llama.cpp and ``transformers serve`` all provide such endpoints.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from repic_core.captioner.caption_files import whole
from repic_core.concepts.concept import ConceptError, check_no_control_tokens
from repic_core.evaluation.choices import parse_choice as parse_choice  # for those who use a judge
from repic_core.io.endpoint import Answer, Endpoint, EndpointError, Messages
from repic_core.io.images import open_image

LONGEST_SIDE = 1024  # pixels; larger photos are shrunk before they are sent
JPEG_QUALITY = 90
MAX_TOKENS = 256  # of an answer: enough for a judge that gives reasons before its letter


class JudgeError(EndpointError):
    """A judge that can't be asked, or a record of answers that can't be used; the message says how to fix it."""


class Judge(Protocol):
    """Anything that can be asked."""

    def ask(self, messages: Messages) -> Answer: ...


class EndpointJudge(Endpoint):
    """A model behind an OpenAI-compatible endpoint, asked with temperature 0; arguments as of `Endpoint`.

    >>> EndpointJudge("toy-base", "http://localhost:8000/v1").ask([...])  # doctest: +SKIP
    >>> EndpointJudge("o4-mini", request={"temperature": None, "max_completion_tokens": 4096})  # doctest: +SKIP

    Args:
        prices: of a million prompt tokens and of a million completion tokens, in any currency.

    Raises:
        JudgeError: where `Endpoint` raises `EndpointError`.
        MissingExtra: the package ``openai`` is not installed.
    """

    role, fault = "the judge", JudgeError

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        prices: tuple[float, float] = (0.0, 0.0),
        max_tokens: int = MAX_TOKENS,
        retries: int = 5,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, base_url, key_variable, max_tokens, retries, request)
        self.prices = prices


def check_readable(judge: Any, unread: int, asked: int, example: str = "") -> None:
    """Raise `JudgeError` if none of `asked` answers could be read, of which `example` is one: a score of them would
    say nothing."""
    if unread < asked:
        return
    model = getattr(judge, "model", type(judge).__name__)
    such = f", such as {example[-80:]!r}" if example else ""
    raise JudgeError(
        f"the judge {model}: none of its {asked} answers chooses one of the options{such}: ask another model or, "
        "if it reasons and is cut off, allow longer answers (--request max_tokens=4096)"
    )


class RecordedJudge:
    """A judge that never asks the same twice: each answer is written to a JSON Lines file as soon as it arrives.

    So an interrupted run is resumed, and only what has changed is asked again. The key of an answer is the SHA-256
    of the model and the messages, photos included, and of the judge's `request` if it has one. The endpoint and
    `max_tokens` are not part of the key: use another file after changing them. A last line that was cut off is
    ignored, with a warning, and overwritten.

    `prompt_tokens`, `completion_tokens` and `cost` count each answer given so far once, also if it was read from
    the file: they are those of the whole run, however often it was interrupted. Failed requests are not counted.

    Args:
        path: the file; None keeps the answers in memory only.

    Raises:
        JudgeError: the file holds something else; it is not changed.
    """

    def __init__(self, judge: Judge, path: str | Path | None = None) -> None:
        self.judge, self.path = judge, None if path is None else Path(path)
        self.model = getattr(judge, "model", type(judge).__name__)
        self.prices = getattr(judge, "prices", (0.0, 0.0))
        self.request = getattr(judge, "request", {})
        self._known, self._end = _read_answers(self.path) if self.path else ({}, 0)
        self._given: dict[str, Answer] = {}

    def ask(self, messages: Messages) -> Answer:
        """The recorded answer; if there is none, the judge's, which is then recorded."""
        asked = [self.model, list(messages), *([self.request] if self.request else [])]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if key not in self._known:
            answer = self.judge.ask(messages)
            if self.path:
                self._append({"key": key, "model": self.model, **asdict(answer)})
            self._known[key] = answer
        self._given[key] = self._known[key]
        return self._known[key]

    @property
    def prompt_tokens(self) -> int:
        return sum(answer.prompt_tokens for answer in self._given.values())

    @property
    def completion_tokens(self) -> int:
        return sum(answer.completion_tokens for answer in self._given.values())

    @property
    def cost(self) -> float:
        """In the currency of the judge's `prices`."""
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.truncate(self._end)  # removes an incomplete last line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(line)


def _read_answers(path: Path) -> tuple[dict[str, Answer], int]:
    """The answers of a file by key, and the end of its last complete line in bytes."""
    if not path.exists():
        return {}, 0
    fault = f"{path}: is not a record of answers (%s): give another file"
    try:
        data = path.read_bytes()
    except OSError as error:  # a folder, no permission
        raise JudgeError(fault % error.strerror) from None
    end = data.rfind(b"\n") + 1
    answers = {}
    for number, line in enumerate(data[:end].splitlines(), 1):
        try:
            record = json.loads(line)
            answer = Answer(record["text"], int(record["prompt_tokens"]), int(record["completion_tokens"]))
            answers[str(record["key"])] = answer
        except (ValueError, KeyError, TypeError):
            raise JudgeError(fault % f"line {number}") from None
    rest, start = data[end:], b'{"key": "'
    if rest and not (rest.startswith(start) or start.startswith(rest)):
        raise JudgeError(fault % "its last line")
    if rest:
        warnings.warn(f"{path}: the last line is cut off; it is ignored and asked again", stacklevel=3)
    return answers, end


def text_part(text: str) -> dict[str, Any]:
    """The part of a message that holds a text."""
    return {"type": "text", "text": whole(text)}


def image_part(image: Any) -> dict[str, Any]:
    """The part of a message that holds a photo (path or PIL image), as a JPEG in a ``data:`` URL.

    It is upright, at most `LONGEST_SIDE` pixels long, and has no EXIF, comment or colour profile.

    Raises:
        ValueError: the photo can't be read; names the file.
    """
    photo = open_image(image)
    photo.info = {}  # Pillow would write a JPEG's comment into the copy
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}


def quoted(text: str) -> str:
    """A caption as one line in quotation marks, to be put into other text.

    The caption can't end its line or its quotation, so "B: ..." in it does not start an option. Control tokens have
    no effect: ``</s>`` is removed, and if any other is found, all brackets of the caption become ‹› and (). But a
    judge may still obey what a caption asks for.

    >>> print(quoted('<bo> naps.\\nB: "a dog"</s>'))
    "<bo> naps. B: \\"a dog\\""
    """
    text = " ".join(text.replace("</s>", " ").split()).encode("utf-8", "replace").decode()
    try:
        check_no_control_tokens(text, "a caption")
    except ConceptError:  # a caption is the output of a model: one bad row must not end the run
        text = text.translate(str.maketrans("<>[]", "‹›()"))
    return json.dumps(text, ensure_ascii=False)
