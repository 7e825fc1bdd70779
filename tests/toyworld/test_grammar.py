"""Captions of the drawn world: what is written is true and can be read back; no form carries the names."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repic_core.toyworld.drawings import all_drawings, pick
from repic_core.toyworld.grammar import (
    FORMS,
    GROUND_FORMS,
    PLACE_FORMS,
    RELATION_FORMS,
    Mention,
    read,
    reading_order,
    relations,
    sentences,
    write_caption,
)
from repic_core.toyworld.photos import BACKGROUNDS, PLACES, Scene, draw_scene, place_of


def captioned(seed):
    """A scene, what its drawings are called (tags and descriptions mixed), and a caption."""
    rng = np.random.default_rng(seed)
    drawings = pick(int(rng.integers(1, 8)), rng, "train")
    scene = draw_scene(drawings, rng)
    things = [f"<n{i}>" if rng.random() < 0.5 else one.description for i, one in enumerate(drawings)]
    return scene, things, write_caption(scene, things, rng)


def holds(scene, relation, i, j):
    """Whether drawing i stands so to drawing j: a check of this test's own, with numpy, from boxes and depths."""
    a, b = np.array(scene.boxes[i]).reshape(2, 2), np.array(scene.boxes[j]).reshape(2, 2)
    right, down = a.mean(0) - b.mean(0)
    ratio = np.prod(a[1] - a[0]) / np.prod(b[1] - b[0])
    shown = np.zeros((2, 144, 144), bool)
    for canvas, ((x1, y1), (x2, y2)) in zip(shown, (a, b), strict=True):
        canvas[y1:y2, x1:x2] = True
    meet, nearer = shown.all(0).any(), scene.depths[i] > scene.depths[j]
    return {
        "right of": right >= 24,
        "left of": right <= -24,
        "below": down >= 24,
        "above": down <= -24,
        "next to": np.hypot(right, down) <= 54,
        "in front of": meet and nearer,
        "behind": meet and not nearer,
        "larger than": ratio >= 1.5,
        "smaller than": 1 / ratio >= 1.5,
    }[relation]


def test_there_are_many_forms():
    assert len(FORMS) == len(set(FORMS)) >= 40
    assert set(FORMS) > {*GROUND_FORMS, *PLACE_FORMS}
    # In each group, the thing comes first in some and last in others.
    for group in (PLACE_FORMS, *RELATION_FORMS.values()):
        assert any(form.startswith("{thing}") for form in group)
        assert any(not form.startswith("{thing}") for form in group)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_written_is_read_back_and_true(seed):
    scene, things, caption = captioned(seed)
    background, mentions = read(caption)
    order = reading_order(scene.boxes)
    assert background == scene.background
    assert [mention.thing for mention in mentions] == [things[i] for i in order]
    for n, (i, mention) in enumerate(zip(order, mentions, strict=True)):
        if mention.relation is None:
            assert mention.place == place_of(scene.boxes[i]) and mention.other is None
        else:
            # "It" is the thing of the sentence before.
            before = order[n - 1]
            assert n > 0 and mention.place is None and mention.other == things[before]
            assert mention.relation in relations(
                scene.boxes[i], scene.boxes[before], scene.depths[i] > scene.depths[before]
            )
            assert holds(scene, mention.relation, i, before)


def test_relations_are_all_that_hold():
    seen = Counter()
    for seed in range(60):
        scene, things, _ = captioned(seed)
        for i in range(len(things)):
            for j in set(range(len(things))) - {i}:
                wanted = [relation for relation in RELATION_FORMS if holds(scene, relation, i, j)]
                assert relations(scene.boxes[i], scene.boxes[j], scene.depths[i] > scene.depths[j]) == wanted
                seen.update(wanted)
    assert set(seen) == set(RELATION_FORMS)


def test_reading_order():
    # Thirds from the top, then from the left: the second row's boxes are not in the order of their heights.
    boxes = [(90, 60, 120, 90), (0, 70, 40, 95), (100, 0, 140, 40), (50, 100, 90, 140), (10, 10, 40, 40)]
    assert reading_order(boxes) == [4, 2, 1, 0, 3]


def test_no_form_carries_the_names():
    places = "|".join(place for row in PLACES for place in row)
    patterns = {
        form: re.compile(re.escape(form).replace(r"\{thing\}", r"<n\d>").replace(r"\{place\}", f"({places})"))
        for form in FORMS
        if "{thing}" in form
    }
    counts, last, mentions = Counter(), 0, 0
    for seed in range(250):
        scene, things, _ = captioned(seed)
        tags = [f"<n{i}>" for i in range(len(things))]
        rng = np.random.default_rng(seed)
        for caption in (write_caption(scene, tags, rng) for _ in range(4)):
            for sentence in re.findall(r"[^.]*<n\d>[^.]*\.", caption):
                (form,) = [form for form, pattern in patterns.items() if pattern.fullmatch(sentence.strip())]
                counts[form] += 1
                last += sentence.endswith(">.")
                mentions += 1
    assert mentions > 3500 and set(counts) == set(patterns)
    form, most = counts.most_common(1)[0]
    assert most < 0.12 * mentions, form
    assert 0.3 < last / mentions < 0.7


SCENE = Scene(
    image=np.zeros((144, 144, 3), np.uint8),
    background="blue sea",
    boxes=((0, 0, 40, 40), (52, 4, 92, 44), (100, 100, 140, 140)),
    depths=(0, 1, 2),
)


@pytest.mark.parametrize(
    "thing",
    [
        *("<a|b>", "<(>", "<[a-z]+>", "<{thing}>", "<{place}>", "<\\d+$>", "<?P<x>>", "a (red) thing*", "<>"),
        *("{0}", "{", "}", "it", "is at the top", "<a", "a>", "<<a>>", "Ünï çødé", "a.b", ".", "\n", "^$"),
    ],
)
def test_names_with_special_characters(thing):
    for seed in range(30):
        caption = write_caption(SCENE, [thing, "<bo>", "<mia>"], np.random.default_rng(seed))
        assert thing[1:] in caption
        background, mentions = read(caption)
        assert background == "blue sea" and Counter(m.thing for m in mentions)["<mia>"] == 1
        if re.fullmatch(r"<[^<>.]+>", thing):
            assert [mention.thing for mention in mentions] == [thing, "<bo>", "<mia>"]


PIECES = (
    "On a ",
    "blue sea",
    "It",
    "it",
    "is at the ",
    "top left",
    "<",
    ">",
    "<bo>",
    "To the right of it is ",
    ".",
    " ",
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join)))
def test_any_text_can_be_read(text):
    background, mentions = read(text)
    assert background is None or background in BACKGROUNDS
    assert len(mentions) <= len(sentences(text))


def test_read_by_hand():
    said = (
        "This is a NIGHT SKY. at the Top Left there is A brown bird. Something else. Below it is <bo>. "
        "It is partly hidden by <mia>."
    )
    assert read(said) == (
        "night sky",
        [
            Mention("a brown bird", "top left"),
            Mention("<bo>", relation="below", other="a brown bird"),
            Mention("<mia>", relation="in front of", other="<bo>"),
        ],
    )
    # Without a thing before, "it" is nothing.
    assert read("Below it is <bo>.") == (None, [Mention("<bo>", relation="below")])
    assert read("On a green cheese. <bo> is at the attic.") == (None, [])
    assert read("") == (None, [])


def test_every_description_can_be_read_back_in_every_form():
    for one in all_drawings()[::7]:
        for form in (*PLACE_FORMS, *(form for forms in RELATION_FORMS.values() for form in forms)):
            sentence = form.format(thing=one.description, place="bottom right")
            (mention,) = read(sentence[0].upper() + sentence[1:])[1]
            assert mention.thing == one.description
            assert mention.place == ("bottom right" if form in PLACE_FORMS else None)
            assert mention.relation is None or form in RELATION_FORMS[mention.relation]
