"""Embedders and regions against `transformers`' own calls, on small models with random weights."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from repic_core.retrieval.embedders import EmbedderError, PretrainedEmbedder, TowerEmbedder, unit
from repic_core.retrieval.regions import Detector, tiles, whole

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["<unk>", "<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]


@pytest.fixture(scope="module")
def tiny(base):
    from repic_core.models.loading import load_model

    return load_model(base)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    sizes = ((40, 30), (64, 64), (30, 50))
    return [Image.fromarray(rng.integers(0, 255, (high, wide, 3), np.uint8)) for wide, high in sizes]


def save_tokenizer(folder):
    from transformers import CLIPTokenizer

    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    return tokenizer


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 16}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 2}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)).eval()
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    save_tokenizer(folder)
    return folder, model


def test_clip_photos_and_texts(clip, photos):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer

    folder, model = clip
    embedder = PretrainedEmbedder(folder, batch_size=2)
    pixels = AutoImageProcessor.from_pretrained(folder)(photos, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(["a dog", "a toy cat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**pixels, **tokens)  # its embeddings are projected and of length 1
    np.testing.assert_allclose(embedder.images(photos), out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(embedder.texts(["a dog", "a toy cat"]), out.text_embeds, atol=1e-5)
    assert embedder.images([]).shape[0] == 0
    assert embedder.name == PretrainedEmbedder(folder).name


def test_siglip_pads_texts_as_it_was_trained(tmp_path, photos):
    import torch
    from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).eval()
    model.save_pretrained(tmp_path)
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    embedder = PretrainedEmbedder(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        ["a dog"], padding="max_length", max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        out = model(**processor(photos, return_tensors="pt"), **tokens)
    np.testing.assert_allclose(embedder.images(photos), out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(embedder.texts(["a dog"]), out.text_embeds, atol=1e-5)


def test_dino_has_no_text_side(tmp_path, photos):
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = {k: v for k, v in VISION.items() if k != "intermediate_size"}
    model = Dinov2Model(Dinov2Config(**config)).eval()
    model.save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor.save_pretrained(tmp_path)
    embedder = PretrainedEmbedder(tmp_path)
    with torch.no_grad():
        out = model(**processor(photos, return_tensors="pt"))
    np.testing.assert_allclose(embedder.images(photos), unit(out.pooler_output.numpy()), atol=1e-5)
    with pytest.raises(EmbedderError, match="no text side"):
        embedder.texts(["a dog"])


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(EmbedderError, match="can't be loaded as an embedder"):
        PretrainedEmbedder(tmp_path)
    with pytest.raises(ValueError, match="can't be loaded as a zero-shot detector"):
        Detector(tmp_path, ["dog"])
    with pytest.raises(ValueError, match="give the concepts a category"):
        Detector(tmp_path, ["", " "])


def test_own_tower_is_the_mean_of_the_tokens_that_the_model_sees(tiny, photos):
    import torch

    model, processor = tiny
    embedder = TowerEmbedder(model, processor, side=48, batch_size=2)
    vectors = embedder.images(photos)
    for photo, vector in zip(photos, vectors, strict=True):
        scale = 48 / (photo.width * photo.height) ** 0.5
        small = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        inputs = processor.image_processor(small, return_tensors="pt")
        with torch.no_grad():
            seen = model.model.get_image_features(
                inputs["pixel_values"], inputs["image_grid_thw"]
            ).pooler_output
        mean = torch.cat(list(seen)).mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)
    assert embedder.name != TowerEmbedder(model, processor, side=64).name
    processor.image_processor.size["longest_edge"] *= 2  # photos may be scaled to another size
    assert embedder.name != TowerEmbedder(model, processor, side=48).name
    processor.image_processor.size["longest_edge"] //= 2
    with pytest.raises(EmbedderError, match="has no vision tower"):
        TowerEmbedder(torch.nn.Linear(2, 2), processor)
    with pytest.raises(ValueError, match=r"gone\.png: no such image"):
        embedder.images(["gone.png"])


def test_tiles_cover_a_photo():
    photo = Image.new("RGB", (96, 64))
    assert whole(photo) == [(0, 0, 96, 64)]
    overlapping = tiles(photo, across=2, overlap=0.5)
    assert overlapping[:3] == [(0, 0, 48, 32), (24, 0, 72, 32), (48, 0, 96, 32)] and len(overlapping) == 9
    assert tiles(photo, across=1) == whole(photo)
    with pytest.raises(ValueError, match="overlap in"):
        tiles(photo, overlap=1.0)
    for across, overlap in ((2, 0), (3, 0.3), (4, 0.6), (2, 0.2)):
        row = [box for box in tiles(photo, across, overlap) if box[1] == 0]
        for left, right in pairwise(row):
            assert left[2] - right[0] >= overlap * (left[2] - left[0]) - 1
        covered = np.zeros((64, 96), bool)
        for x1, y1, x2, y2 in tiles(photo, across, overlap):
            assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 64
            covered[y1:y2, x1:x2] = True
        assert covered.all()


def owl(folder):
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor

    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 2}
    model = OwlViTForObjectDetection(OwlViTConfig(text_config=text, vision_config=VISION, projection_dim=32))
    for parameter in model.box_head.parameters():  # else random boxes are lines
        parameter.data *= 0.1
    tokenizer = save_tokenizer(folder)
    tokenizer.model_max_length = 16
    images = OwlViTImageProcessor(size={"height": 32, "width": 32})
    return model, OwlViTProcessor(images, tokenizer)


def grounding_dino(folder):
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "a", "dog", "toy", "cat"]
    (folder / "vocab.txt").write_text("\n".join(words))
    swin = SwinConfig(
        image_size=64, window_size=2, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 2], out_indices=[2, 3]
    )
    text = {**SMALL, "vocab_size": len(words), "model_type": "bert"}
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=10,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_feature_levels=3,
        max_text_len=32,
    )
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    return GroundingDinoForObjectDetection(config), GroundingDinoProcessor(images, tokenizer)


@pytest.mark.parametrize("family", [owl, grounding_dino])
def test_detectors(family, tmp_path, photos):
    import torch

    torch.manual_seed(0)
    model, processor = family(tmp_path)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    photo = photos[0]
    detector = Detector(tmp_path, ["Dog", "toy", "", "dog"], threshold=0.0, most=5)
    boxes = detector(photo)
    inputs = processor(images=photo, text=[["dog", "toy"]], return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    scores = out.logits[0].sigmoid().max(-1).values
    centres = out.pred_boxes[0][scores.argsort(descending=True)[:5]] * torch.tensor([40, 30, 40, 30])
    expected = []
    for x, y, wide, high in centres.tolist():
        box = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
        box = tuple(round(min(max(v, 0), limit)) for v, limit in zip(box, (40, 30, 40, 30), strict=True))
        if box[0] < box[2] and box[1] < box[3]:
            expected.append(box)
    assert boxes == list(dict.fromkeys(expected)) and boxes
    assert Detector(tmp_path, ["dog"], threshold=1.0)(photo) == whole(photo)
