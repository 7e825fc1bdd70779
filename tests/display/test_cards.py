"""Cards show captions with names in colour, escape what they are given, and grow in one output."""

import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.display.caption_grid import GridRow
from repic_core.display.cards import caption_cards, reference_cards, show_growing

PHOTO = Image.new("RGB", (16, 12), "#7799bb")
BO, MIA = Concept("<bo>", "bo", PHOTO, "a dog"), Concept("<mia>", "Mia Rose", PHOTO, "a cat")


def test_names_are_in_colour_struck_out_or_listed():
    row = GridRow(PHOTO, [BO, MIA], {"base": "A dog.", "tuned": "<bo> and <nobody>."}, "Who?", ("<bo>",))
    cards = caption_cards([row])
    html = cards._repr_html_()
    assert '<span class="name" style="--concept: #1d70c9">&lt;bo&gt;</span>' in html
    assert '<del title="not in the photo">&lt;nobody&gt;</del>' in html
    assert html.count("Not named: &lt;bo&gt;") == 1 and html.count("1 of 1 names") == 1
    assert html.count("<img") == 3 and "<figcaption>Who?</figcaption>" in html
    assert repr(cards) == "shown: <bo>\nbase: A dog.\ntuned: <bo> and <nobody>."


def test_a_shown_concept_that_is_no_reference_has_a_colour_too():
    assert "&lt;mia&gt;</span>" in caption_cards([GridRow(PHOTO, [BO], {"m": "<mia>"}, "", ["<mia>"])]).html


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror="alert(2)">'])
def test_nothing_is_markup(text):
    concept = Concept("<bo>", text, PHOTO, text)
    html = (
        caption_cards([GridRow(PHOTO, [concept], {text: text}, text)]).html + reference_cards([concept]).html
    )
    assert "<script>" not in html and "<img src=x" not in html


def test_a_long_database_is_counted():
    many = [Concept(name=f"n{number}", image=PHOTO) for number in range(5)]
    cards = reference_cards(many, 2)
    assert "2 of 5 concepts" in cards.html and cards.html.count("<img") == 2
    assert "concepts</p>" not in reference_cards(many).html


def test_a_caption_grows_in_one_output(monkeypatch):
    shown, updates = [], []

    class Handle:
        def update(self, card):
            updates.append(card.text)

    monkeypatch.setattr("IPython.display.display", lambda card, **_: shown.append(card.text) or Handle())
    assert show_growing(iter(["A", "A <bo>"]), PHOTO, [BO]) == "A <bo>"
    assert shown == ["shown: <bo>\nCaption: "]
    assert updates == ["shown: <bo>\nCaption: A", "shown: <bo>\nCaption: A <bo>"]
