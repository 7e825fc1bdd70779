"""Errors as the visitor reads them: one sentence, escaped, never a stack trace."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from inspect import isgeneratorfunction, signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

# Visitors must not learn where files lie on the server.
FOLDERS = re.compile(r"(?<![\w<])/(?:[^\s:/]+/)+")
logger = logging.getLogger(__name__)


def message(text: str) -> gr.Error:
    """An error that shows `text` to the visitor. It is escaped, since the browser would read it as HTML."""
    import gradio as gr

    return gr.Error(escape(text), print_exception=False)


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an event handler, a function or a bound method, so that its errors become messages.

    The visitor reads the text of a ValueError; for any other error, that the log has the reason. Parameters named
    ``request`` and ``progress`` get Gradio's request and progress bar.
    """
    import gradio as gr

    if isgeneratorfunction(function):

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _errors_as_messages(function.__name__):
                yield from function(*args, **kwargs)

    else:

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _errors_as_messages(function.__name__):
                return function(*args, **kwargs)

    # Gradio recognises a request by its type and a progress bar by its default value.
    form = signature(function)
    if "request" in form.parameters:
        wrapped.__annotations__ = function.__annotations__ | {"request": gr.Request}
    if "progress" in form.parameters:
        parameters = form.parameters | {
            "progress": form.parameters["progress"].replace(default=gr.Progress())
        }
        wrapped.__signature__ = form.replace(parameters=list(parameters.values()))
    return wrapped


@contextmanager
def _errors_as_messages(name: str) -> Iterator[None]:
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
    """`dropdown` with a plain message for an unknown choice, as after a restart of the server."""
    import gradio as gr

    preprocess = dropdown.preprocess

    def known(payload: Any) -> Any:
        try:
            return preprocess(payload)
        except gr.Error:
            raise message("This choice is no longer known: load the page again.") from None

    dropdown.preprocess = known
    return dropdown
