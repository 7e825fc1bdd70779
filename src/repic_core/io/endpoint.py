"""One model behind an endpoint with OpenAI's protocol of chat completions, asked with temperature 0.

Hosted models, vLLM, SGLang, llama.cpp and ``transformers serve`` all provide such endpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repic_core.io.extras import need

# Not parameters: they are what is asked, or change the form of answers.
OWN = ("model", "messages", "stream", "n")
# Sent to an endpoint that needs no key.
NO_KEY = "no-key"
# A connection that is silent for so long is given up, and tried again.
SECONDS = 600.0
Messages = Sequence[dict[str, Any]]


class EndpointError(ValueError):
    """An endpoint that can't be asked, or did not answer; the message names it, the model and the cause."""


@dataclass(frozen=True)
class Answer:
    """What a model said, with the tokens that the endpoint counted (0 if it does not count them)."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint:
    """A model behind an endpoint; several threads may ask it at once.

    >>> Endpoint("toy-base", "http://localhost:8000/v1").ask([...])  # doctest: +SKIP
    >>> Endpoint("o4-mini", request={"temperature": None, "max_completion_tokens": 4096})  # doctest: +SKIP

    Args:
        base_url: by default OpenAI's (or the environment variable ``OPENAI_BASE_URL``).
        key_variable: the environment variable with the key, which is sent to `base_url`. It may be unset if
            `base_url` is given: local servers need no key.
        max_tokens: of an answer.
        retries: after failed connections and HTTP 408, 409, 429 and 5xx; this is the `max_retries` of the openai
            client, which waits 0.5 to 8 s, growing exponentially, or as the endpoint's ``Retry-After`` says.
        request: further parameters of the request, any that the endpoint knows; None leaves out one that is sent
            by default (``temperature``, ``max_tokens``). With ``max_completion_tokens``, which newer models want
            instead, ``max_tokens`` is left out.
        seconds: how long the endpoint may be silent before the request is given up and tried again.

    Raises:
        EndpointError: there is neither a key nor a `base_url`; `request` holds one of `OWN`.
        MissingExtra: the package ``openai`` is not installed.
    """

    # Subclasses: what the model is in messages, and the error that they raise.
    role = "the model"
    fault: type[EndpointError] = EndpointError

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        max_tokens: int = 1024,
        retries: int = 5,
        request: Mapping[str, Any] | None = None,
        seconds: float = SECONDS,
    ) -> None:
        key = os.environ.get(key_variable, "").strip()
        if not key and not base_url:
            raise self.fault(
                f"no endpoint for {self.role} {model}: set {key_variable} to a key, or give the base_url of a "
                "server such as http://localhost:8000/v1"
            )
        self.model, self.max_tokens, self.request = model, max_tokens, dict(request or {})
        self.body({})  # what can't be sent is said now
        need("openai", extra="judges")
        from openai import OpenAI

        self._key = key or NO_KEY
        self._client = OpenAI(
            api_key=self._key, base_url=base_url or None, max_retries=retries, timeout=seconds
        )

    def body(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent beside the model and the messages: temperature 0 and `max_tokens`, changed as `request` and
        then `more` say."""
        wanted = {**self.request, **more}
        own = next((name for name in wanted if name in OWN), None)
        if own:
            raise self.fault(f"request, {own!r}: is not a parameter of the request: leave it out")
        found = {"temperature": 0, "max_tokens": self.max_tokens}
        if "max_completion_tokens" in wanted:
            del found["max_tokens"]
        return {name: value for name, value in {**found, **wanted}.items() if value is not None}

    def ask(self, messages: Messages, **more: Any) -> Answer:
        """The answer to chat messages in OpenAI's form; `more` are parameters of this request.

        Raises:
            EndpointError: no answer after the retries; names the endpoint, the model and the cause.
        """
        from openai import OpenAIError

        try:
            completion = self._client.chat.completions.create(
                model=self.model, messages=list(messages), extra_body=self.body(more)
            )
        except (OpenAIError, ValueError) as error:  # ValueError: a body that is not JSON
            raise self._no_answer(error) from None
        if not getattr(completion, "choices", None):
            raise self._no_completion()
        return _answer(completion.choices[0].message.content or "", completion.usage)

    def stream(self, messages: Messages, **more: Any) -> Iterator[Answer]:
        """The answer as it grows; its tokens are those of the last one, if the endpoint counts them then.

        Closing the iterator closes the connection, at which servers stop the model.

        Raises:
            EndpointError: as `ask`; or the connection broke before the answer's end.
        """
        text, usage, finished = "", None, False
        try:
            with self._client.chat.completions.create(
                model=self.model,
                messages=list(messages),
                stream=True,
                stream_options={"include_usage": True},
                extra_body=self.body(more),
            ) as chunks:
                for chunk in chunks:
                    usage = chunk.usage or usage
                    for choice in chunk.choices[:1]:
                        finished = finished or choice.finish_reason is not None
                        if choice.delta.content:
                            text += choice.delta.content
                            yield Answer(text)
        except self.fault:
            raise
        except Exception as error:  # those of the openai client, and of the HTTP client below it
            raise self._no_answer(error) from None
        if not finished:
            raise self._no_completion()
        yield _answer(text, usage)

    @property
    def where(self) -> str:
        return f"{self._client.base_url}, model {self.model}"

    def _no_answer(self, error: Exception) -> EndpointError:
        cause = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        cause = " ".join(cause.replace(self._key, "***").split())[:500]
        return self.fault(f"{self.where}: no answer: {type(error).__name__}: {cause}")

    def _no_completion(self) -> EndpointError:
        return self.fault(
            f"{self.where}: no answer: the endpoint sent no chat completion; is its address right?"
        )


def _answer(text: str, usage: Any) -> Answer:
    return Answer(text, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)
