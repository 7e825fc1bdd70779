"""Retrieved concepts confirmed by OCT: the toy model on clear pairs, and stubs for what is asked and kept."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers.places import BASE
from repic_core.captioner.caption_files import CaptionItem
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.models.loading import load_model
from repic_core.prompts import OCT_QUESTION, OCT_SUFFIX
from repic_core.retrieval import verify
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.find import ConceptIndex, Hit, find_concepts, with_retrieved
from repic_core.retrieval.regions import tiles
from repic_core.retrieval.verify import Verifier, same_object
from repic_core.toyworld.drawings import identities
from repic_core.toyworld.photos import draw_reference


def color_of(image):
    return tuple(int(value) for value in np.asarray(image)[0, 0])


class Colors:
    name = "mean colour"

    def images(self, photos):
        return unit([np.asarray(photo, np.float32).mean((0, 1)) + 1 for photo in photos])


@pytest.fixture
def database():
    photos = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
    concepts = [Concept(name=name, image=Image.new("RGB", (8, 8), c)) for name, c in photos.items()]
    concepts.append(
        Concept(name="two", image=[Image.new("RGB", (8, 8), c) for c in ((0, 90, 90), (90, 90, 0))])
    )
    return ConceptDatabase(concepts)


@pytest.fixture
def asked(monkeypatch):
    """The answers of `same_object` are minus the colours' distance; what it was asked is listed."""
    questions = []

    def answer(model, processor, pairs, batch_size):
        colors = [(color_of(one), color_of(two)) for one, two in pairs]
        questions.extend(colors)
        return [-float(np.abs(np.subtract(one, two)).sum()) for one, two in colors]

    monkeypatch.setattr(verify, "same_object", answer)
    return questions


def test_each_hit_is_compared_with_the_region_that_found_it(database, asked):
    photo = Image.new("RGB", (40, 20), (0, 0, 240))
    photo.paste((240, 0, 0), (20, 0, 40, 20))
    index = ConceptIndex.build(database, Colors())
    confirm = Verifier(None, None, database, least=-20)
    assert [hit.tag for hit in find_concepts(photo, index, Colors(), tiles, k=3)] == [
        "<blue>",
        "<red>",
        "<two>",
    ]
    kept = find_concepts(photo, index, Colors(), tiles, k=3, confirm=confirm)
    assert [hit.tag for hit in kept] == ["<blue>", "<red>"] and kept[0].similarity > 0.99
    assert asked[:2] == [((0, 0, 240), (0, 0, 250)), ((240, 0, 0), (250, 0, 0))]
    assert confirm.asked == 8  # four photos of three concepts, in both orders
    item = CaptionItem(photo, [], tags=["<blue>"])
    (changed,) = with_retrieved([item], database, index, Colors(), tiles, k=3, confirm=confirm)
    assert [concept.tag for concept in changed.references] == ["<blue>", "<red>"]


def test_of_several_photos_the_surest_counts(database, asked):
    crop = Image.new("RGB", (9, 9), (0, 90, 80))
    assert Verifier(None, None, database).sureness([(Hit("<two>", 0.9), crop)]) == [-10.0]
    assert len(asked) == 2
    strict = Verifier(None, None, database, least=-9.0)
    assert strict([(Hit("<two>", 0.9), crop)]) == [] == strict([])


def test_both_orders_are_asked_and_the_less_sure_counts(monkeypatch):
    one, two = (Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 20))
    batches = []

    def odds(model, processor, pairs):
        batches.append(len(pairs))
        return [float(color_of(first)[0] - 12) for first, _ in pairs]

    monkeypatch.setattr(verify, "_log_odds", odds)
    assert same_object(None, None, [(one, two), (two, two), (two, one)], batch_size=4) == [-2.0, 8.0, -2.0]
    assert batches == [4, 2] and same_object(None, None, []) == []


@pytest.fixture(scope="module")
def toy():
    return load_model(BASE)


def test_the_toy_base_tells_toys_apart(toy):
    rng = np.random.default_rng(3)
    one, two, three = (identities("test")[i] for i in (5, 100, 200))
    shown = [(one, one), (two, two), (three, three), (one, two), (two, three), (three, one)]
    pairs = [tuple(Image.fromarray(draw_reference(toy, rng)) for toy in pair) for pair in shown]
    sure = same_object(*toy, pairs, batch_size=5)
    assert [value > 0 for value in sure] == [True] * 3 + [False] * 3
    assert same_object(*toy, pairs, batch_size=64) == pytest.approx(sure, abs=1e-3)
    backwards = same_object(*toy, [pair[::-1] for pair in pairs])
    assert backwards == pytest.approx(sure, abs=1e-3)


def test_the_model_is_asked_as_in_training_and_read_at_its_first_word(base, monkeypatch):
    model, processor = load_model(base)
    seen = []
    forward = type(model).forward

    def watched(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        seen.append((kwargs["input_ids"], out.logits))
        return out

    monkeypatch.setattr(type(model), "forward", watched)
    pair = [Image.fromarray(draw_reference(identities("test")[5], np.random.default_rng(0)))] * 2
    (sure,) = same_object(model, processor, [pair])
    tokens, logits = seen[0]
    text = processor.tokenizer.decode(tokens[0])
    assert f"{OCT_QUESTION} {OCT_SUFFIX}" in text and text.index("vision_start") < text.index(OCT_QUESTION)
    yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    assert sure == pytest.approx(float(min(row[-1, yes] - row[-1, no] for row in logits)), abs=1e-5)


def test_a_tokenizer_that_splits_the_answer_is_an_error():
    class Splits:
        def encode(self, text, add_special_tokens):
            return [1, 2]

    with pytest.raises(ValueError, match="the tokenizer splits the answer 'yes'"):
        verify._openings(Splits(), "yes")
