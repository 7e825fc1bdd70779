"""The pages: hostile text stays text, the viewer needs no torch, the live page streams, stops and queues."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from html import unescape
from html.parser import HTMLParser

import pytest
from gradio_client.exceptions import AppError
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from repic_core.concepts import Concept, ConceptDatabase, ConceptError
from repic_core.demo import page
from repic_core.demo.__main__ import main
from repic_core.demo.viewer import build_viewer, published_files
from repic_core.figures import concept_colors
from repic_core.models import PAPER_MAX_PIXELS

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


@pytest.fixture
def folder(tmp_path):
    """A database of three concepts with hostile texts, three photos, and captions of two methods."""
    for name, color in (("bo", "red"), ("mia", "green"), ("zoe", "blue"), ("q1", "gray"), ("q2", "white")):
        Image.new("RGB", (300, 240), color).save(tmp_path / f"{name}.png")
    entries = {
        "<bo>": {"name": SCRIPT, "image": "bo.png", "info": ONERROR, "category": ""},
        "<mia>": {"name": "Mia Rose", "image": "mia.png", "info": TEMPLATES, "category": ""},
        "<zoe>": {"name": "zoe", "image": "zoe.png", "info": "", "category": ""},
    }
    (tmp_path / "database.json").write_text(json.dumps({"concept_dict": entries}))
    both = ["<bo>", "<mia>"]
    ours = [
        ["q1.png", both, f"<bo> and Mia Rose {SCRIPT}{ONERROR}{TEMPLATES}", "What?"],
        ["q2.png", both, "Mia Rose with <zoe>.</s>", SCRIPT],
        ["gone.png", both, "nobody", "What?"],
    ]
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    (tmp_path / "base.json").write_text(json.dumps(ours[2:]))
    return tmp_path


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


def viewer(folder, **methods):
    files = methods or {f"ours {ONERROR}": folder / "ours.json", "base": folder / "base.json"}
    return build_viewer(files, folder / "database.json", folder)


def test_viewer_runs_without_torch(folder):
    code = f"""
import sys
sys.modules["torch"] = None  # importing it is an error
from repic_core.demo.viewer import build_viewer
build_viewer({{"ours": {str(folder / "ours.json")!r}}}, {str(folder / "database.json")!r}, {str(folder)!r})
print([name for name in ("transformers", "trl", "peft", "matplotlib", "datasets") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_importing_the_demo_is_light():
    code = "import sys, repic_core.demo.viewer, repic_core.demo.live, repic_core.demo.__main__; print(*sys.modules)"
    names = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not names & {"torch", "transformers", "gradio", "matplotlib", "numpy"}


def test_viewer_shows_a_row_and_leafs_through(folder):
    with served(viewer(folder)) as (client, _):
        number, html, summary = client.predict(2, api_name="/show")
        assert number == 2
        # ours names Mia Rose and, wrongly, zoe; published: a miss because of the other name
        assert "repic-2 F1 0, span F1 50" in Reader(html).text
        assert "this row, span (%)" in Reader(summary).text
        shown = Reader(html)
        assert "Mia Rose with" in shown.text and "</s>" not in shown.text
        assert ("del", {"title": "not in the photo"}) in shown.elements  # <zoe>
        assert "Missing: <bo>" in shown.text and "1 of 2 names" in shown.text
        assert "base" in shown.text and "no caption" in shown.text
        colors = concept_colors(["<bo>", "<mia>"])
        frames = [a["style"] for tag, a in shown.elements if a.get("class") == "concept"]
        assert frames == [f"--concept: {color}" for color in colors.values()]
        names = [a.get("style") for tag, a in shown.elements if a.get("class") == "name"]
        assert names == [None, None, frames[1]]  # the two cards have it from their frame; then Mia Rose
        assert client.predict(3, api_name="/next")[0] == 1
        assert client.predict(1, api_name="/previous")[0] == 3
        assert client.predict(1, api_name="/next")[0] == 2
        with pytest.raises(AppError, match="greater than maximum"):
            client.predict(99, api_name="/show")
        assert {client.predict(api_name="/random")[0] for _ in range(40)} == {1, 2, 3}


def test_viewer_filters_rows(folder):
    base = [
        ["q1.png", ["<bo>", "<mia>"], f"{SCRIPT} with Mia Rose.", "What?"],
        ["q2.png", ["<zoe>"], "?", "?"],
    ]
    (folder / "base.json").write_text(json.dumps(base))
    ours, both = f"ours {ONERROR}", ["any", "any"]
    with served(viewer(folder)) as (client, _):

        def fit(*chosen, at=1):
            said, number, _, _ = client.predict(at, *chosen, api_name="/filter")
            return said.split(" rows")[0], number

        assert fit(*both, "any", "all") == ("4 of 4", 1)
        assert fit(1, "any", "any", "all") == ("1 of 4", 4)  # one concept
        assert fit("any", "gone", "any", "all") == ("1 of 4", 3)
        assert fit(*both, ours, "names everybody") == ("1 of 4", 1)
        assert fit(*both, "base", "names everybody", at=2) == ("1 of 4", 1)
        assert fit(*both, "base", "only it names everybody") == ("No row fits; all are as they were.", 1)
        assert fit(*both, ours, "names somebody wrong") == ("1 of 4", 2)  # zoe
        assert fit(*both, "base", "misses a name") == ("1 of 4", 4)
        chosen = ("any", "any", ours, "misses a name")
        assert client.predict(2, *chosen, api_name="/next")[0] == 3
        assert (
            client.predict(3, *chosen, api_name="/next")[0] == 2
        )  # the first that fits comes after the last
        assert client.predict(2, *chosen, api_name="/previous")[0] == 3
        assert {client.predict(1, *chosen, api_name="/random")[0] for _ in range(20)} == {2, 3}
        with pytest.raises(AppError):
            client.predict(1, "any", "any", "any", "no such kind", api_name="/filter")


def test_a_link_opens_its_row(folder):
    """The page's own load event reads ``?row=`` of the address; anything else opens the first row."""
    with served(viewer(folder)) as (_, address):
        config = json.loads(urllib.request.urlopen(f"{address}config").read())
        load = next(
            d["id"]
            for d in config["dependencies"]
            if ["load"] in [t[1:] for t in d["targets"]] and d["backend_fn"]
        )
        for asked, opened in (("?row=2", 2), ("?row=99", 1), ("?row=-1", 1), ("?row=<script>", 1), ("", 1)):
            assert opened_row(address, load, asked) == opened


def opened_row(address: str, load: int, query: str) -> int:
    """What the load event gives to a browser whose address ends with `query`."""
    query = query.replace("<", "%3C").replace(">", "%3E")
    session = {"data": [], "fn_index": load, "session_hash": f"s{abs(hash(query))}"}
    url = f"{address}gradio_api/queue/join{query}"
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(session).encode(), headers)).read()
    stream = urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session['session_hash']}")
    for line in stream:
        event = json.loads(line.decode().removeprefix("data: ")) if line.startswith(b"data: ") else {}
        if event.get("msg") == "process_completed":
            return event["output"]["data"][0]
    raise AssertionError("the page's load event gave no answer")


def test_viewer_serves_nothing_else(folder):
    with served(viewer(folder)) as (_, address):
        assert address.startswith("http://127.0.0.1:")
        assert urllib.request.urlopen(address).status == 200
        for path in (folder / "database.json", folder / "q1.png", "/etc/hostname"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"{address}gradio_api/file={path}")
            assert error.value.code in (403, 404)


def test_missing_photos_have_a_placeholder(folder):
    (folder / "zoe.png").write_text("no image")
    (folder / "ours.json").write_text(json.dumps([["gone.png", ["<zoe>", "<new>"], "hm", "?"]]))
    with served(viewer(folder, ours=folder / "ours.json")) as (client, _):
        html = client.predict(1, api_name="/show")[1]
    text = Reader(html).text
    assert "gone.png is missing or unreadable" in text and "zoe.png is missing or unreadable" in text
    assert "not in the database" in text


def test_hostile_text_stays_text(folder):
    with served(viewer(folder)) as (client, address):
        pages = [client.predict(n, api_name="/show")[1] for n in (1, 2)]
        config = json.loads(urllib.request.urlopen(f"{address}config").read())
    values = [c["props"]["value"] for c in config["components"] if c["type"] == "html"]
    assert len(values) == 3  # title, table, row
    for html in (*pages, *values):
        for tag, attributes in Reader(html).elements:
            assert tag != "script"
            assert not any(name.startswith("on") for name in attributes)
            assert tag != "img" or attributes["src"].startswith("data:image/")
    first = Reader(pages[0]).text
    for text in (SCRIPT, ONERROR, TEMPLATES):
        assert first.count(text) >= 2  # where it is stored (name or info), and in the caption
    assert f"ours {ONERROR}" in first and SCRIPT in Reader(pages[1]).text


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text(min_size=1))
def test_any_caption_comes_out_as_it_is(caption, name):
    try:
        candidates = [Concept("<bo>", "bo", "bo.png"), Concept("<x>", f"x {name}", "x.png")]
    except ConceptError:  # a control token
        reject()
    html, missing = page.color_names(caption, ["<bo>"], {"<bo>": "#000000"}, candidates)
    assert "".join(unescape(part) for part in html_text(html)) == caption
    assert missing in ([], ["<bo>"])
    assert {tag for tag, _ in Reader(html).elements} <= {"span", "del"}


@pytest.mark.parametrize("tag", ["<bo>", "<mia>"])  # shown, and struck out
def test_text_before_between_and_after_names_is_escaped(tag):
    candidates = [Concept("<bo>", "bo", "bo.png"), Concept("<mia>", "mia", "mia.png")]
    text = f"{SCRIPT}& {tag} {ONERROR} {tag} {SCRIPT}"
    html, _ = page.color_names(text, ["<bo>"], {"<bo>": "#000000"}, candidates)
    seen = Reader(html)
    assert seen.text == text
    assert [element for element, _ in seen.elements] == ["span" if tag == "<bo>" else "del"] * 2


def html_text(html: str) -> list[str]:
    """The pieces between the tags that `color_names` writes."""
    import re

    return re.split(r"</?(?:span|del)\b[^<>]*>", html)


def test_photos_lose_their_exif(tmp_path):
    import base64

    exif = Image.Exif()
    exif[0x9286] = "a secret place"
    exif[0x0112] = 6
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg", exif=exif, comment=b"a secret comment")
    data = base64.b64decode(page.photo(tmp_path / "a.jpg", "a").split("base64,")[1].split('"')[0])
    assert b"secret" not in data and b"Exif" not in data
    (tmp_path / "a.jpg").write_bytes(data)
    assert Image.open(tmp_path / "a.jpg").size == (300, 400)


def test_summary_has_the_published_numbers(official_root):
    files, database = published_files(official_root)
    app = build_viewer(files, database, official_root)
    values = [c["props"]["value"] for c in app.get_config_file()["components"] if c["type"] == "html"]
    cells = [part.split("</t")[0] for part in values[1].split("<t")]
    row = [cell.rpartition(">")[2] for cell in cells]
    start = row.index("RePIC 7B")
    assert row[start + 1 : start + 4] == ["88.0", "59.5", "71.0"]
    assert list(files) == [
        "RePIC 7B",
        "Qwen2.5-VL 7B zero-shot",
        "RAP-Qwen 7B 260K",
        "RAP-LLaVA 13B 260K",
        "RAP-LLaVA 13B 2K",
    ]
    assert values[2].count("<img") == 5 and "is missing" not in values[2]


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_command_says_what_is_wrong(folder, capsys):
    database = ("--root", folder, "--database", folder / "database.json")
    (folder / "half.json").write_text((folder / "ours.json").read_text()[:200])
    bad = {
        "half.json": ("viewer", *database, "--captions", folder / "half.json"),
        "none.json": ("viewer", *database, "--captions", folder / "none.json"),
        "NAME=FILE": ("viewer", *database, "--captions", folder / "ours.json", folder / "x" / "ours.json"),
        "needs --database": ("viewer", "--captions", folder / "ours.json"),
        "quad_concept": ("viewer", "--root", folder),
        "database.json": ("live", "--model", "none", "--database", folder / "no" / "database.json"),
    }
    for message, arguments in bad.items():
        assert run(*arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.startswith("failed: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "limit"),
    [((), PAPER_MAX_PIXELS), (("--max-pixels", 9216), 9216), (("--max-pixels", 0), None)],
)
def test_live_loads_with_the_published_image_limit(folder, monkeypatch, options, limit):
    loaded, launched = {}, []

    def load(name, **settings):
        loaded.update(settings, name=name)
        return None, None

    monkeypatch.setattr("repic_core.models.load_model", load)
    monkeypatch.setattr("repic_core.demo.launch", lambda app, **settings: launched.append(settings))
    assert run("live", "--model", "m", "--database", folder / "database.json", *options) == 0
    assert loaded == {"name": "m", "adapter": None, "max_pixels": limit} and launched == [
        {"server_port": None}
    ]


def test_published_files_are_captions_only(tmp_path):
    captions, database = (
        tmp_path / "captioning/quad_concept",
        tmp_path / "data/database_tot/database_4_concepts",
    )
    for part in (captions, database):
        part.mkdir(parents=True)
    for path in (captions / "a.json", captions / "a.settings.json", database / "database_mod.json"):
        path.write_text("[]")
    assert list(published_files(tmp_path)[0]) == ["a"]


def test_empty_caption_file_is_refused(folder):
    (folder / "ours.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no captions in .*ours\.json"):
        viewer(folder, ours=folder / "ours.json")


class FakeCaptioner:
    """Streams `text` word by word; counts how many run at once and how often one was stopped."""

    def __init__(self, text="A <bo> and Mia Rose.", pause=0.0, error=None):
        self.text, self.pause, self.error = text, pause, error
        self.calls, self.running, self.most, self.stopped = [], 0, 0, 0
        self.lock = threading.Lock()

    def stream(self, query, references, question):
        self.calls.append((query.size, [c.tag for c in references], question))
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            if self.error:
                raise self.error
            words = self.text.split(" ")
            for i in range(len(words)):
                yield " ".join(words[: i + 1])
                time.sleep(self.pause)
        except GeneratorExit:
            self.stopped += 1
            raise
        finally:
            with self.lock:
                self.running -= 1


def live(folder, captioner):
    from repic_core.demo.live import build_live

    return build_live(captioner, ConceptDatabase.load(folder / "database.json"))


def ask(folder, client, tags=("<bo>", "<mia>"), question="What?", photo="q1.png"):
    from gradio_client import handle_file

    return client.submit(handle_file(folder / photo), list(tags), question, api_name="/caption")


def test_live_streams_colored_names(folder):
    captioner = FakeCaptioner()
    with served(live(folder, captioner)) as (client, _):
        job = ask(folder, client)
        job.result()
        steps = [Reader(html).text for html in job.outputs()]
        cards = Reader(client.predict(["<bo>", "<mia>"], api_name="/concepts"))
    assert captioner.calls == [((300, 240), ["<bo>", "<mia>"], "What?")]
    assert ["A" in steps[0], "Mia Rose" in steps[0], "A <bo> and Mia Rose." in steps[-1]] == [
        True,
        False,
        True,
    ]
    assert "Not named: <bo>, <mia>" in steps[0] and "Not named" not in steps[-1]
    assert SCRIPT in cards.text and ONERROR in cards.text and "script" not in dict(cards.elements)


def test_live_escapes_what_the_model_says(folder):
    with served(live(folder, FakeCaptioner(SCRIPT + ONERROR))) as (client, _):
        html = ask(folder, client).result()
    assert SCRIPT + ONERROR in Reader(html).text
    assert not {"script", "img"} & {tag for tag, _ in Reader(html).elements}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("the question holds the control token '<|im_end|>'"), "&lt;|im_end|&gt;"),
        (RuntimeError("secret path"), "the log says why"),
    ],
)
def test_live_errors_are_messages(folder, error, message):
    with served(live(folder, FakeCaptioner(error=error))) as (client, _):
        with pytest.raises(AppError) as caught:
            ask(folder, client).result()
        assert message in str(caught.value) and "secret" not in str(caught.value)
        with pytest.raises(AppError, match="Ask something"):
            ask(folder, client, question=" ").result()
        with pytest.raises(AppError, match="Add a photo"):
            client.predict(None, [], "What?", api_name="/caption")


def test_live_captions_one_visitor_at_a_time(folder):
    captioner = FakeCaptioner(pause=0.05)
    with served(live(folder, captioner)) as (client, _):
        jobs = [ask(folder, client) for _ in range(4)]
        assert len({job.result() for job in jobs}) == 1
    assert captioner.most == 1 and len(captioner.calls) == 4


def test_stopping_stops_the_model(folder):
    captioner = FakeCaptioner("word " * 400, pause=0.05)
    with served(live(folder, captioner)) as (client, _):
        job = ask(folder, client)
        deadline = time.monotonic() + 30
        while not job.outputs() and time.monotonic() < deadline:
            time.sleep(0.02)
        job.cancel()
        while captioner.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert captioner.running == 0 and captioner.stopped == 1
        captioner.text = "done"
        assert "done" in ask(folder, client).result()


def test_live_finds_concepts_and_draws_where_they_are(folder, monkeypatch):
    from gradio_client import handle_file

    from repic_core.concept_index import Hit
    from repic_core.demo import live as module

    known = ConceptDatabase.load(folder / "database.json")
    captioner, seen = FakeCaptioner(), []
    captioner.model, captioner.processor = "model", "processor"

    def locate(model, processor, photo, concepts):
        seen.append((model, processor, photo.size, [concept.tag for concept in concepts]))
        return [(10.4, 20, 110, 220), None]

    import gradio

    said = []
    monkeypatch.setattr(gradio, "Info", said.append)
    monkeypatch.setattr(module, "locate", locate)
    found = [[Hit("<mia>", 0.9), Hit("<zoe>", 0.8)], []]
    app = module.build_live(captioner, known, find=lambda photo: found.pop(0))
    photo = handle_file(folder / "q1.png")
    with served(app) as (client, _):
        assert client.predict(photo, api_name="/find") == ["<mia>", "<zoe>"]
        assert client.predict(photo, api_name="/find") == []
        boxes = client.predict(photo, ["<mia>", "<zoe>"], api_name="/where")
        with pytest.raises(AppError, match="Add a photo, and choose concepts"):
            client.predict(photo, [], api_name="/where")
        with pytest.raises(AppError, match="Add a photo to look"):
            client.predict(None, api_name="/find")
    assert seen == [("model", "processor", (300, 240), ["<mia>", "<zoe>"])]
    assert said[0].startswith("No known concept") and "No box for &lt;zoe&gt;" in said[1]
    assert [one["label"] for one in boxes.get("value", boxes)["annotations"]] == ["<mia>"]


def test_the_command_serves_a_page_that_finds(folder, monkeypatch, tmp_path):
    from repic_core import demo
    from repic_core.toyworld.dataset import write_heldout

    write_heldout(tmp_path / "toys", "val", n=1)
    launched = []
    monkeypatch.setattr(demo, "launch", lambda app, **options: launched.append((app, options)))
    toys = ("--database", tmp_path / "toys/database.json", "--system", "none", "--max-pixels", 0)
    assert run("live", "--model", "assets/toy-base", *toys, "--retrieve", 2, "--side", 40) == 0
    names = [d["api_name"] for d in launched[0][0].get_config_file()["dependencies"]]
    assert {"find", "where", "caption", "concepts"} <= set(names)
