"""Each photo of a run once: the same captions, fewer photos through the vision tower, bounded memory."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import repic_core.captioner.photos_once as photos_once
from helpers.families import save_family
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.photos_once import PhotosOnce
from repic_core.concepts.concept import Concept
from repic_core.models.loading import load_model

OPTIONS = {"system": None, "batch_size": 3, "max_new_tokens": 8}


def load(family, folder):
    return load_model(save_family(family, folder), device="cpu")


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def loaded(request, tmp_path_factory):
    return load(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def qwen2_5(tmp_path_factory):
    return load("qwen2_5_vl", tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path):
    paths = []
    for number, (width, height) in enumerate([(64, 64), (64, 96), (128, 64), (64, 64), (96, 96)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    (tmp_path / "copy.png").write_bytes(paths[0].read_bytes())
    return [*paths, tmp_path / "copy.png"]


@pytest.fixture
def items(photos):
    """Rows of 0 to 3 references; a row without a query, one without any photo, an opened photo, a copied file."""
    concepts = [
        Concept(f"<{name}>", name, photo, "a toy") for name, photo in zip("bcdf", photos, strict=False)
    ]
    copied = Concept("<copy>", "copy", photos[5], "a toy")
    return [
        CaptionItem(photos[4], concepts[:3]),
        CaptionItem(photos[4], concepts[1:3], "Who is it?"),
        CaptionItem(None, concepts[:2], "Who is it?"),
        CaptionItem(None, concepts[:1], "Who is it?", reference_photos=False),
        CaptionItem(photos[3], []),
        CaptionItem(Image.open(photos[4]), [concepts[2], copied]),
        CaptionItem(photos[4], [Concept("<many>", "many", list(photos[:3]), "a toy")]),
    ]


@pytest.fixture
def opened(monkeypatch):
    """How often each file is opened."""
    count, open_for_model = Counter(), photos_once.open_for_model

    def counting(photo):
        count[Path(photo).name if isinstance(photo, str | Path) else "in memory"] += 1
        return open_for_model(photo)

    monkeypatch.setattr(photos_once, "open_for_model", counting)
    return count


def photos_seen(model, run):
    """(what `run` returns, how many photos went through the vision tower)"""
    seen = []
    hook = model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    try:
        return run(), sum(seen)
    finally:
        hook.remove()


def captions(captioner, items, **generation):
    return [row[2] for row in captioner.caption_many(items, progress=False, **generation)]


def test_the_captions_stay_and_each_photo_is_encoded_once(loaded, items, opened):
    model, _ = loaded
    wanted, before = photos_seen(
        model, lambda: captions(Captioner(*loaded, **OPTIONS, photos_once=False), items)
    )
    assert len(set(wanted)) >= 5 and before == 4 + 3 + 2 + 0 + 1 + 3 + 4
    captioner = Captioner(*loaded, **OPTIONS)
    found, once = photos_seen(model, lambda: captions(captioner, items))
    assert found == wanted and once == 5  # the copy is equal to its original
    # In the first batch, each row opens its photos.
    assert opened == {
        "0.png": 2,
        "1.png": 3,
        "2.png": 2,
        "3.png": 1,
        "4.png": 2,
        "copy.png": 1,
        "in memory": 1,
    }
    # Nothing is kept between two runs, whose weights may differ.
    assert photos_seen(model, lambda: captions(captioner, items)) == (wanted, 5)
    inputs = captioner.inputs(items[:1])
    assert "pixel_values" in inputs and "mm_encoder_outputs" not in inputs


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 1}])
def test_beams_see_the_same_photos(loaded, items, options):
    wanted = captions(Captioner(*loaded, **OPTIONS, photos_once=False), items, **options)
    assert captions(Captioner(*loaded, **OPTIONS), items, **options) == wanted


def test_the_papers_way_of_resizing(qwen2_5, items):
    options = OPTIONS | {"resized_by": "qwen-vl-utils"}
    wanted = captions(Captioner(*qwen2_5, **options, photos_once=False), items)
    assert captions(Captioner(*qwen2_5, **options), items) == wanted


@pytest.mark.parametrize("keep", [0, 40])
def test_memory_is_bounded(qwen2_5, items, keep, monkeypatch):
    """What is dropped is opened and encoded again; nothing else changes."""
    model, _ = qwen2_5
    wanted = captions(Captioner(*qwen2_5, **OPTIONS, photos_once=False), items)
    held = []

    class Small(PhotosOnce):
        def __init__(self, *arguments):
            super().__init__(*arguments, keep=keep)

        def inputs(self, *arguments):
            found = super().inputs(*arguments)
            tensors = [one.features.pooler_output[0] for one in self._kept.values()]
            held.append(sum(map(len, tensors)))
            assert held[-1] == sum(one.tokens for one in self._kept.values())
            for tensor in tensors:  # no slice of a batch's features
                assert tensor.untyped_storage().nbytes() == tensor.nbytes
            return found

    monkeypatch.setattr("repic_core.captioner.captioner.PhotosOnce", Small)
    found, seen = photos_seen(model, lambda: captions(Captioner(*qwen2_5, **OPTIONS), items))
    assert found == wanted and 5 < seen <= 12
    assert max(held) <= keep


def test_an_unreadable_photo_is_named_and_the_next_run_is_whole(qwen2_5, items, tmp_path):
    captioner = Captioner(*qwen2_5, **OPTIONS)
    out = tmp_path / "c.json"
    with pytest.raises(ValueError, match=r"none\.png: no such image"):
        captioner.caption_many([*items[:4], CaptionItem(tmp_path / "none.png", [])], out, progress=False)
    assert captions(captioner, items) == captions(Captioner(*qwen2_5, **OPTIONS, photos_once=False), items)


def test_a_changed_model_is_seen(qwen2_5, items):
    model, processor = qwen2_5
    captioner = Captioner(model, processor, **OPTIONS)
    before = captions(captioner, items)
    weight = model.model.visual.merger.mlp[-1].weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(-3)
        after = captions(captioner, items)
        assert after != before
        assert after == captions(Captioner(model, processor, **OPTIONS, photos_once=False), items)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
