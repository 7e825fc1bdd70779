"""Notebooks in a real JupyterLab in Chromium: *Run all*, the stop button, the concept editor, the inline page.

Screenshots go to the folder REPIC_SCREENSHOTS, if that is set.
"""

import json
import shutil
from importlib.util import find_spec

import pytest
from PIL import Image

from demo.test_browser import CHROMIUM, FLAGS, shot
from helpers.lab import Notebook, complaints, running_lab, with_parameters
from helpers.places import ROOT

WAIT = 300_000  # ms until a step counts as failed

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (Debian's package of that name)"),
    pytest.mark.skipif(find_spec("jupyterlab") is None, reason="JupyterLab is not installed"),
]


@pytest.fixture(scope="module")
def mine(run_dir, tmp_path_factory):
    """A run's folder with the data and captions of the run of all notebooks, for these tests alone."""
    folder = tmp_path_factory.mktemp("mine")
    for part in ("data", "captions"):
        shutil.copytree(run_dir / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(address of a JupyterLab, its folder of notebooks)"""
    folder, state = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    with running_lab(folder, state) as address:
        yield address, folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=WAIT)
        yield browser
        browser.close()


@pytest.fixture
def open_notebook(lab, browser, request):
    """Opens a copy of a notebook with other parameters; afterwards the page must have had no errors."""
    address, folder = lab
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(WAIT)
    opened = []

    def open_one(name, **parameters):
        with_parameters(ROOT / "notebooks" / f"{name}.ipynb", folder / f"{name}.ipynb", **parameters)
        opened.append(Notebook(context.new_page(), address, f"{name}.ipynb"))
        return opened[-1]

    yield open_one
    for notebook in opened:
        shot(notebook.page, f"lab-{request.node.name}")
    context.close()
    assert [fault for notebook in opened for fault in notebook.faults] == []


def test_training_is_stopped_with_the_button(open_notebook, mine):
    notebook = open_notebook("02_grpo_post_training", run_dir=str(mine), overwrite=True)
    notebook.run_all()
    notebook.page.get_by_role("button", name="Stop after this step").click()
    book = notebook.finished()
    assert complaints(book) == []
    results = json.loads((mine / "02_grpo_post_training" / "results.json").read_text())
    assert 1 <= results["steps"] < 80
    notebook.page.get_by_text(f"Stopped after step {results['steps']} of").first.wait_for()


def test_concepts_are_added_edited_and_deleted(open_notebook, mine, tmp_path):
    Image.new("RGB", (60, 50), "teal").save(tmp_path / "kiki.png")
    notebook = open_notebook("03_inference", run_dir=str(mine))
    notebook.run_all()
    assert complaints(notebook.finished()) == []
    file = mine / "03_inference" / "concepts" / "database.json"
    editor = notebook.output_of("concept_editor(")
    with notebook.page.expect_file_chooser() as chooser:
        editor.get_by_role("button", name="Photo").click()
    chooser.value.set_files(tmp_path / "kiki.png")
    editor.get_by_text("(1)").wait_for()
    editor.get_by_label("Name").fill("kiki")
    editor.get_by_label("Info").fill("a teal bird")
    editor.get_by_role("button", name="Add").click()
    editor.get_by_text("<kiki> is added.").wait_for()
    added = json.loads(file.read_text())["concept_dict"]["<kiki>"]
    assert added["info"] == "a teal bird"
    editor.get_by_label("Info").fill("a green bird")
    editor.get_by_role("button", name="Save changes").click()
    editor.get_by_text("<kiki> is saved.").wait_for()
    assert json.loads(file.read_text())["concept_dict"]["<kiki>"]["info"] == "a green bird"
    editor.get_by_role("button", name="Delete").click()
    editor.get_by_role("button", name="Click again").click()
    editor.get_by_text("<kiki> is deleted.").wait_for()
    assert "<kiki>" not in json.loads(file.read_text())["concept_dict"]


def test_the_inline_page_captions_a_photo(open_notebook, mine):
    notebook = open_notebook("05_four_concept_gradio", run_dir=str(mine))
    notebook.run_all()
    assert complaints(notebook.finished()) == []
    frame = notebook.output_of("build_live(").frame_locator("iframe")
    query = json.loads((mine / "data" / "test" / "queries.json").read_text())["2 all"][0]
    caption_in_page(frame, mine / "data" / "test" / query["query"])


def test_a_folder_of_real_photos(open_notebook, mine, official_root):
    """Thirty subjects, one folder each: database, captions, index, boxes, page and rows."""
    photos = official_root / "data" / "dreambooth"
    folders = [folder for folder in photos.iterdir() if folder.is_dir()]
    notebook = open_notebook(
        "00_your_photos", run_dir=str(mine), photos=str(photos.resolve()), max_new_tokens=16
    )
    notebook.run_all()
    assert complaints(notebook.finished()) == []
    found = json.loads((mine / "00_your_photos" / "results.json").read_text())
    assert found["concepts"] == len(folders) and found["page_steps"]
    assert len(found["found"]) == 4 and found["boxes"]
    assert (mine / "00_your_photos" / "concepts.zip").is_file()
    assert all(count for method, count in found["rows"].items() if method != "iou"), found["rows"]
    frame = notebook.output_of("build_live(").frame_locator("iframe")
    caption_in_page(frame, next(folders[0].glob("*.jpg")))


def caption_in_page(frame, photo):
    """Upload a photo in the live page, have its concepts found, and caption it."""
    frame.locator("input[type=file]").first.set_input_files(photo)
    frame.locator("#repic-query img").wait_for()
    frame.get_by_role("button", name="Find the concepts").click()
    frame.get_by_label("found in the photo").check()
    frame.get_by_role("button", name="Caption", exact=True).click()
    frame.get_by_text("First word after").first.wait_for()
    assert frame.locator("#repic-caption").inner_text()
