"""A server that fails: no finished row is lost, the run says what is wrong, and the next run goes on."""

import json
import threading

import pytest
from PIL import Image

pytest.importorskip("openai", reason="the package openai (extra judges) is not installed")

import repic_core.captioner.caption_run as caption_run
from helpers.stub_server import HALF, RUBBISH, STALL, stub_server
from repic_core.captioner.caption_files import CaptionItem, settings_path
from repic_core.captioner.endpoint import EndpointCaptioner
from repic_core.io.endpoint import EndpointError


@pytest.fixture
def items(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    return [CaptionItem(tmp_path / "a.png", [], f"q{number}", tags=["<bo>"]) for number in range(8)]


def question(text):
    """The question in the text that a prompt ends with."""
    return text.rpartition(" ")[2]


def caption(text):
    return f"caption of {question(text)}"


def rows_of(items, numbers=range(8)):
    return [[str(items[0].query), ["<bo>"], f"caption of q{number}", f"q{number}"] for number in numbers]


def captioner(server, concurrency=1, retries=2, seconds=30.0, **options):
    return EndpointCaptioner(
        server.url, "m", system=None, concurrency=concurrency, retries=retries, seconds=seconds, **options
    )


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After-Ms": "1"}),
        (429, {"Retry-After": "0.01"}),
        (500, {"Retry-After-Ms": "1"}),
        HALF,
        STALL,
    ],
    ids=["429", "429 in seconds", "500", "half an answer", "silence"],
)
def test_what_may_pass_is_tried_again(items, fault, tmp_path):
    def act(text, before):
        return fault if question(text) == "q2" and not before else caption(text)

    with stub_server(act) as server:
        seconds = 0.5 if fault is STALL else 30.0
        out = tmp_path / "c.json"
        rows = captioner(server, seconds=seconds).caption_many(items, out, progress=False)
        assert rows == rows_of(items) == json.loads(out.read_text())
        assert len(server.requests) == 9


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((500, {"Retry-After-Ms": "1"}), "InternalServerError"),
        ((401, {}), "AuthenticationError"),
        (HALF, "APIConnectionError"),
        (RUBBISH, "no answer"),
        (STALL, "APITimeoutError"),
    ],
    ids=["500", "401", "half an answer", "rubbish", "silence"],
)
def test_what_stays_ends_the_run_and_the_next_one_goes_on(items, fault, said, tmp_path):
    broken = {"q3"}

    def act(text, before):
        return fault if question(text) in broken else caption(text)

    out = tmp_path / "c.json"
    with stub_server(act) as server:
        asks = captioner(server, retries=0, seconds=0.5 if fault is STALL else 30.0)
        with pytest.raises(EndpointError, match=f"{server.url}/, model m: no answer: .*") as error:
            asks.caption_many(items, out, progress=False)
        assert said in str(error.value)
        assert json.loads(out.read_text()) == rows_of(items, range(3))
        assert len(server.requests) == 4  # nothing is asked after the failure
        broken.clear()
        assert asks.caption_many(items, out, progress=False) == rows_of(items)
        assert len(server.requests) == 9 and json.loads(out.read_text()) == rows_of(items)


def test_rows_that_finish_before_a_failing_one_are_kept(items, tmp_path):
    """Four at once; the first fails when the others are done: they are beside the file, and not asked again."""
    others, broken = threading.Barrier(4), [True]

    def act(text, before):
        if broken[0] and question(text) in ("q0", "q1", "q2", "q3"):
            others.wait(30)
            return (500, {}) if question(text) == "q0" else caption(text)
        return caption(text)

    out = tmp_path / "c.json"
    with stub_server(act) as server:
        with pytest.raises(EndpointError, match="InternalServerError"):
            captioner(server, 4, retries=0).caption_many(items, out, progress=False)
        ahead = json.loads(settings_path(out).read_text())["ahead"]
        assert json.loads(out.read_text()) == [] and {"1", "2", "3"} <= ahead.keys()
        broken[0] = False
        assert captioner(server, 4).caption_many(items, out, progress=False) == rows_of(items)
        times = {question(text): count for text, count in server.times.items()}
        assert times == {f"q{number}": 2 if number == 0 else 1 for number in range(8)}
        assert server.most == 4
    assert json.loads(out.read_text()) == rows_of(items)
    assert "ahead" not in json.loads(settings_path(out).read_text())


def test_rows_that_are_ahead_are_for_the_same_items_and_settings_only(items, tmp_path):
    def act(text, before):
        return (400, {}) if question(text) == "q0" else caption(text)

    out = tmp_path / "c.json"
    with stub_server(act) as server:
        others = items[1:]
        done = captioner(server).caption_many(others, out, progress=False)
        written = json.loads(settings_path(out).read_text())
        out.write_text("[]")
        written["ahead"] = {"3": "kept", "4": "of another photo", "99": "of none"}
        written["items"][4] = "0" * 64
        settings_path(out).write_text(json.dumps(written))
        with pytest.raises(ValueError, match="made with different settings"):
            captioner(server, max_new_tokens=5).caption_many(others, out, progress=False)
        found = captioner(server).caption_many(others, out, progress=False)
    assert [row[2] for row in found] == [
        *(row[2] for row in done[:3]),
        "kept",
        *(row[2] for row in done[4:]),
    ]


def test_an_interrupt_keeps_what_is_done(items, tmp_path, monkeypatch):
    """The second answer arrives; the third request is never answered, and nobody waits for it."""
    monkeypatch.setattr(caption_run, "SAVE_SECONDS", 0)

    def act(text, before):
        return STALL if question(text) == "q2" and not before else caption(text)

    class Interrupted:
        def __init__(self, *_, **__):
            self.count = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self):
            self.count += 1
            if self.count == 2:
                raise KeyboardInterrupt

    out = tmp_path / "c.json"
    with stub_server(act) as server:
        with monkeypatch.context() as patched:
            patched.setattr("tqdm.auto.tqdm", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                captioner(server).caption_many(items, out, progress=False)
        kept = json.loads(settings_path(out).read_text()).get("ahead", {})
        assert len(json.loads(out.read_text())) + len(kept) == 2
        assert captioner(server).caption_many(items, out, progress=False) == rows_of(items)


def test_a_stream_that_breaks(items):
    with stub_server(lambda text, before: HALF if not before else caption(text)) as server:
        asks = captioner(server)
        texts = asks.stream(items[0].query, [], "q0")
        assert next(texts) == "cut"
        with pytest.raises(EndpointError, match="no answer"):
            list(texts)
        assert list(asks.stream(items[0].query, [], "q0")) == ["caption", "caption of", "caption of q0"]
        assert (asks.prompt_tokens, asks.completion_tokens) == (100, 7)


def test_the_key_is_sent_and_written_nowhere(items, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")

    def act(text, before):
        return (401, {}) if question(text) == "q3" else caption(text)

    with stub_server(act) as server:
        with pytest.raises(EndpointError) as error:
            captioner(server).caption_many(items, tmp_path / "c.json", progress=False)
        assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Bearer sk-secret-1"}
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-secret" not in written and "sk-secret" not in str(error.value)


def test_what_is_sent(items):
    with stub_server(lambda text, before: "  A <bo>.\ud83d ") as server:
        asks = EndpointCaptioner(server.url, "m", max_new_tokens=9, request={"seed": 1})
        assert asks.caption(items[0].query, [], "q0", temperature=1) == "A <bo>.\ufffd"
        ((path, _, body),) = server.requests
    assert path == "/v1/chat/completions" and len(body.pop("messages")) == 2
    assert body == {"model": "m", "temperature": 1, "max_tokens": 9, "seed": 1}
