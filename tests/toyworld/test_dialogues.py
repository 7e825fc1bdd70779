"""Dialogues on the toy base: later turns know what earlier ones showed."""

import numpy as np
import pytest

from repic_core.models.loading import load_model
from repic_core.toyworld import dialogues
from repic_core.toyworld.world import make_sample


def test_later_turns_know_what_earlier_turns_showed():
    scores = dialogues.measure_dialogues(*load_model("assets/toy-base"), "val", n=6)
    assert set(scores) == set(dialogues.SCORES)
    assert scores["who, later"] > 0.8 and scores["earlier photo"] > 0.8
    assert scores["introduced later"] > 0.3


def test_f1_of_names_by_hand():
    sample = make_sample(4, np.random.default_rng(0), "val", n_shown=2)
    a, b = (f"<{sample.names[i]}>" for i in sample.shown)
    other = next(f"<{name}>" for name in sample.names if f"<{name}>" not in (a, b))
    assert dialogues.names_f1(f"{a} and {b}.", sample) == 1
    assert dialogues.names_f1(f"{a} and {other}.", sample) == 0.5
    assert dialogues.names_f1(f"{a}, {a}.", sample) == pytest.approx(2 / 3)
    assert dialogues.names_f1("A toy.", sample) == 0
