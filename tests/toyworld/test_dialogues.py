"""Dialogues on the toy base: later turns know what earlier ones showed."""

import numpy as np
import pytest

from repic_core.models.loading import load_model
from repic_core.toyworld import dialogues
from repic_core.toyworld.photos import place_of
from repic_core.toyworld.world import make_sample


def test_later_turns_know_what_earlier_turns_showed():
    scores = dialogues.measure_dialogues(*load_model("assets/toy-base"), "val", n=6)
    assert set(scores) == set(dialogues.SCORES)
    assert scores["who, later"] > 0.8 and scores["earlier photo"] > 0.8
    assert scores["introduced later"] > 0.3


class Knowing:
    """In place of a captioner and its chats: it answers from the sample, and writes down what it is asked."""

    def __init__(self, sample):
        self.sample, self.asked = sample, []
        self.places = [place_of(box) for box in sample.scene.boxes]

    def ask(self, question, photo=None, references=()):
        self.asked.append(question)
        for index, place in zip(self.sample.shown, self.places, strict=True):
            if question.endswith(f"at the {place}?"):
                return f"This is <{self.sample.names[index]}>."
        return ""

    def caption(self, photo, references, question):
        assert np.asarray(photo).shape == (144, 144, 3) and len(references) == 4
        return self.sample.caption(np.random.default_rng(0))


def test_only_places_of_one_thing_are_asked_about(monkeypatch):
    monkeypatch.setattr(dialogues, "Chat", lambda captioner: captioner)
    crowded = 0
    for seed in range(60):
        sample = make_sample(4, np.random.default_rng(seed), "val", n_shown=3)
        knows = Knowing(sample)
        found = list(dialogues._dialogues(knows, sample, np.random.default_rng(seed)))
        alone = [place for place in knows.places if knows.places.count(place) == 1]
        asked = [question.partition("at the ")[2] for question in knows.asked if "at the" in question]
        assert asked == [f"{place}?" for place in alone]
        assert [score for name, score in found if name == "earlier photo"] == [1.0] * max(0, len(alone) - 1)
        assert ("caption at once", 1.0) in found
        crowded += len(alone) < 3
    assert crowded > 3


def test_f1_of_names_by_hand():
    sample = make_sample(4, np.random.default_rng(0), "val", n_shown=2)
    a, b = (f"<{sample.names[i]}>" for i in sample.shown)
    other = next(f"<{name}>" for name in sample.names if f"<{name}>" not in (a, b))
    assert dialogues.names_f1(f"{a} and {b}.", sample) == 1
    assert dialogues.names_f1(f"{a} and {other}.", sample) == 0.5
    assert dialogues.names_f1(f"{a}, {a}.", sample) == pytest.approx(2 / 3)
    assert dialogues.names_f1("A toy.", sample) == 0
