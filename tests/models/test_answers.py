"""A model's text as a person reads it, and where each character was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.models.answers import answer, as_read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<bo> naps.", "<bo> naps."),
        ("**<bo>** naps, _Mia_ looks, ~~no~~ `bo`", "<bo> naps, Mia looks, no bo"),
        ("__Bo__ *naps*. M**i**a", "Bo naps. Mia"),
        ("a_b_c, 2 * 3, O`Brien ~5", "a_b_c, 2 * 3, O`Brien ~5"),  # not emphasis
        (r"\<bo\> \*naps\* \\", "<bo> naps \\"),
        (r"One.\nBo naps. \u003cbo\u003e", "One. Bo naps. <bo>"),  # from JSON
        (r"\ud83d", r"\ud83d"),  # half a character
        ("&lt;bo&gt; &amp;lt;mia&amp;gt; Bo&#39;s Bo&#x27;s &quot;", "<bo> <mia> Bo's Bo's \""),
        ("&nosuch; AT&T &", "&nosuch; AT&T &"),
        ("<s> <bo></s>", " <bo>"),
        ("<unk><bo><pad>", " <bo> "),
        ("<|im_start|><bo><|im_end|>", " <bo> "),
        ("<0x0A><bo>", " <bo>"),
        ("<p><b>Bo</b><br/>naps</p>", " Bo naps "),
        ('<img src="x.png"><span class="a">Bo</span>', " Bo"),
        ("<!-- a note --><bo>", "<bo>"),
        ("[INST]Bo[/INST]", " Bo "),
        ("```markdown\n<bo> naps.\n```", "\n<bo> naps.\n"),
        ("I <3 bo and mia :>", "I <3 bo and mia :>"),
        ("<marc> <pearl> </bo>", "<marc> <pearl> </bo>"),  # people's names, and a closing tag
        ("<think>Is it <mia>?</think><bo> naps.", "<bo> naps."),
        ("<think></think>\n\n<bo>", "\n\n<bo>"),
        ("<details><summary>Bo</summary></details>", "  Bo  "),
        ("<p hidden>Bo <input disabled>", " Bo  "),
        ("<end_of_utterance><image_soft_token>Bo<loc0123><extra_id_0><unused12><row_1_col_1>", "  Bo    "),
        ("Bo\u2122, Bo\u00b9, Bo\u2461 and Bo<sup>1</sup>", "Bo, Bo, Bo and Bo"),
        ("[Bo](https://x.y/mia.jpg), ![Bo](./mia.png) https://x.y/mia", "[Bo], ![Bo] "),
        ("<seed:think>mia</seed:think>bo", "bo"),
        ("<thinking_process>mia</thinking_process>bo <reflection>mia</reflection>", "bo "),
        ("<|channel>thought\nmia<channel|>bo", "bo"),
        ("<think>Is it <mia>", ""),  # cut off before an answer came
        ("Is it <mia>?</think><bo> naps.", "<bo> naps."),  # the prompt held the opening tag
        ("<thinking>mia</thinking>bo<reasoning>zoe</reasoning>", "bo"),
        ("<think>mia</think><answer>bo</answer>", " bo "),
        ("&lt;think&gt;mia&lt;/think&gt;bo", "bo"),
        ("[THINK]mia[/THINK]bo", "bo"),
        ("\u25c1think\u25b7mia\u25c1/think\u25b7bo", "bo"),
        ("<|begin_of_thought|>mia<|end_of_thought|>bo", "bo"),
        ("<|channel|>analysis<|message|>mia<|end|><|channel|>final<|message|>bo", "bo"),
    ],
)
def test_as_read(written, read):
    text, spans = as_read(written)
    assert text == read
    assert len(spans) == len(text)


def test_names_are_kept_although_they_look_like_markup():
    assert as_read("<s> and <B>", ["s", "b"])[0] == "<s> and <B>"
    assert as_read("<|mia|> <|end|>", ["mia", "end"])[0] == "<|mia|> <|end|>"


def test_places_are_those_of_the_original():
    written = r"**\<bo\>** &amp; Mia</s>"
    text, spans = as_read(written)
    assert text == "<bo> & Mia"
    assert [written[a:b] for a, b in spans[:4]] == [r"\<", "b", "o", r"\>"]
    assert written[spans[5][0] : spans[5][1]] == "&amp;"


PIECES = [
    "<bo>",
    "**",
    "_",
    "\\<",
    "&lt;",
    "&amp;",
    "</s>",
    "<think>",
    "</think>",
    "```",
    "\n",
    " ",
    "Mia",
    "<br>",
    "é",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))
def test_places_are_ordered_and_inside(written):
    text, spans = as_read(written)
    assert len(text) == len(spans)
    assert all(0 <= a < b <= len(written) for a, b in spans)
    assert spans == sorted(spans)


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<!--", "*", "_", "`", "<", "&amp;", "<b x=", "```\n", "[THINK]"]
)
def test_a_long_text_of_one_piece_is_read(piece):
    as_read(piece * 30_000)  # with a quadratic pattern this would take minutes


def test_answer_cuts_reasoning_and_nothing_else():
    assert answer("<think>A dog? no</think>\n\n**yes**") == "**yes**"
    assert answer('{"bbox_2d": [1, 2, 3, 4]}') == '{"bbox_2d": [1, 2, 3, 4]}'
