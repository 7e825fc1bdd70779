"""What the kit logs, as notes between the cells instead of red text."""

from __future__ import annotations

import logging


class Notes(logging.Handler):
    """Displays each record as a line of Markdown."""

    def emit(self, record: logging.LogRecord) -> None:
        from IPython.display import Markdown, display

        display(Markdown(f"> **Note.** {self.format(record)}"))


def show_notes() -> None:
    """From now on, this process's warnings of the kit are displayed as notes, if it is a notebook's kernel."""
    from repic_core.display.concept_editor import in_notebook

    logger = logging.getLogger("repic_core")
    if in_notebook() and not any(isinstance(handler, Notes) for handler in logger.handlers):
        logger.addHandler(Notes(logging.WARNING))
        logger.propagate = False
