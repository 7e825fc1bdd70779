"""Captions from a real server, ``transformers serve`` with the toy base: text for text the local ones."""

import base64
import io
import json
from itertools import pairwise

import pytest
import torch
from PIL import Image

pytest.importorskip("openai", reason="the package openai (extra judges) is not installed")

from repic_core.captioner.caption_files import CaptionItem, settings_path
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.chat import Chat
from repic_core.captioner.endpoint import EndpointCaptioner, resized
from repic_core.concepts.database import ConceptDatabase
from repic_core.models.loading import limit_pixels, load_model
from repic_core.toyworld.dataset import write_heldout

MODEL = "assets/toy-base"
SETTINGS = {"system": None, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """(query photos, references)"""
    folder = tmp_path_factory.mktemp("toys")
    write_heldout(folder, "val", n=2)
    queries = json.loads((folder / "queries.json").read_text())["4 all"]
    return [folder / query["query"] for query in queries], list(
        ConceptDatabase.load(folder / "database.json")
    )


@pytest.fixture(scope="module")
def loaded():
    return load_model(MODEL, device="cpu")


def test_greedy_captions_equal_the_local_ones(served, toys, loaded, tmp_path):
    queries, references = toys
    items = [CaptionItem(queries[0], references[:shown]) for shown in range(5)]
    items += [CaptionItem(Image.open(queries[1]), references[2:4], "What is in the photo?", label="b")]
    items += [CaptionItem(queries[1], references[:2], reference_photos=False)]
    wanted = Captioner(*loaded, **SETTINGS).caption_many(items, progress=False)
    assert len({row[2] for row in wanted}) > 3  # else this would show little
    captioner = EndpointCaptioner(served, MODEL, concurrency=3, prices=(1.0, 2.0), **SETTINGS)
    out = tmp_path / "captions.json"
    assert captioner.caption_many(items, out, progress=False) == wanted == json.loads(out.read_text())
    assert captioner.prompt_tokens > 7 * 20 and 7 < captioner.completion_tokens <= 7 * 24
    assert captioner.cost == (captioner.prompt_tokens + 2 * captioner.completion_tokens) / 1e6
    kept = json.loads(settings_path(out).read_text())
    assert kept["server's model"] == MODEL and "ahead" not in kept


def test_one_photo_grows_word_by_word(served, toys, loaded):
    queries, references = toys
    local = Captioner(*loaded, **SETTINGS).caption(queries[0], references[:2])
    captioner = EndpointCaptioner(served, MODEL, **SETTINGS)
    assert captioner.caption(queries[0], references[:2]) == local
    counted = captioner.prompt_tokens, captioner.completion_tokens
    texts = list(captioner.stream(queries[0], references[:2]))
    assert texts[-1] == local and len(texts) > 2
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))
    assert (captioner.prompt_tokens, captioner.completion_tokens) == tuple(2 * one for one in counted)
    assert local.startswith(captioner.caption(queries[0], references[:2], max_tokens=3))


def test_a_conversation(served, toys, loaded):
    queries, references = toys
    said = []
    for captioner in (Captioner(*loaded, **SETTINGS), EndpointCaptioner(served, MODEL, **SETTINGS)):
        chat = Chat(captioner)
        first = chat.ask("Give a caption of the image.", queries[0], references[:2])
        said.append([first, chat.ask("Give a caption of the image.", queries[1])])
    assert said[0] == said[1]


@pytest.mark.parametrize("limits", [(None, 4096), (16384, None), (1024, 2304), (None, None)])
@pytest.mark.parametrize("size", [(96, 96), (50, 33), (200, 64), (64, 66)])
def test_photos_are_resized_as_by_the_processor(loaded, limits, size):
    """So a server whose own limits are wider sees the pixels that a local processor with these limits makes."""
    wide = load_model(MODEL, device="cpu")[1].image_processor
    limit_pixels(wide, 16 * 16, 10**9)
    narrow = load_model(MODEL, device="cpu")[1].image_processor
    limit_pixels(narrow, limits[0] or 16 * 16, limits[1] or 10**9)
    photo = Image.effect_noise(size, 90).convert("RGB")
    ours = wide(resized(photo, *limits, grid=16), return_tensors="pt")
    own = narrow(photo, return_tensors="pt")
    assert ours["image_grid_thw"].tolist() == own["image_grid_thw"].tolist()
    assert torch.equal(ours["pixel_values"], own["pixel_values"])


def test_photos_are_sent_upright_and_without_what_the_camera_wrote(tmp_path):
    photo = Image.new("RGB", (40, 20), "red")
    photo.putpixel((0, 0), (0, 0, 255))
    exif = photo.getexif()
    exif[0x0112], exif[0x010F] = 6, "secret camera"
    photo.save(tmp_path / "a.png", exif=exif)
    url = EndpointCaptioner("http://127.0.0.1:9/v1", "m").data_url(tmp_path / "a.png")
    head, _, data = url.partition(",")
    sent = base64.b64decode(data)
    shown = Image.open(io.BytesIO(sent))
    assert head == "data:image/png;base64" and b"secret camera" not in sent
    assert shown.size == (20, 40) and shown.getpixel((19, 0)) == (0, 0, 255)
