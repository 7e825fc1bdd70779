r"""One ``\ud83d`` in a caption (an emoji that a program cut in two) stops nothing: it can't be written as UTF-8."""

import json

import pytest
from PIL import Image

from helpers.pages import served
from repic_core.captioner.caption_files import CaptionRecord, load_captions
from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.viewer import build_viewer
from repic_core.display.caption_grid import GridRow, caption_grid
from repic_core.display.html import caption_card, photo
from repic_core.evaluation.judges import text_part
from repic_core.evaluation.preference import preference_messages
from repic_core.evaluation.questions import question_messages
from repic_core.evaluation.scores import score
from repic_core.io import tables
from repic_core.io.files import write_json_atomic, write_records, write_text_atomic

HALF, NO_UTF8 = "\ud83d", "\udce4"  # the latter is of a file name that is not UTF-8
FOUND = "\ufffd"


@pytest.fixture
def folder(tmp_path):
    """Photos, a database of <bo>, and captions with half an emoji where one can be."""
    for name in ("bo.png", "q.png"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    known = ConceptDatabase([Concept("<bo>", "bo", str(tmp_path / "bo.png"))], root=tmp_path)
    known.save(tmp_path / "database.json")
    rows = [["q.png", ["<bo>"], f"<bo> naps. {HALF}", f"Who? {HALF}"]]
    rows += [[f"gone{half}.png", ["<bo>"], HALF, ""] for half in (HALF, NO_UTF8)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))  # as JSON writes it: \ud83d
    return tmp_path


def test_the_viewer_shows_all_rows(folder):
    app = build_viewer({f"mine{HALF}": folder / "mine.json"}, folder / "database.json", folder)
    with served(app) as (client, _):
        number, html, summary = client.predict(1, api_name="/show")
        assert number == 1 and f"naps. {FOUND}" in html and f"Who? {FOUND}" in html
        assert f"mine{FOUND}" in html and f"mine{FOUND}" in summary
        number, html, _ = client.predict(1, "any", f"gone{FOUND}", "any", "all", api_name="/next")
        assert number == 2 and f"gone{FOUND}.png is missing" in html
        number, html, _ = client.predict(3, api_name="/show")
        assert number == 3 and f"gone{FOUND}.png is missing" in html


def test_html_and_figures_can_be_written(folder, tmp_path):
    html = caption_card(
        f"m{HALF}", f"<bo>{HALF}", ["<bo>"], {"<bo>": "#000000"}, [Concept("<bo>", "bo", "b.png")]
    )
    html += photo(tmp_path / f"gone{HALF}.png", "gone")
    assert html.count(FOUND) == 3
    html.encode()
    row = GridRow(folder / "q.png", [], {f"m{HALF}": f"a dog {HALF}", "n": None}, f"Who? {HALF}", [])
    assert row.captions[f"m{HALF}"] == f"a dog {FOUND}" and row.question == f"Who? {FOUND}"
    caption_grid([row], tmp_path / "figure")
    assert (tmp_path / "figure.pdf").exists()


def test_scores_and_tables(folder, tmp_path, capsys):
    rows = json.loads((folder / "mine.json").read_text())
    assert score(folder / "mine.json").recall == score(rows).recall == 1 / 3
    assert score([CaptionRecord("a", ("<bo>",), f"<bo>{HALF}")]).recall == 1.0
    assert load_captions(folder / "mine.json")[0].caption == f"<bo> naps. {FOUND}"
    out = ["--latex", str(tmp_path / "t.tex"), "--csv", str(tmp_path / "t.csv")]
    assert main(["score", str(folder / "mine.json"), *out]) == 0
    capsys.readouterr()


def test_what_is_written_can_be_read(tmp_path):
    """JSON keeps it as its own escape; other text shows that escape."""
    value = {"caption": f"a dog {HALF}", "name": "Zoë 🐕"}
    path = write_json_atomic(tmp_path / "a.json", value)
    assert json.loads(path.read_text(encoding="utf-8")) == value and "Zoë 🐕" in path.read_text(
        encoding="utf-8"
    )
    path = write_records(tmp_path / "a.jsonl", [value])
    assert json.loads(path.read_text(encoding="utf-8")) == value
    for text in (tables.markdown, tables.csv_text, tables.latex):
        path = write_text_atomic(tmp_path / "a.txt", text(["a"], [[HALF]]))
        assert "ud83d" in path.read_text(encoding="utf-8")


def test_a_judge_is_asked_all_the_same(folder):
    """The client sends UTF-8."""
    concept = Concept("<bo>", "bo", str(folder / "bo.png"))
    asked = [
        text_part(f"a {HALF}"),
        *preference_messages(folder / "q.png", f"a {HALF}", HALF, [concept]),
        *question_messages(f"a {HALF}", f"Who {HALF}?", ["a", HALF]),
    ]
    json.dumps(asked, ensure_ascii=False).encode()
    assert asked[0]["text"] == f"a {FOUND}"
