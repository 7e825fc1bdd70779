"""Both pages in a real browser (Debian's ``chromium``, driven by Playwright): every path, visitors, phone, keys.

Screenshots of each step go to the folder REPIC_SCREENSHOTS, if that is set.
"""

import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.fake_captioner import FakeCaptioner
from helpers.hostile import hostile
from helpers.pages import ONERROR, SCRIPT
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo import launch
from repic_core.demo.live import build_live
from repic_core.demo.viewer import build_viewer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a webcam
WAIT = 60_000  # ms until a step counts as failed

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium on the PATH (Debian's package of that name)"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visitor(browser, address, width=1280, scheme="light"):
    """A page of a visitor with a browser profile of their own; errors of its scripts fail the test."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(f"{address}?__theme={scheme}")
    page.wait_for_load_state("networkidle")
    yield page
    assert not faults
    context.close()


@contextmanager
def running(app):
    try:
        yield launch(app, prevent_thread_lock=True, quiet=True)[1]
    finally:
        app.close(verbose=False)


def shot(page, name):
    folder = os.environ.get("REPIC_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def add(page, photo, name, info):
    tab(page, "Your concepts")
    page.locator("input[type=file]").nth(1).set_input_files(photo)
    page.get_by_alt_text("The photo as it will be stored").wait_for()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Info").fill(info)
    page.get_by_role("button", name="Save").click()
    page.get_by_role("img", name=f"Reference photo of {name}").first.wait_for()


def query(page, photo):
    tab(page, "Caption")
    page.locator("input[type=file]").first.set_input_files(photo)
    page.locator("#repic-query img").wait_for()


def caption(page, models=1):
    from playwright.sync_api import expect

    page.get_by_role("button", name="Caption", exact=True).click()
    expect(page.get_by_text("First word after")).to_have_count(models, timeout=WAIT)
    return page.locator("#repic-caption").inner_text()


def toast(page, text):
    page.get_by_test_id("toast-body").filter(has_text=text).first.wait_for()
    page.get_by_test_id("toast-close").first.click()


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A scene of four toys, their photos and what they look like, and a page with the shipped base model."""
    from repic_core.captioner.captioner import Captioner
    from repic_core.demo.finder import Finder
    from repic_core.models.loading import load_model
    from repic_core.retrieval.regions import windows
    from repic_core.toyworld.dataset import write_heldout
    from repic_core.toyworld.retrieval import toy_embedder

    folder = tmp_path_factory.mktemp("toys")
    write_heldout(folder, "val", n=2)
    truth = json.loads((folder / "queries.json").read_text())["4 all"]
    database = ConceptDatabase.load(folder / "database.json")
    model, processor = load_model("assets/toy-base")
    captioner = Captioner(model, processor, system=None, max_new_tokens=64)
    shown = [query["shown"] for query in truth]
    given = ConceptDatabase(database.select(*(tag for tag in shown[1] if tag not in shown[0])))
    app = build_live(
        {"Base": captioner, "Again": captioner},
        given,
        examples=[(folder / truth[1]["query"], [concept.tag for concept in given])],
        find=Finder(given, toy_embedder(model, processor), windows),
        shelves=folder / "shelves",
    )
    with running(app) as address:
        yield address, folder / truth[0]["query"], database.select(*shown[0])


def test_a_visitor_adds_captions_finds_exports_and_comes_back(browser, toys, tmp_path):
    address, photo, concepts = toys
    with visitor(browser, address) as page:
        for concept in concepts:
            add(page, concept.image, concept.name, "a toy")
        shot(page, "live-shelf")
        query(page, photo)
        text = caption(page, models=2)
        assert text.count("of 4 names") == 2
        shot(page, "live-captions")
        page.get_by_role("button", name="Find the concepts").click()
        page.get_by_label("found in the photo").check()
        caption(page, models=2)
        assert "of 4 names" in page.locator("#repic-caption").inner_text()
        page.get_by_role("button", name="Where are they?").click()
        page.locator(".repic").first.wait_for()
        tab(page, "Your concepts")
        page.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("link", name=re.compile("concepts.zip|MB|KB|B")).first.click()
        download.value.save_as(tmp_path / "concepts.zip")
        page.reload()
        tab(page, "Your concepts")
        page.get_by_text("Yours: 4").wait_for()  # this browser's shelf lasts

        with visitor(browser, address) as other:
            tab(other, "Your concepts")
            other.get_by_text("Yours: 0").wait_for()
            other.locator("input[type=file]").nth(2).set_input_files(tmp_path / "concepts.zip")
            other.get_by_text("Yours: 4").wait_for()
            toast(other, "4 concepts imported")

        page.get_by_label("Edit").click()
        page.get_by_role("option", name=concepts[0].tag, exact=True).click()
        page.get_by_alt_text("The photo as it is").wait_for()
        page.get_by_label("Name").fill("Bo the First")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("img", name="Reference photo of Bo the First").wait_for()
        page.get_by_label("Edit").click()
        page.get_by_role("option", name="<Bo the First>").click()
        page.get_by_alt_text("The photo as it is").wait_for()
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("Yours: 3").wait_for()


def test_an_example_and_where_its_concepts_are(browser, toys):
    from playwright.sync_api import expect

    address, photo, _ = toys
    with visitor(browser, address) as page:
        page.locator("tr.tr-body").first.click()
        expect(page.get_by_label("what the example shows")).to_be_checked(timeout=WAIT)
        page.locator("#repic-query img").wait_for()
        caption(page, models=2)
        page.get_by_role("button", name="Where are they?").click()
        page.get_by_text(re.compile("No box for|Where the model sees them")).first.wait_for()
        page.get_by_label("those chosen below").check()
        page.locator("tr.tr-body").first.click()  # the same example once more
        expect(page.get_by_label("what the example shows")).to_be_checked(timeout=WAIT)
        query(page, photo)  # one's own photo: what it shows is not known
        expect(page.get_by_label("those chosen below")).to_be_checked(timeout=WAIT)


def test_two_visitors_at_once(browser, toys):
    address, photo, concepts = toys
    with visitor(browser, address) as anna, visitor(browser, address) as ben:
        add(anna, concepts[0].image, "anna dog", "private")
        add(ben, concepts[1].image, "ben cat", "secret")
        for page in (anna, ben):
            query(page, photo)
            page.get_by_role("button", name="Caption", exact=True).click()
        for page, own, others in ((anna, "anna dog", "ben cat"), (ben, "ben cat", "anna dog")):
            page.get_by_text("First word after").last.wait_for()
            text = page.locator("body").inner_text()
            assert own in text and others not in text


def test_stop(browser, folder):
    captioner = FakeCaptioner("word " * 600, pause=0.05)
    app = build_live(captioner, ConceptDatabase.load(folder / "database.json"))
    with running(app) as address, visitor(browser, address) as page:
        query(page, folder / "q1.png")
        page.get_by_role("button", name="Caption", exact=True).click()
        page.get_by_text("word word word").wait_for()
        page.get_by_role("button", name="Stop").click()
        for _ in range(200):
            if not captioner.running:
                break
            page.wait_for_timeout(50)
        assert captioner.stopped == 1 and not captioner.running
        words = page.locator("#repic-caption").inner_text().count("word")
        page.wait_for_timeout(500)
        assert 3 <= page.locator("#repic-caption").inner_text().count("word") == words < 600


def test_bad_uploads_and_a_full_queue_are_polite(browser, folder, monkeypatch):
    monkeypatch.setattr("repic_core.demo.live.QUEUE", 1)
    captioner = FakeCaptioner("word " * 600, pause=0.05)
    app = build_live(captioner, ConceptDatabase.load(folder / "database.json"))
    for name in ("bomb.png", "text.png", "moving.gif"):
        (folder / name).write_bytes(hostile()[name])
    with running(app) as address, visitor(browser, address) as page:
        for name, said in (
            ("bomb.png", "more than"),
            ("text.png", "not a photo"),
            ("moving.gif", "2 frames"),
        ):
            page.locator("input[type=file]").first.set_input_files(folder / name)
            toast(page, said)
            page.get_by_label("Drop an image file here to upload").first.wait_for()  # ready for another
        shot(page, "live-refused")
        query(page, folder / "q1.png")
        pages = [page]
        with visitor(browser, address) as second, visitor(browser, address) as third:
            pages += [second, third]
            for one in pages[1:]:
                query(one, folder / "q1.png")
            for one in pages:
                one.get_by_role("button", name="Caption", exact=True).click()
                one.wait_for_timeout(700)
            toast(third, re.compile("busy|full"))
            shot(third, "live-full")
            for one in pages[:2]:
                one.get_by_role("button", name="Stop").click()


def test_webcam_and_clipboard(browser, folder):
    app = build_live(FakeCaptioner(), ConceptDatabase.load(folder / "database.json"))
    with running(app) as address, visitor(browser, address) as page:
        page.context.grant_permissions(["camera", "clipboard-read", "clipboard-write"])
        page.get_by_label("Capture from camera").first.click()
        page.get_by_text("Webcam").last.click()
        video = "document.querySelector('[data-testid=webcam-video]')"
        page.wait_for_function(f"{video} && {video}.videoWidth > 0 && !{video}.paused")
        page.get_by_role("button", name="capture photo").click()
        page.locator("#repic-query img").wait_for()
        assert "First word after" in caption(page)
        page.reload()
        page.evaluate(
            """async () => {
              const canvas = Object.assign(document.createElement("canvas"), {width: 50, height: 40});
              canvas.getContext("2d").fillRect(0, 0, 9, 9);
              const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
              await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
            }"""
        )
        page.get_by_label("Paste from clipboard").first.click()
        page.locator("#repic-query img").wait_for()
        assert "First word after" in caption(page)


def test_by_keyboard_alone(browser, folder):
    app = build_live(FakeCaptioner(), ConceptDatabase.load(folder / "database.json"))
    with running(app) as address, visitor(browser, address) as page:
        query(page, folder / "q1.png")
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText")
            )
            if (reached[-1] or "").strip() == "Concepts that it may show":
                page.keyboard.type("Mia")
                page.keyboard.press("Enter")
                page.keyboard.press("Escape")
            if (reached[-1] or "").strip() == "Caption" and "Stop" not in reached and len(reached) > 3:
                page.keyboard.press("Enter")
                break
        page.get_by_text("First word after").wait_for()
        assert "Mia Rose" in page.locator("#repic-caption").inner_text()


def test_hostile_texts_do_nothing(browser, folder):
    """`folder` has hostile names and infos; the caption has them, too. A dialog or a script's error fails."""
    app = build_live(
        FakeCaptioner(f"{SCRIPT} {ONERROR} <bo>"),
        ConceptDatabase.load(folder / "database.json"),
        title=SCRIPT,
    )
    with running(app) as address, visitor(browser, address) as page:
        add(page, folder / "q2.png", 'img src=x onerror="alert(5)"', ONERROR)
        query(page, folder / "q1.png")
        caption(page)
        text = page.locator("body").inner_text()
        assert SCRIPT in text and "onerror" in text
        assert page.locator("img[src=x]").count() == 0
        (folder / "<img src=x onerror=alert(6)>.png").write_bytes(b"no photo")
        page.locator("input[type=file]").first.set_input_files(folder / "<img src=x onerror=alert(6)>.png")
        page.get_by_test_id("toast-body").first.wait_for()
        assert page.locator("img[src=x]").count() == 0


def viewer(folder):
    files = {f"ours {ONERROR}": folder / "ours.json", "base": folder / "base.json"}
    return build_viewer(files, folder / "database.json", folder)


def test_viewer(browser, folder):
    with running(viewer(folder)) as address, visitor(browser, address) as page:
        page.get_by_text("Mia Rose").first.wait_for()
        # The row that the address asks for is shown, and keys are heard: nothing is under way any more.
        page.goto(f"{address}?row=3")
        page.get_by_text("gone.png is missing").wait_for()
        page.wait_for_function("window.repicKeys")
        page.locator("h1").click()
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**row=1")
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**row=2")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**row=1")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**row=3")
        page.get_by_text("gone.png is missing").wait_for()
        page.get_by_label("Rows where it ...").click()
        page.get_by_role("option", name="names a wrong concept").click()
        page.get_by_text("1 of 3 rows fit").wait_for()
        page.wait_for_url("**row=2")
        shot(page, "viewer")
        page.goto(f"{address}?row=3")
        page.get_by_text("gone.png is missing").wait_for()
        assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_contrast_labels_and_width(browser, folder, width, scheme):
    """WCAG 2 A and AA by axe-core, in each tab; nothing is wider than the screen."""
    from axe_playwright_python.sync_playwright import Axe

    def check(page, name):
        shot(page, f"{name}-{width}-{scheme}")
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
        assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    database = ConceptDatabase.load(folder / "database.json")
    both = {"First": FakeCaptioner(), "Second": FakeCaptioner("Somebody.")}
    app = build_live(both, database, [(folder / "q1.png", ["<bo>", "<mia>"])], find=lambda photo, shelf: [])
    with running(app) as address, visitor(browser, address, width, scheme) as page:
        assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        page.locator("tr.tr-body").first.click()
        page.get_by_text("Mia Rose").first.wait_for()
        page.locator("#repic-query img").wait_for()  # the example is set: a caption has what it needs
        page.wait_for_load_state("networkidle")
        caption(page, models=2)
        check(page, "live")
        tab(page, "Your concepts")
        page.get_by_text("Given to everybody: 3").wait_for()
        check(page, "shelf")
    with running(viewer(folder)) as address, visitor(browser, address, width, scheme) as page:
        page.get_by_text("Mia Rose").first.wait_for()
        check(page, "viewer")
