"""The pages: hostile text stays text, the viewer needs no torch, the live page streams, stops and queues."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from html import unescape

import pytest
from gradio_client.exceptions import AppError
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.pages import ONERROR, SCRIPT, TEMPLATES, Reader, served
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.demo.viewer import build_viewer
from repic_core.display import html as page
from repic_core.display.caption_grid import concept_colors
from repic_core.evaluation.published import SETS, published_files


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
    code = (
        "import sys, repic_core.demo.viewer, repic_core.demo.live, repic_core.cli.demo; print(*sys.modules)"
    )
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


def test_viewer_strikes_names_that_are_in_no_database(folder):
    said = "<bo> and Mia Rose < <bowa>, <Wanda Maximoff>."
    (folder / "ours.json").write_text(json.dumps([["q1.png", ["<bo>", "<mia>"], said, "What?"]]))
    with served(viewer(folder, ours=folder / "ours.json")) as (client, _):
        html = client.predict(1, api_name="/show")[1]
        fits = client.predict(1, "any", "any", "any", "names a wrong concept", api_name="/filter")[0]
    assert html.count("<del") == 2 and "2 of 2 names" in Reader(html).text
    for name in ("bowa", "Wanda Maximoff"):
        assert f'<del title="not in the photo">&lt;{name}&gt;</del>' in html
    assert fits.startswith("1 of 1")


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
        assert fit(*both, ours, "names every concept") == ("1 of 4", 1)
        assert fit(*both, "base", "names every concept", at=2) == ("1 of 4", 1)
        only = "is the only one to name every concept"
        assert fit(*both, "base", only) == ("No row fits; nothing has changed.", 1)
        assert fit(*both, ours, "names a wrong concept") == ("1 of 4", 2)  # zoe
        assert fit(*both, "base", "misses a concept") == ("1 of 4", 4)
        chosen = ("any", "any", ours, "misses a concept")
        assert client.predict(2, *chosen, api_name="/next")[0] == 3
        # After the last row that fits comes the first.
        assert client.predict(3, *chosen, api_name="/next")[0] == 2
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
    # <script> is a name of no concept.
    marks = ["del", *["span" if tag == "<bo>" else "del"] * 2, "del"]
    assert [element for element, _ in seen.elements] == marks


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


def test_a_note_is_shown_as_text(folder):
    files = ({"ours": folder / "ours.json"}, folder / "database.json", folder)

    def shown(*note):
        components = build_viewer(*files, *note).get_config_file()["components"]
        return [c["props"]["value"] for c in components if c["type"] == "html"]

    plain, noted = shown(), shown(f"RAP {SCRIPT}")
    assert len(noted) == len(plain) + 1
    note = Reader(noted[2])  # after the title and the table
    assert note.text == f"RAP {SCRIPT}" and [tag for tag, _ in note.elements] == ["div", "p"]


def test_the_published_two_concept_captions_in_the_viewer(double_concept_root):
    files, database = published_files(double_concept_root, concepts=2)
    app = build_viewer(files, database, double_concept_root, SETS["2-concepts"].note)
    text = " ".join(c["props"]["value"] for c in app.get_config_file()["components"] if c["type"] == "html")
    assert "2 concepts, 82 rows" in text and "210K" in text and "repic-2 (%)" in text


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
