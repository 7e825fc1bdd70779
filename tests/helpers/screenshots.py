"""Makes the README's screenshots of both pages from a run of ``bash setup.sh demo``; needs Debian's ``chromium``.

``PYTHONPATH=tests .venv/bin/python tests/helpers/screenshots.py [runs/tiny] [assets]``
"""

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from demo.test_browser import CHROMIUM, FLAGS, add, caption, query, running, tab, visitor
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.finder import Finder
from repic_core.demo.live import build_live
from repic_core.demo.viewer import build_viewer
from repic_core.io.files import replaced
from repic_core.models.loading import load_model
from repic_core.retrieval.regions import windows
from repic_core.toyworld.retrieval import toy_embedder


def save(page, path: Path) -> None:
    """The whole page, in 256 colours (there are no photographs in it)."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)
    page.screenshot(path=path, full_page=True)
    image = Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with replaced(path) as file:
        image.save(file, "PNG", optimize=True)


def main(run: Path, out: Path) -> None:
    test = run / "data" / "test"
    database = ConceptDatabase.load(test / "database.json")
    scene = json.loads((test / "queries.json").read_text(encoding="utf-8"))["4 all"][0]
    truth = json.loads((test / "truth.json").read_text(encoding="utf-8"))[scene["query"]]
    looks = {thing["tag"]: thing["description"] for thing in truth["objects"]}
    model, processor = load_model("assets/toy-base", adapter=run / "models" / "grpo")
    base, _ = load_model("assets/toy-base")
    models = {
        name: PrefixCaptioner(one, processor, system=None, max_new_tokens=112)
        for name, one in (("GRPO", model), ("Base", base))
    }
    find = Finder(ConceptDatabase(), toy_embedder(model, processor), windows)
    captions = {arm: run / "captions" / arm / "4_all.json" for arm in ("base", "tuned")}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as shelves:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        app = build_viewer(captions, test / "database.json", test)
        with running(app) as address, visitor(browser, address) as page:
            page.goto(f"{address}?row=4")
            page.get_by_text("of 4 names").first.wait_for()
            save(page, out / "page_viewer.png")
        with running(build_live(models, find=find, shelves=shelves)) as address:
            with visitor(browser, address) as page:
                for tag, look in looks.items():
                    add(page, database[tag].image, database[tag].name, look)
                query(page, test / scene["query"])
                caption(page, models=2)
                page.get_by_role("button", name="Caption", exact=True).click()
                page.get_by_text("the references were read before").last.wait_for()
                page.get_by_role("button", name="Where are they?").click()
                page.get_by_text("Where the model sees them").wait_for()
                save(page, out / "page_live.png")
                state = page.context.storage_state()
            context = browser.new_context(
                viewport={"width": 390, "height": 900}, color_scheme="dark", storage_state=state
            )
            phone = context.new_page()
            phone.goto(f"{address}?__theme=dark")
            tab(phone, "Your concepts")
            phone.get_by_text("Yours: 4").wait_for()
            save(phone, out / "page_shelf.png")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given + [Path("runs/tiny"), Path("assets")][len(given) :]))
