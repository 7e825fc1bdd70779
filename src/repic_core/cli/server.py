"""Flags of commands that may caption with a model on a server, and the captioner that they mean."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from repic_core.cli.options import Chosen, at_least, load_chosen
from repic_core.cli.output import note

CONCURRENCY = 8


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--server`` and the flags that go with it."""
    group = parser.add_argument_group(
        "instead of loading the model here",
        "a server with OpenAI's protocol: vLLM, SGLang, `transformers serve`, hosted models",
    )
    group.add_argument(
        "--server",
        metavar="URL",
        help="its address, such as http://localhost:8000/v1; --model is then the server's name of the model. A key"
        " is read from the environment variable OPENAI_API_KEY alone, and sent to this address",
    )
    group.add_argument(
        "--concurrency",
        type=at_least(1),
        metavar="N",
        help=f"how many photos the server is asked about at once (default: {CONCURRENCY})",
    )
    add_request_flags(group)


def add_request_flags(parser: argparse._ActionsContainer, tokens: str = "--max-new-tokens") -> None:
    """Add ``--request`` and ``--prices``; `tokens` says what limits an answer by default."""
    parser.add_argument(
        "--request",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the request, such as max_tokens=4096 or reasoning_effort=low; null leaves one out,"
        f" such as temperature=null (default: temperature=0 max_tokens={tokens})",
    )
    parser.add_argument(
        "--prices",
        nargs=2,
        type=float,
        default=(0.0, 0.0),
        metavar=("PROMPT", "COMPLETION"),
        help="of a million tokens, to say what it cost",
    )


def check_server_flags(options: argparse.Namespace, *local: str) -> None:
    """Raise `ValueError` if flags do not go together.

    Args:
        local: the destinations of flags that need the model's weights here.
    """
    if not options.server:
        for name in ("concurrency", "request"):
            if getattr(options, name):
                raise ValueError(f"--{name} needs a --server")
        return
    if not options.model:
        raise ValueError("--server needs a --model: the name that the server gives it")
    for name in local:
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} needs the model here: leave it or --server out")


def server_captioner(options: argparse.Namespace, found: Chosen, kind: Any = None) -> Any:
    """The `EndpointCaptioner` (or the subclass `kind`) that the flags mean."""
    from repic_core.captioner.endpoint import EndpointCaptioner

    return (kind or EndpointCaptioner)(
        options.server,
        found.model,
        system=found.system,
        concurrency=options.concurrency or CONCURRENCY,
        max_new_tokens=getattr(options, "max_new_tokens", 1024),
        reference_style=found.reference_style,
        max_pixels=found.max_pixels,
        min_pixels=found.min_pixels,
        prices=tuple(options.prices),
        request=parameters(options.request),
    )


def chosen_captioner(options: argparse.Namespace, found: Chosen, **how: Any) -> Any:
    """The captioner that the flags mean: of a server, or with the model loaded here and `how` it captions."""
    from repic_core.captioner.captioner import Captioner

    if options.server:
        return server_captioner(options, found)
    return Captioner(
        *load_chosen(found, options.adapter, options.device),
        system=found.system,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        reference_style=found.reference_style,
        **how,
    )


def tell_tokens(options: argparse.Namespace, captioner: Any) -> None:
    """Say how many tokens the server counted in this run, and what they cost if prices are given."""
    if not options.server:
        return
    line = f"{captioner.prompt_tokens:,} prompt tokens, {captioner.completion_tokens:,} completion tokens"
    note(options, f"{line}, cost {captioner.cost:.4f}" if any(options.prices) else line)


def parameters(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as parameters of a request; values are JSON where they can be, else text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or name in found:
            raise ValueError(f"--request {text!r}: write each parameter once, as NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
