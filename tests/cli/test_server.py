"""``--server``: what each command asks a server, says of it, and refuses."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("openai", reason="the package openai (extra judges) is not installed")

from helpers.stub_server import stub_server
from repic_core.captioner.caption_files import load_captions
from repic_core.captioner.endpoint import EndpointCaptioner
from repic_core.cli import main
from repic_core.prompts import OCT_SUFFIX
from repic_core.toyworld.dataset import write_heldout
from repic_core.toyworld.field_questions import write_field_questions


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The authors' layout with one setting of toys."""
    root = tmp_path_factory.mktemp("RePIC")
    write_heldout(root / "toys", "val", n=3)
    known = json.loads((root / "toys/database.json").read_text())["concept_dict"]
    for entry in known.values():
        entry["image"] = f"./toys/{entry['image']}"
    (root / "data/database_tot/database_yollava").mkdir(parents=True)
    (root / "data/query_tot").mkdir()
    database = root / "data/database_tot/database_yollava/database_mod.json"
    database.write_text(json.dumps({"concept_dict": known}))
    queries = json.loads((root / "toys/queries.json").read_text())["1"]
    rows = {f"./toys/{query['query']}": query["references"] for query in queries}
    (root / "data/query_tot/yollava_query_templates.json").write_text(json.dumps(rows))
    return root


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("repic_core.models.loading.load_model", load)


@pytest.fixture
def server():
    with stub_server(lambda text, before: f"A photo of a bo. {len(text)}") as running:
        yield running


def test_caption(toys, server, tmp_path, capsys):
    scenes = sorted(map(str, (toys / "toys").rglob("*.png")))[:3]
    out = tmp_path / "captions.json"
    asked = ["caption", *scenes, "--database", str(toys / "toys/database.json"), "--concepts"]
    tag = next(iter(json.loads((toys / "toys/database.json").read_text())["concept_dict"]))
    asked += [tag, "--out", str(out), "--server", server.url, "--model", "some/model"]
    assert main([*asked, "--concurrency", "2", "--prices", "1", "10", "--request", "seed=3"]) == 0
    printed = capsys.readouterr()
    assert printed.err.endswith("300 prompt tokens, 21 completion tokens, cost 0.0005\n")
    captions = [record.caption for record in load_captions(out)]
    assert [line.split("\t")[1] for line in printed.out.splitlines()] == captions
    assert all(caption.startswith("A photo of a bo.") for caption in captions)
    body = server.requests[0][2]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == (
        "some/model",
        0,
        1024,
        3,
    )
    system, user = body["messages"]  # those of any other model than the toy
    assert system["content"].startswith("You are a captioning assistant")
    assert [block["type"] for block in user["content"]] == ["image_url", "text", "image_url", "text"]


def test_evaluate(toys, server, tmp_path, capsys):
    asked = [
        "evaluate",
        "--root",
        str(toys),
        "--settings",
        "yollava",
        "--out",
        str(tmp_path),
        "--method",
        "m",
    ]
    assert main([*asked, "--server", server.url, "--model", "some/model"]) == 0
    printed = capsys.readouterr()
    assert "| yollava | given | m | 3 |" in printed.out and "300 prompt tokens, 21 completion" in printed.err
    assert main([*asked, "--server", server.url, "--model", "some/model"]) == 0
    assert "\n0 prompt tokens, 0 completion tokens\n" in f"\n{capsys.readouterr().err}"
    assert len(server.requests) == 3
    assert main([*asked, "--server", server.url, "--model", "other/model"]) == 2
    said = "made with different settings (server's model was 'some/model', is 'other/model')"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("way", ["plain", "oct"])
def test_a_task(tmp_path, way, capsys):
    write_field_questions(tmp_path, "val")
    asked = ["evaluate", "--root", str(tmp_path), "--task", "recognition", "--ask", way, "--limit", "2"]
    asked += [
        "--questions",
        str(tmp_path / "recognition.json"),
        "--database",
        str(tmp_path / "database.json"),
    ]
    with stub_server(lambda text, before: "Yes") as server:
        more = ["--out", str(tmp_path / "out"), "--server", server.url, "--model", "some/model"]
        assert main([*asked, *more]) == 0
        assert "400 prompt tokens" in capsys.readouterr().err and len(server.requests) == 4
    said = [OCT_SUFFIX in str(body["messages"][-1]["content"]) for _, _, body in server.requests]
    assert said == [way == "oct"] * 4
    assert len(list((tmp_path / "out" / "answers" / "model").glob("*.settings.json"))) == 2


def test_the_live_page(server, monkeypatch):
    built = []
    monkeypatch.setattr("repic_core.demo.live.build_live", lambda models, *_, **__: built.append(models))
    monkeypatch.setattr("repic_core.demo.launch", lambda *_, **__: None)
    asked = ["demo", "live", "--server", server.url, "--model", "some/one", "--compare-model", "some/two"]
    assert main(asked) == 0
    (models,) = built
    assert list(models) == ["one", "two"]
    assert [type(model) for model in models.values()] == [EndpointCaptioner] * 2
    assert [model.endpoint.model for model in models.values()] == ["some/one", "some/two"]


def test_a_page_with_a_server_is_not_asked_for_boxes(server):
    import gradio as gr

    from repic_core.concepts.database import ConceptDatabase
    from repic_core.demo.live import LivePage
    from repic_core.demo.shelf import Shelves

    model = EndpointCaptioner(server.url, "m")
    page = LivePage({"m": model}, Shelves(ConceptDatabase(), None), [], "Captions", None)
    page.build()
    assert not page.where_button.visible
    with pytest.raises(gr.Error, match="A model on a server is not asked for boxes"):
        page.where(object(), ["<bo>"], ["m"], SimpleNamespace(session_hash="a"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "U"], "--server needs a --model: the name that the server gives it"),
        (
            ["--server", "U", "--model", "m", "--boxes"],
            "--boxes needs the model here: leave it or --server out",
        ),
        (["--server", "U", "--model", "m", "--adapter", "a"], "--adapter needs the model here"),
        (["--concurrency", "2"], "--concurrency needs a --server"),
        (["--request", "a=1"], "--request needs a --server"),
    ],
)
def test_flags_that_do_not_go_together(arguments, said, capsys):
    assert main(["caption", "a.jpg", "--references", "x", *arguments]) == 2
    assert said in capsys.readouterr().err
