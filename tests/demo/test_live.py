"""The live page: it streams, stops, queues, finds, draws; each visitor has concepts of their own."""

import time

import pytest
from gradio_client.exceptions import AppError
from PIL import Image

from helpers.fake_captioner import FakeCaptioner, live
from helpers.pages import ONERROR, SCRIPT, Reader, served
from repic_core.concepts.database import ConceptDatabase


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
        assert len({Reader(job.result()).text.split("First word")[0] for job in jobs}) == 1
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


def test_a_stopped_run_ends_before_the_next_begins(folder):
    """Gradio gives the place free at once, though the model may still be at its first word."""

    class Slow(FakeCaptioner):
        def stream(self, query, references, question):
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            try:
                time.sleep(1.5)
            finally:
                with self.lock:
                    self.running -= 1
            yield from super().stream(query, references, question)

    captioner = Slow()
    with served(live(folder, captioner)) as (client, _):
        first = ask(folder, client)
        time.sleep(0.5)
        first.cancel()
        assert "A <bo>" in Reader(ask(folder, client).result()).text
    assert captioner.most == 1


def test_live_finds_concepts_and_draws_where_they_are(folder, monkeypatch):
    from gradio_client import handle_file

    from repic_core.demo import live as module
    from repic_core.retrieval.index import Hit

    known = ConceptDatabase.load(folder / "database.json")
    captioner, seen = FakeCaptioner(), []
    captioner.model, captioner.processor = "model", "processor"

    def locate(model, processor, photo, concepts):
        seen.append((model, processor, photo.size, [concept.tag for concept in concepts]))
        return [(10.4, 20, 110, 220) if photo.width > 100 else (3, 5, 25, 21), None]

    import gradio

    said = []
    monkeypatch.setattr(gradio, "Info", said.append)
    monkeypatch.setattr(module, "locate", locate)
    found = [[Hit("<mia>", 0.9), Hit("<zoe>", 0.8)], []]
    app = module.build_live(captioner, known, find=lambda photo, shelf: [hit.tag for hit in found.pop(0)])
    photo = handle_file(folder / "q1.png")
    with served(app) as (client, _):
        assert client.predict(photo, api_name="/find") == ["<mia>", "<zoe>"]
        assert client.predict(photo, api_name="/find") == []
        boxes = client.predict(photo, ["<mia>", "<zoe>"], api_name="/where")
        Image.new("RGB", (30, 24)).save(folder / "small.png")
        enlarged = client.predict(handle_file(folder / "small.png"), ["<mia>", "<zoe>"], api_name="/where")
        with pytest.raises(AppError, match="Add a photo, and choose concepts"):
            client.predict(photo, [], api_name="/where")
        with pytest.raises(AppError, match="Add a photo to look"):
            client.predict(None, api_name="/find")
    assert seen[0] == ("model", "processor", (300, 240), ["<mia>", "<zoe>"])
    enlarged = enlarged.get("value", enlarged)
    assert Image.open(enlarged["image"]).size == (120, 96)
    mask = Image.open(enlarged["annotations"][0]["image"])  # of the box, which is left of the photo's edge
    assert mask.size == (120, 96) and mask.getbbox() == (12, 20, 100, 84)
    assert said[0].startswith("No known concept") and "No box for &lt;zoe&gt;" in said[1]
    assert [one["label"] for one in boxes.get("value", boxes)["annotations"]] == ["<mia>"]
