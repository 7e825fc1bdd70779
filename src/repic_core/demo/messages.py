"""Errors as the visitor reads them: one sentence, escaped, never a stack trace."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from inspect import isgeneratorfunction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

FOLDERS = re.compile(r"(?<![\w<])/(?:[^\s:/]+/)+")  # where files lie on the server is not for visitors
logger = logging.getLogger(__name__)


def message(text: str) -> gr.Error:
    """An error whose text the visitor reads; the browser would take it for HTML."""
    import gradio as gr

    return gr.Error(escape(text), print_exception=False)


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose errors are messages: a ValueError's own text, of others that the log has it.

    Its parameter ``request``, if it has one, gets Gradio's request.
    """
    import gradio as gr

    if "request" in function.__annotations__:
        function.__annotations__["request"] = gr.Request  # Gradio looks for the type, not for its name

    if isgeneratorfunction(function):

        @wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            with _told(function.__name__):
                yield from function(*args, **kwargs)

    else:

        @wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            with _told(function.__name__):
                return function(*args, **kwargs)

    return told


@contextmanager
def _told(name: str) -> Iterator[None]:
    import gradio as gr

    try:
        yield
    except gr.Error:
        raise
    except ValueError as error:  # such as a control token in the question
        raise message(FOLDERS.sub("", str(error))) from None
    except Exception:
        logger.exception("%s failed", name)
        raise message("This failed; the log says why.") from None


def local_choices(dropdown: gr.Dropdown) -> gr.Dropdown:
    """`dropdown`, whose own error for a choice that it has not (the server was started again, say) is a message."""
    import gradio as gr

    preprocess = dropdown.preprocess

    def known(payload: Any) -> Any:
        try:
            return preprocess(payload)
        except gr.Error:
            raise message("This choice is no longer known: load the page again.") from None

    dropdown.preprocess = known
    return dropdown
