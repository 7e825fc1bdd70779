"""Boxes as the three families write them: read by the reward, by `locate` and by the task scores alike."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.data.rows import TrainingExample
from repic_core.evaluation import task_scores
from repic_core.models.boxes import stated_box, to_model_frame
from repic_core.models.families import FAMILIES
from repic_core.rewards import vlt_reward
from repic_core.toyworld.model import make_processor
from repic_core.toyworld.photos import SCENE_SIDE

BOX = [140.0, 99.0, 641.0, 571.0]


@pytest.mark.parametrize(
    "answer",
    [
        "the small dog(140,99),(641,571)",
        "(140,99),(641,571)",
        "(140, 99), (641, 571).",
        "(140,99)(641,571)",
        "( 140 , 99 ) ,\n( 641 , 571 )",
        "<|object_ref_start|>the small dog<|object_ref_end|><|box_start|>(140,99),(641,571)<|box_end|>",
        "<ref>the small dog</ref><box>(140,99),(641,571)</box><|im_end|>",
        "<bo> (my dog, 3 years old) is at (140,99),(641,571)",
        "[(140,99),(641,571)]",
        "(140, 99, 641, 571)",
        r"\[140, 99, 641, 571\]",
        "[140., 99., 641., 571.]",
        "[140, 99, 641, 571, ]",
        "[+140, 99, 641, 571]",
        "&#91;140, 99, 641, 571&#93;",
        "<think>[1, 2, 3, 4]?</think>[140, 99, 641, 571]",
        '{"bbox_2d": ["140", "99", "641", "571"]}',
        "{'bbox_2d': ['140', '99', '641', '571'], 'label': 'dog 2'}",
        '```json\n[\n\t{"bbox_2d": [140, 99, 641, 571], "label": "dog"}\n]\n```',
        '{"bbox_2d": [\n  140.0,\n  99.0,\n  641.0,\n  571.0\n]}',
        "（140，99），（641，571）",  # full-width brackets and commas, as in Chinese text
        "［１４０，９９，６４１，５７１］",
        "[١٤٠, ٩٩, ٦٤١, ٥٧١]",  # a box to a reader of that script
        "The point (3,4) and the range [5, 6] are not it: [140, 99, 641, 571]",
    ],
)
def test_one_box_is_read_in_every_form(answer):
    assert stated_box(answer) == BOX
    assert vlt_reward(answer, BOX) == task_scores.box_overlap(answer, BOX) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no box",
        "(140,99),(641,571),(1,2),(3,4)",  # two boxes, or a polygon
        "(140,99),(641,571) and (1,2),(3,4)",
        "(140,99),(641,571)(140,99),(641,571)",  # twice the same
        "(140,99),(641,571) or (140,99),(641,571)",
        "(140, 99, 641, 571), (140, 99, 641, 571)",
        "[140, 99, 641, 571] or (140,99),(641,571)",  # two forms
        '{"bbox_2d": ["140", "99", "641", "571"]} (1, 2, 3, 4)',
        "(140,99),(641,571) ［１，２，３，４］",  # a second guess in other digits
        "[140, 99, 641, 571] [١, ٢, ٣, ٤]",
        "(140,99)",
        "(140,99) to (641,571)",
        "from (140,99) it walks, then (641,571)",
        "(140,99),(641,571),(600,300)",
        "(140,99,641),(571,1,2)",
        "(140,99),(641,571,9)",
        "[140, 99], [641, 571]",  # two points in JSON
        "(641,571),(140,99)",  # corners swapped
        "(140,99),(140,571)",  # no width
        "(140,99),(641,99)",  # no height
        "[641, 571, 140, 99]",
        "[140, 99, 641]",
        "[140, 99, 641, 571, 0.9]",
        "[1,140, 99, 641, 571]",
        "[140², 99, 641, 571]",
        "[x1, y1, x2, y2]",
    ],
)
def test_what_is_not_exactly_one_box_is_none(answer):
    assert stated_box(answer) is None
    assert vlt_reward(answer, BOX) == task_scores.box_overlap(answer, BOX) == 0


@given(st.text(alphabet="[]()<>{}|,.-\"' 019９²box\n", max_size=60))
def test_any_text_gives_a_proper_box_or_none(text):
    box = stated_box(text)
    assert box is None or (len(box) == 4 and box[0] < box[2] and box[1] < box[3])


numbers = st.integers(-999, 9999) | st.floats(0, 9999).map(lambda x: round(x, 2))


@given(
    *[numbers] * 4,
    st.sampled_from(["({},{}),({},{})", "({}, {}, {}, {})", '["{}", "{}", "{}", "{}"]', "a [{},{},{},{}]."]),
)
def test_written_boxes_are_read_back(x1, y1, x2, y2, form):
    box = [float(value) for value in (x1, y1, x2, y2)]
    text = form.format(*box)
    proper = box[0] < box[2] and box[1] < box[3]
    assert stated_box(text) == (box if proper else None)
    assert stated_box(f"{text} {text}") is None


@pytest.mark.parametrize("text", ["(1,2)" * 200_000, "[1," * 200_000, "(1,2)" + " " * 200_000, "[" * 500_000])
def test_endless_answers_are_read(text):
    assert stated_box(text) is None


def written(family, box):
    """A box as the models of this family write it."""
    if family == "qwen2_vl":
        return "the toy({},{}),({},{})".format(*box)  # its special tokens are skipped when it is decoded
    return "```json\n" + json.dumps([{"bbox_2d": box, "label": "the toy"}]) + "\n```"


@pytest.mark.parametrize("size", [(200, 80), (96, 96), (333, 250)])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_box_round_trips(family, size, monkeypatch):
    """From pixels of the photo to the family's text, and through the reward, the scores and `locate`."""
    processor = SimpleNamespace(image_processor=make_processor().image_processor)
    wide, high = size
    box = [wide // 4, high // 8, wide * 3 // 4, high * 7 // 8]
    solution = to_model_frame(box, size, FAMILIES[family].frame, processor.image_processor)
    answer = written(family, solution)
    assert vlt_reward(answer, solution) == 1
    monkeypatch.setattr(task_scores, "answer_rows", lambda *_: [answer])
    row = TrainingExample(("a.png",), "Where is it?", solution, "iou")
    scores = task_scores.score_tasks(None, processor, [row])
    assert scores["vlt_iou"].value == scores["vlt_hit"].value == 1
    model = SimpleNamespace(config=SimpleNamespace(model_type=family))
    concept = Concept(name="bo", image="bo.png", info="the toy")
    (found,) = task_scores.locate(model, processor, Image.new("RGB", size), [concept])
    assert np.allclose(
        found, box, atol=max(size) / SCENE_SIDE / 2 + 0.5
    )  # rounded to a pixel of the model's frame
