"""Names in disguise, and the strict reward against what hides a wrong name from a rule but not from a reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.concepts.disguises import disguised
from repic_core.rewards import ict_reward

GOOD = (
    "<bo> runs over a wide green meadow in the warm evening sun, far away from every house and street of town"
)


EVERYDAY = {}
EVERYDAY |= {"lies": "Li", "times": "Tim", "jeans": "Jean", "lives": "Liv", "sides": "Sid"}
EVERYDAY |= {"kites": "Kit", "lines": "Lin", "lens": "Len", "ties": "Ty", "vines": "Vin"}
EVERYDAY |= {"sales": "Sal", "males": "Mal", "mates": "Mat", "bones": "Bon", "has": "Ha"}
EVERYDAY |= {"his": "Hi", "was": "Wa", "this": "Thi", "trees": "Tre"}
NUMBERS_AND_COMPOUNDS = {}
NUMBERS_AND_COMPOUNDS |= {
    "10 balloons": "Io Lo",
    "13 people": "Le",
    "41 people, version 4.1": "Al",
    "a 50 euro note": "So",
    "3D film": "Ed",
}
NUMBERS_AND_COMPOUNDS |= {
    "1 a.m.": "Lam",
    "5'4 tall": "Sa",
    "three in-a-row": "Ina",
    "I'm": "Im",
    "I've": "Ive",
}
NUMBERS_AND_COMPOUNDS |= {"co-ed": "Ed", "hi-fi": "Hi", "Level 5 A": "Sa", "U.S.": "Us", "vis-a-vis": "Vi"}
NUMBERS_AND_COMPOUNDS |= {"yo-yo": "Yo", "to-do": "To Do", "and/or": "Ando"}


@pytest.mark.parametrize(
    "text",
    [
        "mias",
        "Mias",
        "M-i-a",
        "M i a",
        "m i as",
        "m.i.a.",
        "M_i_a",
        "mi-a",
        "m*i*a",
        "m1a",
        "mía",
        "miа",
        "@mia",
        "#mia",
        "mia_2 mia_",
        "a mia-like dog",
        "mia's",
        "m̶i̶a̶",
        "MIA!",
        "ｍｉａ",
        "m·i·a",
        "mia.com",
        "x@mia",
        "mia—like",
    ],
)
def test_in_disguise(text):
    assert disguised(text, ["<mia>", "<zoe>"]) in (["mia"], ["mia", "mia"])


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a man in a hat", "<Ina>"),
        ("It is a dog", "<Isa>"),
        ("a man in\u2014a hat", "<Ina>"),
        ("in, a hat", "<Ina>"),
        ("anaemia", "<mia>"),
        ("aim", "<mia>"),
        ("dogs", "<dog>"),  # an ordinary word
        ("U S A", "<U>"),
        ("大小，红色", "<小红>"),
        *((f"He {word} there", f"<{name}>") for word, name in EVERYDAY.items()),
        *((text, f"<{name}>") for text, names in NUMBERS_AND_COMPOUNDS.items() for name in names.split()),
    ],
)
def test_not_in_disguise(text, tag):
    assert disguised(text, [tag]) == []


def test_a_right_name_in_another_form_is_no_wrong_one():
    good = "<bo> runs over a wide green meadow, like all "
    for right, wrong, said in (("<Anne>", "<Ann>", "Annes"), ("<Mary Ann>", "<Ann>", "Mary-Anns")):
        assert ict_reward(good + said, ["<bo>", right], ["<bo>", right, wrong], min_length=10) == 0.5
    assert ict_reward(good + "black-widows", ["<bo>"], ["<black widow>", "<vidow>"], min_length=10) == 0.5


def test_forms_that_look_like_a_name():
    for text in (
        "\u039c\u0399\u0391",
        "\u1d0d\u026a\u1d00",
        "\U0001f17c\U0001f178\U0001f170",
        "m!a",
        "mi@",
        "m/i/a",
        "m=i=a",
        "mia2",
    ):
        assert disguised(text, ["<mia>"]) == ["mia"], text


def test_plurals_of_names_that_end_in_y():
    assert disguised("two Mollies", ["<Molly>"]) == ["molly"]


def test_names_of_several_words_and_of_other_scripts():
    assert disguised("a black-widow, BlackWidow, black_widows", ["<black widow>"]) == ["black widow"] * 3
    assert disguised("小-红在跑", ["<小红>"]) == ["小红"]
    assert disguised("A-n-n-e", ["<Ann>", "<Anne>"]) == ["anne"]


ENTITIES = {
    "named": "&lt;{0}&gt;",
    "decimal": "&#60;{0}&#62;",
    "hex": "&#x3c;{0}&#x3E;",
    "double": "&amp;lt;{0}&amp;gt;",
    "bars": "<|{0}|>",
    "escaped": "\\<{0}\\>",
    "closed": "</{0}>",
    "empty": "<{0}/>",
    "bold": "**{0}**",
    "emphasis": "_{0}_",
    "code": "`{0}`",
    "struck": "~~{0}~~",
    "html": "<b>{0}</b>",
    "link": "[{0}](http://x.y)",
    "quotes": "\u201c{0}\u201d",
    "guillemets": "\u2039{0}\u203a",
    "round": "({0})",
    "handle": "@{0}",
    "hash": "#{0}",
    "possessive": "{0}\u2019s",
    "plural": "{0}s",
    "compound": "{0}-like",
    "unclosed": "<{0}",
    "plain": "{0}",
    "tag": "<{0}>",
    "full width": "\uff1c{0}\uff1e",
    "attribute": "<{0} id=1>",
    "comment-like": "<-- {0} -->",
    "fence": "```\n{0}\n```",
}
LETTERS = {
    "as it is": lambda name: name,
    "capitals": str.upper,
    "title": str.title,
    "zero width": lambda name: "\u200b".join(name),
    "soft hyphens": lambda name: "\u00ad".join(name),
    "word joiner": lambda name: name[:1] + "\u2060" + name[1:],
    "hyphens": lambda name: "-".join(name),
    "dots": lambda name: ".".join(name),
    "spaces": lambda name: " ".join(name),
    "underscores": lambda name: "_".join(name),
    "asterisks": lambda name: "*".join(name),
    "full width": lambda name: "".join(chr(ord(c) + 0xFEE0) for c in name),
    "accent": lambda name: name.replace("i", "\u00ed"),
    "stroke": lambda name: "\u0336".join(name),
    "Cyrillic": lambda name: name.replace("a", "\u0430"),
    "digit": lambda name: name.replace("i", "1"),
    "variation": lambda name: "\ufe0e".join(name),
    "entity": lambda name: "".join(f"&#{ord(c)};" for c in name),
    "escaped": lambda name: f"\\u{ord(name[0]):04x}{name[1:]}",
}


@given(
    st.sampled_from(sorted(ENTITIES)),
    st.sampled_from(sorted(LETTERS)),
    st.sampled_from(["mia", "zimba", "tiana"]),
    st.integers(1, 15),
)
def test_a_wrong_candidate_that_a_reader_sees_costs(around, letters, name, place):
    words = GOOD.split()
    seen = ENTITIES[around].format(LETTERS[letters](name))
    completion = " ".join([*words[:place], seen, *words[place:]])
    candidates = ["<bo>", "<mia>", "<zimba>", "<tiana>"]
    assert ict_reward(GOOD, ["<bo>"], candidates) == 1
    assert ict_reward(completion, ["<bo>"], candidates) <= 0.5


@given(
    st.sampled_from(
        ["{}", "**{}**", "_{}_", "`{}`", "&lt;think&gt;hm&lt;/think&gt;{}", "{}</s>", "```\n{}\n```"]
    ),
    st.sampled_from(["<bo>", "\\<bo\\>", "&lt;bo&gt;", "**<bo>**", "<B\u200bo>", "< BO >", "\uff1cbo\uff1e"]),
)
def test_a_right_name_as_models_write_it_earns(around, name):
    assert ict_reward(around.format(GOOD.replace("<bo>", name)), ["<bo>"], ["<bo>", "<mia>"]) == 1
