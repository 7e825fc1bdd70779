"""``repic benchmark captions``: the rows are shaped as said, all cases give the same captions, or it fails."""

import json

import pytest

pytest.importorskip("openai", reason="the package openai (extra judges) is not installed")

from helpers.stub_server import stub_server
from repic_core.benchmarks.captions import draw, run
from repic_core.cli import main

SMALL = ["--preset", "toy", "--repeats", "1", "--rows", "5", "--references", "2", "--tokens", "6"]


def test_the_rows_are_those_of_the_papers_setting(tmp_path):
    items = draw(tmp_path, 0, 105, 4)
    assert len(items) == 105 and len({item.query for item in items}) == 4
    assert all(len({concept.tag for concept in item.references}) == 4 for item in items)
    shown = [photo for item in items for photo in (item.query, *(c.image for c in item.references))]
    assert len(shown) == 525 and len(set(shown)) == 36


def test_a_table_of_all_cases(served, capsys, tmp_path):
    more = ["--batch-size", "2", "--server", served, "--model", "assets/toy-base"]
    assert main(["benchmark", "captions", *SMALL, *more, "--out", str(tmp_path / "a.json")]) == 0
    lines = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines == ["| toy", "| each row on its own", "| photos once", "| kept references", "| server"]
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["ratios"]["each row on its own"] == 1
    assert found["machine"]["device"] and all(value > 0 for value in found["seconds"].values())


def test_other_captions_are_an_error():
    with (
        stub_server(lambda text, before: "something else") as server,
        pytest.raises(RuntimeError, match="server: its captions are not those of `each row on its own`"),
    ):
        run("toy", 1, 2, 1, 4, 2, server.url, "m")


def test_a_server_needs_a_model(capsys):
    assert main(["benchmark", "captions", "--server", "http://127.0.0.1:9/v1"]) == 2
    assert capsys.readouterr().err == "repic benchmark captions: --server and --model go together\n"
