"""What an answer chooses: as models of today write it, with reasons, boxes, tokens and JSON around the letter."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.evaluation.choices import parse_choice


@pytest.mark.parametrize(
    "text",
    [
        # reasoning in a block, also where the block was opened in the prompt, or is empty
        "<think></think>\n\nB",
        "<think>\n\n</think>\n\nThe answer is B.",
        "<think>A is short, B names the dog.</think>\nB",
        "A is short.</think>\n\n**B**",
        "<think>First <think>A</think> then</think>B",
        "<thinking>Answer: A</thinking>Answer: B",
        "[THINK]A is short[/THINK]B",
        "<|channel|>analysis<|message|>A is short<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>",
        # reasoning in prose
        "Caption A is generic.\nCaption B names the dog.\n\nB",
        "A is short, while B names the dog. Therefore, the answer is B.",
        "Caption A does not name the dog. So I choose B.",
        "A is bad.\nFinal answer: **B**",
        "B\n\nBecause A is short.",
        # boxes and elements
        r"$\boxed{\text{B}}$",
        r"\boxed{\mathbf{B}}",
        r"A is short, so \(\boxed{B}\) it is",
        "<|begin_of_box|>B<|end_of_box|>",
        "A is short.<|begin_of_box|>**B**<|end_of_box|>",
        "A is bad.\n<answer>B</answer>",
        "<answer>\nOption B\n</answer>",
        # JSON
        '{"answer": "B"}',
        '{"reason": "A is short, B is not", "answer": "B"}',
        '```json\n{"answer": "B", "reason": "A is short"}\n```',
        '{"choice": "Option B"}',
        "{'answer': 'B'}",
        # tokens of templates, full width
        "B<|im_end|>",
        "The answer is B.</s>",
        "Ｂ",
        "（Ｂ）",
        "Answer：B",
        "𝐁",
        # plain
        "Answer: B",
        "**B**",
        "(B)",
        "B.",
        "The answer is B",
        "### Answer\n\nB",
    ],
)
def test_the_second_is_chosen(text):
    assert parse_choice(text) == "B"
    other = {"A": "B", "B": "A", "Ｂ": "Ａ", "𝐁": "𝐀"}
    assert parse_choice(re.sub(r"\b[ABＢ𝐁]\b", lambda letter: other[letter[0]], text)) == "A"


@pytest.mark.parametrize(
    "text",
    [
        "<think>B",  # cut off within its reasons
        "<think>A is short. The answer is B.",
        "B</think>",
        "<think>The answer is A.</think>",
        "",
        r"\boxed{A} or \boxed{B}",
        r"\boxed{}",
        r"\boxed{A or B}",
        '{"answer": "A or B"}',
        '{"answer": null}',
        '{"answer": "A"}\n{"answer": "B"}',
        "<answer>A</answer><answer>B</answer>",
        "Which?\nA\nB",
        "A or\nB",
        "A and B are tied.",
        "Both A and B",
        "The answer is A. The answer is B.",
        "It is a tie.",
        "A dog naps.",
        "<think>hm</think>A dog naps.",
        '{"answer": "A dog naps."}',
        "A dog naps. A cat sits.",
    ],
)
def test_nothing_clear_is_chosen(text):
    assert parse_choice(text) is None


UNITS = (
    "answer ",
    "is the answer ",
    "A",
    "A ",
    "A. ",
    "option A is ",
    "I choose A. ",
    "*",
    "\n",
    " ",
    "{",
    "\\",
)
UNITS += (
    "<think>",
    "</think>",
    "<answer>",
    "\\boxed{",
    "<|begin_of_box|>",
    '"answer": "',
    "<|",
    "answer" + 40 * " ",
)


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_answer_is_read(unit):
    """In linear time: with a quadratic expression one of these takes many minutes."""
    text = unit * (200_000 // len(unit))
    assert parse_choice(text) in ("A", None)
    closed = text + "</think>\nAnswer: B"
    assert parse_choice(closed) == "B"


MARKS = ["<think>", "</think>", r"\boxed{", "}", "<answer>", "</answer>", '{"answer": "', '"}', "<|im_end|>"]
PARTS = ["A", "B", "Ａ", " ", "\n", ". ", "the answer is ", "A dog", "not ", "because ", "and ", *MARKS]


@given(st.lists(st.sampled_from(PARTS), max_size=9).map("".join))
def test_no_letter_is_favoured(text):
    swapped = text.translate(str.maketrans({"A": "B", "B": "A", "Ａ": "Ｂ"}))
    assert parse_choice(swapped) == {"A": "B", "B": "A", None: None}[parse_choice(text)]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("The worse caption is A.", None),
        ("The incorrect option is A.", None),
        ("The weaker option is A, since it is short.", None),
        ("The less accurate caption is B.", None),
        ("I reject option A.", None),
        ("I disagree with option A.", None),
        ("Winner: B", "B"),
        ("\u7b54\u6848\uff1aB", "B"),
        ("La respuesta es B.", "B"),
        ("I'd go with B.", "B"),
        ("The better caption is B.", "B"),
        ("B is less wordy, so the answer is B.", "B"),
    ],
)
def test_what_is_turned_down_is_not_chosen(text, choice):
    assert parse_choice(text) == choice
