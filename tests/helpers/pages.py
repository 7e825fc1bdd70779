"""For the tests of the pages: hostile texts, a reader of HTML, an app on a free port."""

from contextlib import contextmanager
from html.parser import HTMLParser

SCRIPT, ONERROR = "<script>alert(1)</script>", '"><img src=x onerror="alert(2)">'
TEMPLATES = "${alert(3)} {{constructor}} `${4}` {% raw %}"


class Reader(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@contextmanager
def served(app):
    """The app on a free local port: (client, address)."""
    from gradio_client import Client

    from repic_core.demo import launch

    try:
        _, address, public = launch(app, prevent_thread_lock=True, quiet=True)
        assert not public
        yield Client(address, verbose=False), address
    finally:
        app.close()
