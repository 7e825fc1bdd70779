"""The live page's shelf through its endpoints: visitors apart, names escaped, hostile uploads and paths refused."""

import io
import json
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from helpers.fake_captioner import FakeCaptioner
from helpers.hostile import encoded, hostile, odd
from helpers.pages import ONERROR, SCRIPT, Reader, served
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.live import build_live

SECRET = "s" * 43


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where Gradio keeps what is uploaded to it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def visited(app, visitors=1):
    """The app, with this many visitors' clients: (clients, address)."""
    with served(app) as (client, address):
        yield [client, *(Client(address, verbose=False) for _ in range(visitors - 1))], address


def live(folder, captioner=None, **options):
    return build_live(captioner or FakeCaptioner(), ConceptDatabase.load(folder / "database.json"), **options)


def add(client, photo, name="kim", info="", edited="", chosen=(), cuts=(0, 0, 0, 0)):
    photo = None if photo is None else handle_file(photo)
    return client.predict(edited, photo, name, info, list(chosen), *cuts, api_name="/save")


def shelf(client):
    """The text of a visitor's cards, and the tags that can be chosen."""
    html, chooser, _ = client.predict([], api_name="/shelf")
    return Reader(html).text, [tag for _, tag in chooser["choices"]]


def test_add_edit_rename_delete(folder, cache):
    with visited(live(folder)) as ([client], _):
        html, chooser, editor, *form = add(client, folder / "q1.png", "kim", "a friend", chosen=["<mia>"])
        assert chooser["value"] == ["<mia>", "<kim>"]  # a new concept is chosen
        assert editor["value"] == "" and form == [None, "", "", "", 0, 0, 0, 0]  # ready for the next
        assert "Yours: 1" in Reader(html).text and "Given to everybody: 3" in Reader(html).text
        name, info, seen, photo = client.predict("<kim>", api_name="/pick")
        assert (name, info, photo) == ("kim", "a friend", None) and "<img" in seen
        _, chooser, *_ = add(client, None, "Kim Lee", "a friend", "<kim>", ["<mia>", "<kim>"])
        assert chooser["value"] == ["<mia>", "<Kim Lee>"]  # it stays chosen under its new name
        _, chooser, *_ = client.predict("<Kim Lee>", ["<mia>", "<Kim Lee>"], api_name="/delete")
        assert chooser["value"] == ["<mia>"] and "<Kim Lee>" not in shelf(client)[1]
        for arguments, said in (
            (("<mia>", []), "came with the page"),
            (("", []), "Choose the concept"),
        ):
            with pytest.raises(AppError, match=said):
                client.predict(*arguments, api_name="/delete")
        with pytest.raises(AppError, match="Give the concept a name"):
            add(client, folder / "q1.png", "")
        assert client.predict("", api_name="/pick") == ("", "", "", None)


def test_crops_and_exif(folder, cache, tmp_path):
    (folder / "turned.jpg").write_bytes(odd()["turned.jpg"])
    with visited(live(folder, shelves=tmp_path / "shelves")) as ([client], _):
        with pytest.raises(AppError, match="load it again"):  # nobody has come in yet
            add(client, folder / "turned.jpg")
        client.predict("", api_name="/enter")
        add(client, folder / "turned.jpg", cuts=(25, 0, 25, 50))
        with pytest.raises(AppError, match="leaves nothing"):
            add(client, folder / "turned.jpg", "zed", cuts=(60, 0, 60, 0))
        stored = list((tmp_path / "shelves").rglob("photos/*"))
        assert [Image.open(path).size for path in stored] == [(24, 32)]  # upright 48 x 64
        uploaded = list(cache.rglob("*.jpg"))
        assert uploaded
        for path in (*stored, *uploaded):  # neither the shelf nor what was uploaded keeps them
            assert b"secret" not in path.read_bytes() and not Image.open(path).getexif()
    assert not cache.exists() or not list(cache.rglob("*.*"))  # the cache goes with the server


def extras() -> dict[str, bytes]:
    from PIL.PngImagePlugin import PngInfo

    noise, text = Image.effect_noise((64, 48), 90).convert("RGB"), PngInfo()
    text.add_text("Comment", "a secret place")
    text.add_itxt("GPSLatitude", "secret")
    return {
        "text.png": encoded(noise, "PNG", pnginfo=text),
        "after.png": encoded(noise, "PNG") + b"secret film",
        "after.jpg": encoded(noise, "JPEG") + b"secret film",
        "comment.jpg": encoded(noise, "JPEG", comment=b"secret"),
        "profile.jpg": encoded(noise, "JPEG", icc_profile=b"secret" * 40),
        "xmp.webp": encoded(noise, "WEBP", xmp=b"<secret/>"),
        "comment.gif": encoded(noise, "GIF", comment=b"secret"),
        "described.tiff": encoded(noise, "TIFF", description="secret"),
    }


@pytest.mark.parametrize("name", extras())
def test_uploads_keep_nothing_but_pixels(folder, cache, name):
    (folder / name).write_bytes(extras()[name])
    captioner = FakeCaptioner()
    with visited(live(folder, captioner)) as ([client], _):
        client.predict(handle_file(folder / name), api_name="/photo")
        kept = next(path for path in cache.rglob("*") if path.name == name)
        clean = kept.read_bytes()
        assert b"secret" not in clean and Image.open(kept).size == (64, 48)
        client.predict(handle_file(kept), ["<bo>"], "What?", api_name="/caption")
        assert kept.read_bytes() == clean  # written once


def test_unknown_choices_and_lost_photos_are_plain_messages(folder, cache, tmp_path):
    hostile_tag = "<img src=x onerror=alert(1)>"
    with visited(live(folder, shelves=tmp_path / "shelves")) as ([client], _):
        for call in (  # as after a restart of the server, which then knows the choices of no visitor
            lambda: client.predict([hostile_tag], api_name="/concepts"),
            lambda: client.predict(hostile_tag, api_name="/pick"),
        ):
            with pytest.raises(AppError) as error:
                call()
            assert "<img" not in str(error.value) and "load the page again" in str(error.value)
        client.predict(SECRET, api_name="/enter")
        add(client, folder / "q1.png")
        for photo in (tmp_path / "shelves").rglob("photos/*"):
            photo.unlink()
        captioner_reads = live(folder, ReadsReferences(), shelves=tmp_path / "shelves")
    with visited(captioner_reads) as ([client], _):
        client.predict(SECRET, api_name="/enter")
        with pytest.raises(AppError, match="no such image") as error:
            client.predict(handle_file(folder / "q1.png"), ["<kim>"], "What?", api_name="/caption")
        assert str(tmp_path) not in str(error.value) and "shelves" not in str(error.value)


class ReadsReferences(FakeCaptioner):
    def stream(self, query, references, question):
        from repic_core.io.images import open_image

        for concept in references:
            open_image(concept.images[0])
        yield from super().stream(query, references, question)


def test_visitors_never_see_each_other(folder, cache):
    with visited(live(folder), visitors=2) as ([anna, ben], _):
        add(anna, folder / "q1.png", "anna's dog", "private")
        add(ben, folder / "q2.png", "ben's cat")
        assert "private" in shelf(anna)[0] and "ben" not in shelf(anna)[0]
        assert shelf(ben)[1] == ["<ben's cat>", "<bo>", "<mia>", "<zoe>"]
        with pytest.raises(AppError):
            ben.predict(["<anna's dog>"], api_name="/concepts")
        with pytest.raises(AppError):
            add(ben, None, "x", edited="<anna's dog>")


def test_shelves_last_for_the_browser_that_has_the_secret(folder, cache, tmp_path):
    for start in range(2):  # the server is started again
        with visited(live(folder, shelves=tmp_path / "shelves"), visitors=2) as ([anna, ben], _):
            assert anna.predict(SECRET, api_name="/enter")[0] == SECRET
            others = ("", None, "short", 7, "../" * 20, "\ud7ff" * 43, "s" * 42 + "/")
            secrets = {ben.predict(said, api_name="/enter")[0] for said in others}
            assert len(secrets) == 7 and all(len(one) == 43 for one in secrets)
            if start == 0:
                add(anna, folder / "q1.png")
            assert "<kim>" in shelf(anna)[1] and "<kim>" not in shelf(ben)[1]


def test_own_concepts_are_captioned_and_found(folder, cache):
    captioner, found = FakeCaptioner("Here is kim."), []

    def find(photo, shelf):
        found.append(photo.size)
        return [concept.tag for concept in shelf.own]

    with visited(live(folder, captioner, find=find)) as ([client], _):
        add(client, folder / "q1.png")
        photo = handle_file(folder / "q2.png")
        assert client.predict(photo, "found in the photo", [], [], api_name="/references") == ["<kim>"]
        assert client.predict(photo, "those chosen below", ["<mia>"], [], api_name="/references") == ["<mia>"]
        html = client.predict(photo, ["<kim>", "<bo>"], "What?", api_name="/caption")
    assert captioner.calls == [((300, 240), ["<kim>", "<bo>"], "What?")] and found == [(300, 240)]
    assert "Not named: <bo>" in Reader(html).text and "First word after" in Reader(html).text


def test_examples_know_what_they_show(folder, cache):
    app = live(folder, examples=[(folder / "q1.png", ["<bo>", "<mia>"])])
    with visited(app) as ([client], _):
        photo = handle_file(folder / "q1.png")
        truth = "what the example shows"
        assert client.predict(photo, truth, [], ["<bo>", "<mia>"], api_name="/references") == [
            "<bo>",
            "<mia>",
        ]
        with pytest.raises(AppError, match="is not known"):
            client.predict(photo, truth, ["<bo>"], [], api_name="/references")
    with pytest.raises(ValueError, match="<nobody>"):
        live(folder, examples=[(folder / "q1.png", ["<nobody>"])])


def test_two_models_side_by_side(folder, cache):
    both = {"First": FakeCaptioner("A <bo>."), "Second": FakeCaptioner("Somebody.")}
    with visited(live(folder, both)) as ([client], _):
        job = client.submit(handle_file(folder / "q1.png"), ["<bo>"], "What?", api_name="/caption")
        html = job.result()
        assert [html.count("<article"), html.index("First") < html.index("Second")] == [2, True]
        assert job.outputs()[0].count("<article") == 1  # the first begins alone
        html = client.predict(
            handle_file(folder / "q1.png"), ["<bo>"], "What?", ["Second"], api_name="/caption"
        )
        assert html.count("<article") == 1 and "Somebody" in html
        with pytest.raises(AppError, match="Choose a model"):
            client.predict(handle_file(folder / "q1.png"), ["<bo>"], "What?", [], api_name="/caption")


def test_limits_of_a_question(folder, cache):
    with visited(live(folder)) as ([client], _):
        photo = handle_file(folder / "q1.png")
        with pytest.raises(AppError, match="at most 1000 characters"):
            client.predict(photo, ["<bo>"], "x" * 1001, api_name="/caption")
        for number in range(14):
            add(client, folder / "q1.png", f"kim {number}")
        with pytest.raises(AppError, match="at most 16 concepts"):
            client.predict(photo, shelf(client)[1], "What?", api_name="/caption")


@pytest.mark.parametrize("text", [SCRIPT, ONERROR, "**bold** [a](javascript:alert(1))", "${alert(3)} {{x}}"])
def test_hostile_names_stay_text(folder, cache, text):
    with visited(live(folder, FakeCaptioner(text))) as ([client], _):
        name = text.replace("<", "").replace(">", "")[:60].strip()
        html = add(client, folder / "q1.png", name, text)[0]
        seen = client.predict(f"<{name}>", api_name="/pick")[2]
        cards = client.predict([f"<{name}>"], api_name="/concepts")
        caption = client.predict(handle_file(folder / "q1.png"), [f"<{name}>"], text, api_name="/caption")
    for page in (html, seen, cards, caption):
        for tag, attributes in Reader(page).elements:
            assert tag not in ("script", "a", "b", "strong")
            assert not any(key.startswith("on") for key in attributes)
            assert tag != "img" or attributes["src"].startswith("data:image/")
    assert text in Reader(html).text and name in Reader(cards).text


@pytest.mark.parametrize("endpoint", ["/photo", "/save"])
def test_hostile_photos_are_messages_and_nothing_is_stored(folder, cache, tmp_path, endpoint):
    (folder / "hostile").mkdir()
    with visited(live(folder, shelves=tmp_path / "shelves")) as ([client], _):
        client.predict(SECRET, api_name="/enter")
        for name, content in hostile().items():
            path = folder / "hostile" / name
            path.write_bytes(content)
            with pytest.raises(AppError) as error:
                client.predict(handle_file(path), api_name=endpoint) if endpoint == "/photo" else add(
                    client, path
                )
            said = str(error.value)
            assert "Traceback" not in said and "/" not in said.replace("&#x27;", ""), (name, said)
            assert any(fix in said for fix in (": give", ": save", ": upload", ": shrink", ": crop")), said
            assert not [file for file in cache.rglob("*") if file.is_file() and file.name == name]
        assert "Yours: 0" in shelf(client)[0]
        assert client.predict(handle_file(folder / "q1.png"), ["<bo>"], "What?", api_name="/caption")  # alive
        add(client, folder / "q1.png")  # the form as well, after all of them
    assert len(list((tmp_path / "shelves").rglob("photos/*"))) == 1


def test_bad_imports_are_messages(folder, cache, tmp_path):
    (tmp_path / "a.zip").write_text("no zip")
    with visited(live(folder), visitors=2) as ([client, other], _):
        with pytest.raises(AppError, match="be read as a zip file"):
            client.predict(handle_file(tmp_path / "a.zip"), [], api_name="/import")
        assert not list(cache.rglob("a.zip"))
        add(client, folder / "q1.png", "kim", "a friend")
        exported = client.predict(api_name="/export")["value"]
        with pytest.raises(AppError, match="You have no concepts to export"):
            other.predict(api_name="/export")
        html, chooser, _ = other.predict(handle_file(exported), [], api_name="/import")
        other.predict(api_name="/export")
        folders = {path.parent.name for path in cache.rglob("concepts.zip") if len(path.parent.name) == 32}
        assert len(folders) == 2  # each in a place of its own, which nobody can guess
        assert "a friend" in html and chooser["choices"][0][1] == "<kim>"


def test_other_files_are_out_of_reach(folder, cache, tmp_path):
    """Paths are refused where they are asked for, and where they are given as a photo or a zip."""
    app = live(folder, shelves=tmp_path / "shelves")
    with visited(app) as ([client], address):
        client.predict(SECRET, api_name="/enter")
        add(client, folder / "q1.png")
        stored = next((tmp_path / "shelves").rglob("photos/*"))
        paths = [stored, stored.parents[1] / "database.json", folder / "q1.png", Path("README.md").resolve()]
        paths += ["/etc/passwd", "/proc/self/environ", f"{cache}/../shelves", f"{cache}/..%2f..%2fetc/passwd"]
        for path in paths:
            for route in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file/{path}"):
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(address + urllib.parse.quote(route, safe="/=%"))
                assert error.value.code in (400, 403, 404, 405, 422), route
        uploaded = client.predict(handle_file(folder / "q1.png"), [], "What?", api_name="/caption")
        assert uploaded
        for path in (
            *paths[:6],
            "http://127.0.0.1:9/a.png",
            "https://example.com/a.png",
            "file:///etc/passwd",
        ):
            for data in ({"path": str(path), "meta": {"_type": "gradio.FileData"}}, {"path": str(path)}):
                assert refused(address, "photo", data), path


def test_addresses_are_not_fetched(folder, cache, monkeypatch):
    """Gradio itself would download them."""
    asked = []

    async def fetch(url, cache_dir):
        asked.append(url)
        return str(folder / "q1.png")

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    with visited(live(folder)) as (_, address):
        for endpoint in ("photo", "import"):
            for url in ("https://example.com/a.png", "http://127.0.0.1:9/a.png", "HTTPS://example.com/a.png"):
                assert refused(address, endpoint, {"path": url, "meta": {"_type": "gradio.FileData"}})
    assert not asked


def refused(address, endpoint, data) -> bool:
    """Whether a call that names a file on the server fails, without anything of the file in the answer."""
    request = urllib.request.Request(
        f"{address}gradio_api/call/{endpoint}",
        json.dumps({"data": [data]}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        event = json.loads(urllib.request.urlopen(request).read())["event_id"]
        answer = urllib.request.urlopen(f"{address}gradio_api/call/{endpoint}/{event}").read().decode()
    except urllib.error.HTTPError as error:
        return error.code < 500
    return "event: error" in answer and "root:" not in answer


def test_too_large_uploads_do_not_arrive(folder, cache):
    with visited(live(folder)) as ([client], address):
        border = "x" * 20
        body = io.BytesIO()
        body.write(
            f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'.encode()
        )
        body.write(b"Content-Type: image/png\r\n\r\n" + bytes(41 * 2**20) + f"\r\n--{border}--\r\n".encode())
        request = urllib.request.Request(
            f"{address}gradio_api/upload",
            body.getvalue(),
            {"Content-Type": f"multipart/form-data; boundary={border}"},
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
        assert error.value.code == 413
        assert encoded(Image.new("RGB", (9, 9)), "PNG") and shelf(client)
