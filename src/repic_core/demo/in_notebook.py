"""The pages in a notebook: shown below their cell, and asked through their own endpoints."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repic_core.demo import launch
from repic_core.display.cards import Cards
from repic_core.display.concept_editor import has_frontend

if TYPE_CHECKING:
    import gradio as gr

# Pixels of the frame below the cell: all that a visitor needs for a caption is in it.
HEIGHT = 1240


class Page:
    """A page that runs for a notebook, and a client that asks it as a browser does.

    Attributes:
        address: where this machine's browsers find it.
        stays: whether it is shown, and runs on when the notebook has asked it.
    """

    def __init__(self, app: gr.Blocks, keep_open: bool | str = "auto", height: int = HEIGHT) -> None:
        from gradio_client import Client

        self.app, self.stays = app, has_frontend() if keep_open == "auto" else bool(keep_open)
        options = {"prevent_thread_lock": True, "quiet": True, "inline": self.stays, "height": height}
        _, self.address, _ = launch(app, **options)
        self.client = Client(self.address, verbose=False)

    def row(self, number: int) -> Cards:
        """A row of the viewer, with the table of all methods."""
        shown, page, table = self.client.predict(number, api_name="/show")
        return Cards(table + page, f"row {shown}")

    def enter(self) -> None:
        """What a browser does when it opens the live page."""
        self.client.predict("", api_name="/enter")

    def add_concept(self, photo: str | Path, name: str, info: str) -> None:
        """Put a concept on this visitor's shelf."""
        from gradio_client import handle_file

        self.client.predict("", handle_file(photo), name, info, [], 0, 0, 0, 0, api_name="/save")

    def export(self, path: str | Path) -> Path:
        """Copy this visitor's concepts, a zip file in the public format, to `path`; returns it."""
        return Path(shutil.copy(self.client.predict(api_name="/export")["value"], path))

    def find(self, photo: str | Path) -> list[str]:
        """The tags of the concepts that the page finds in a photo."""
        from gradio_client import handle_file

        return self.client.predict(handle_file(photo), api_name="/find")

    def caption(self, photo: str | Path, tags: Sequence[str], question: str) -> tuple[Cards, int]:
        """The references and the captions, as the page shows them; and in how many steps they grew."""
        from gradio_client import handle_file

        job = self.client.submit(handle_file(photo), list(tags), question, api_name="/caption")
        captions = job.result()
        given = self.client.predict(list(tags), api_name="/concepts")
        return Cards(given + captions, f"captions with {', '.join(tags)}"), len(job.outputs())

    def close(self) -> None:
        """End the page, unless it stays."""
        if not self.stays:
            self.app.close(verbose=False)


@contextlib.contextmanager
def open_page(app: gr.Blocks, keep_open: bool | str = "auto", height: int = HEIGHT) -> Iterator[Page]:
    """A `Page` that is closed at the end of the block, unless it stays.

    Args:
        keep_open: whether the page is shown below the cell and stays; ``auto``: where somebody has the notebook
            open.
    """
    page = Page(app, keep_open, height)
    try:
        yield page
    finally:
        page.close()
