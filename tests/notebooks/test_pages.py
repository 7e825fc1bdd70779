"""The page at the end of a run leads to everything, loads nothing from elsewhere, and says what pictures show."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, PngImagePlugin

from helpers.pages import Reader
from repic_core.notebooks.pages import FOLD, open_page, write_pages

LOADED = {"src", "href", "srcset", "data", "poster", "action"}


@pytest.fixture
def run(tmp_path):
    """A run with one notebook: a short and a long cell, a picture with words, a table."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "blue").save(buffer, "PNG")
    picture = new_output(
        "display_data",
        {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "x"},
        metadata={"image/png": {"alt": 'Blue & "calm"'}},
    )
    long = "\n".join(f"x = {i}" for i in range(FOLD + 1))
    cells = [
        new_markdown_cell("# 1. Data & more\n\nRows from **drawings**.\n\nMore."),
        new_code_cell("short = 1"),
        new_code_cell(long, metadata={"tags": ["parameters"]}),
        new_code_cell(long, outputs=[picture]),
    ]
    executed = tmp_path / "notebooks" / "01_data.ipynb"
    executed.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), executed)
    figures = tmp_path / "01_data" / "figures"
    figures.mkdir(parents=True)
    words = PngImagePlugin.PngInfo()
    words.add_text("Description", "Two <bars>.")
    Image.new("RGB", (20, 10)).save(figures / "bars.png", pnginfo=words)
    (tmp_path / "01_data" / "results.json").write_text("{}")
    return tmp_path, executed


def links_and_loads(path):
    """(what is linked and loaded, the elements)"""
    elements = Reader(path.read_text()).elements
    return [value for _, given in elements for name, value in given.items() if name in LOADED], elements


@pytest.mark.parametrize("place", ["", "."])
def test_the_index_leads_to_everything(run, monkeypatch, place):
    folder, executed = run
    monkeypatch.chdir(folder)
    index = write_pages(place or folder, [executed], [["arm", "1 reference P/R/F1"], ["base", "1.0/2.0/3.0"]])
    assert index == Path(place or folder) / "index.html"
    text = index.read_text()
    assert "1. Data &amp; more" in text and "Rows from drawings." in text
    assert "<td>1.0/2.0/3.0</td>" in text
    links, elements = links_and_loads(index)
    assert {"notebooks/01_data.html", "01_data/figures/bars.png", "01_data/results.json"} == set(links)
    assert all((folder / link).is_file() for link in links)
    assert [given["alt"] for tag, given in elements if tag == "img"] == ["Two <bars>."]


def test_notebooks_load_nothing_and_fold_long_code(run):
    folder, executed = run
    write_pages(folder, [executed])
    page = folder / "notebooks" / "01_data.html"
    loads, elements = links_and_loads(page)
    assert [one for one in loads if not one.startswith("data:")] == ["../index.html"]
    text = page.read_text()
    assert not re.search(r"""(?:url\(|@import|import\()\s*["']?(?:https?:)?//""", text)
    assert not [tag for tag, _ in elements if tag in ("script", "link", "iframe")]
    assert text.count("<details>") == 1 and f"{FOLD + 1} lines of code" in text
    assert [given["alt"] for tag, given in elements if tag == "img"] == ['Blue & "calm"']


@pytest.mark.parametrize(
    ("system", "display", "terminal", "opened"),
    [("linux", ":0", True, 1), ("linux", "", True, 0), ("linux", ":0", False, 0), ("darwin", "", True, 1)],
)
def test_it_is_opened_for_a_person_with_a_display(tmp_path, monkeypatch, system, display, terminal, opened):
    calls = []
    monkeypatch.setattr("webbrowser.open", lambda address: calls.append(address) or True)
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert open_page(tmp_path / "index.html") == bool(opened)
    assert calls == [(tmp_path / "index.html").as_uri()] * opened
