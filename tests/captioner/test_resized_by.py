"""Photos resized by the processor, or by qwen-vl-utils first, as in the authors' scripts."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info

from repic_core.captioner.caption_files import CaptionItem, settings_path
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.concept import Concept
from repic_core.io.files import read_json
from repic_core.models.loading import load_model
from repic_core.prompts import caption_messages

PATCH = (8, 14, 16)  # the toy base's, Qwen2.5-VL's and Qwen3-VL's
LIMIT = 300 * 300  # pixels
WITHIN, BEYOND = [(100, 75), (131, 90), (64, 200), (96, 96), (290, 300)], [(900, 675), (448, 299)]


@pytest.fixture(scope="module")
def loaded(base):
    return load_model(base, device="cpu", max_pixels=LIMIT)


def with_patch(processor, side):
    """The processor with another patch size, which its inputs show and the tiny model does not take."""
    processor = copy.deepcopy(processor)
    processor.image_processor.patch_size = side
    return processor


def item(folder, sizes):
    """References and, last, the query: smooth photos with some noise, saved as PNG."""
    paths = []
    for number, (width, height) in enumerate(sizes):
        rng = np.random.default_rng(number)
        x, y = np.linspace(0, 3, width)[None, :, None], np.linspace(0, 2, height)[:, None, None]
        waves = 128 + 90 * np.sin(x * (1 + np.arange(3)) + y * (3 - np.arange(3)))
        noisy = waves + rng.normal(0, 8, (height, width, 3))
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1])
    references = [
        Concept(name=f"{'bdfgkl'[i]}o", image=path, info="a toy") for i, path in enumerate(paths[:-1])
    ]
    return CaptionItem(paths[-1], references)


@pytest.mark.parametrize("patch", PATCH)
@pytest.mark.parametrize("sizes", [WITHIN, BEYOND], ids=["within the limit", "beyond it"])
def test_the_papers_way_is_process_vision_info_then_the_processor(loaded, tmp_path, sizes, patch):
    """As in the authors' scripts: from paths, with the limit of pixels in the processor."""
    model, processor = loaded[0], with_patch(loaded[1], patch)
    asked = item(tmp_path, sizes)
    messages = caption_messages(asked.query, asked.references, asked.question, "evaluation")
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images, _ = process_vision_info(messages, image_patch_size=patch)
    want = processor(text=[text], images=images, padding=True, return_tensors="pt")
    ours = Captioner(model, processor, resized_by="qwen-vl-utils").inputs([asked])
    assert set(ours) == set(want)
    for key in want:
        assert torch.equal(ours[key], want[key]), key


@pytest.mark.parametrize("patch", PATCH)
def test_both_ways_give_the_same_sizes_and_close_pixels(loaded, tmp_path, patch):
    model, processor = loaded[0], with_patch(loaded[1], patch)
    asked = item(tmp_path, WITHIN)
    one, two = (
        Captioner(model, processor, resized_by=by).inputs([asked]) for by in ("processor", "qwen-vl-utils")
    )
    assert torch.equal(one["image_grid_thw"], two["image_grid_thw"])
    assert torch.equal(one["input_ids"], two["input_ids"])
    gap = (one["pixel_values"] - two["pixel_values"]).abs() * 255 * max(processor.image_processor.image_std)
    assert 0 < gap.max() < 3  # of 255 grey levels
    assert gap.mean() < 0.5


def test_kept_references_are_resized_alike(loaded, tmp_path):
    model, processor = loaded
    asked = item(tmp_path, WITHIN)
    options = {"max_new_tokens": 6, "resized_by": "qwen-vl-utils"}
    plain, keeping = Captioner(model, processor, **options), PrefixCaptioner(model, processor, **options)
    want = plain.caption(asked.query, asked.references)
    assert [keeping.caption(asked.query, asked.references) for _ in range(2)] == [want, want]
    keeping.resized_by = "processor"
    keeping.caption(asked.query, asked.references)
    assert keeping.reused is False


def test_a_caption_file_is_resumed_only_with_the_same_way(loaded, tmp_path):
    model, processor = loaded
    items, out = [item(tmp_path, WITHIN[:2])], tmp_path / "captions.json"
    Captioner(model, processor, max_new_tokens=2).caption_many(items, out, progress=False)
    assert read_json(settings_path(out), ValueError)["resized by"] == "processor"
    other = Captioner(model, processor, max_new_tokens=2, resized_by="qwen-vl-utils")
    with pytest.raises(ValueError, match=r"made with different settings \(resized by was 'processor'"):
        other.caption_many(items, out, progress=False)


def test_a_caption_file_is_resumed_only_with_the_same_reference_style(loaded, tmp_path):
    model, processor = loaded
    items, out = [item(tmp_path, WITHIN[:2])], tmp_path / "captions.json"
    tagged = Captioner(model, processor, max_new_tokens=2)
    numbered = Captioner(model, processor, max_new_tokens=2, reference_style="numbered")
    tagged.caption_many(items, out, progress=False)
    settings = read_json(settings_path(out), ValueError)
    assert settings.pop("reference style") == "tag"
    for as_written in (settings | {"reference style": "tag"}, settings):  # before there were styles: "tag"
        settings_path(out).write_text(json.dumps(as_written))
        with pytest.raises(ValueError, match=r"\(reference style was 'tag', is 'numbered'\)"):
            numbered.caption_many(items, out, progress=False)
        assert len(tagged.caption_many(items, out, progress=False)) == 1


def test_another_way_is_refused(loaded):
    with pytest.raises(ValueError, match="resized_by 'pillow': use one of processor, qwen-vl-utils"):
        Captioner(*loaded, resized_by="pillow")
