"""Pages of a notebook: asked through their endpoints, closed where nobody watches, shown in a frame that fits."""

import pytest

from helpers.fake_captioner import FakeCaptioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo import in_notebook
from repic_core.demo.in_notebook import HEIGHT, open_page
from repic_core.demo.live import build_live
from repic_core.demo.viewer import build_viewer


def test_the_viewer_answers_and_is_closed(folder):
    viewer = build_viewer({"ours": folder / "ours.json"}, folder / "database.json", folder)
    with open_page(viewer) as page:
        row = page.row(2)
    assert repr(row) == "row 2" and "ours" in row.html and row.html.count("<table") == 1
    assert not viewer.is_running


def test_the_live_page_answers(folder):
    database = ConceptDatabase.load(folder / "database.json")
    live = build_live(
        {"one": FakeCaptioner("A <miko>.")}, database, find=lambda *_: ["<zoe>"], shelves=folder / "shelves"
    )
    with open_page(live, keep_open=False) as page:
        page.enter()
        assert page.find(folder / "q1.png") == ["<zoe>"]
        page.add_concept(folder / "q1.png", "miko", "a toy")
        cards, steps = page.caption(folder / "q1.png", ["<miko>"], "Who?")
    assert "miko&gt;</span>" in cards.html and steps >= 2


@pytest.mark.parametrize(
    ("keep_open", "watched", "stays"),
    [("auto", True, True), ("auto", False, False), (True, False, True), (False, True, False)],
)
def test_it_stays_where_somebody_watches(folder, monkeypatch, keep_open, watched, stays):
    asked = {}

    def launch(app, **options):
        asked.update(options)
        return None, "http://127.0.0.1:1/", ""

    class App:
        closed = False

        def close(self, verbose):
            self.closed = True

    monkeypatch.setattr(in_notebook, "launch", launch)
    monkeypatch.setattr(in_notebook, "has_frontend", lambda: watched)
    monkeypatch.setattr("gradio_client.Client", lambda *_, **__: None)
    app = App()
    with open_page(app, keep_open):
        pass
    assert (asked["inline"], asked["height"], app.closed) == (stays, HEIGHT, not stays)
