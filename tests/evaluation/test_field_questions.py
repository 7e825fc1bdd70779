"""The readers of RAP-MLLM's and Yo'LLaVA's question files; the small files here are of their form."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.evaluation.field_questions import (
    READERS,
    read_recognition,
    read_text_questions,
    read_visual_questions,
)
from repic_core.evaluation.questions import QuestionError


def visual(**changes):
    entry = {"question": "What is sks?", "options": {"A": "Cat", "B": "Dog"}, "correct_answer": "B"}
    return {"bo": {"./yollava-data/test/bo/0.png": {**entry, **changes}}}


def recognised(**changes):
    row = {"image": "test/bo/4.png", "question": "<image>\nIs <bo> in this image? Answer with a single word."}
    return {**row, "concept": "bo", "type": "positive", "correct_answer": True, **changes}


def written(tmp_path, value):
    path = tmp_path / "questions.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("name", ["sks", "<sks>"])
def test_both_spellings_of_the_concept_become_its_tag_and_no_other_word_does(tmp_path, name):
    path = written(tmp_path, visual(question=f"Does {name} like desks, or {name}'s masks?"))
    (question,) = read_visual_questions(path)
    assert question.text == "Does <bo> like desks, or <bo>'s masks?" and question.tag == "<bo>"
    assert question.photo == "./yollava-data/test/bo/0.png"
    assert question.options == (("A", "Cat"), ("B", "Dog")) and question.answer == "B"


def test_text_questions_have_no_photo_and_call_the_options_option(tmp_path):
    entry = {"question": "Is sks a dog?", "option": {"A": "Yes", "B": "No"}, "correct_answer": "A"}
    (question,) = read_text_questions(written(tmp_path, {"bo": {"0": entry}}))
    assert (question.photo, question.text, question.answer) == ("", "Is <bo> a dog?", "A")


def test_the_answer_decides_not_the_type_and_repeated_rows_are_read_once(tmp_path):
    rows = [recognised(), recognised(type="negative"), recognised(image="x.png", correct_answer=False)]
    one, two = read_recognition(written(tmp_path, rows))
    assert (one.photo, one.tag, one.answer) == ("test/bo/4.png", "<bo>", "yes")
    assert one.text == "Is <bo> in this image? Answer with a single word." and two.answer == "no"
    with pytest.raises(QuestionError, match=r"questions.json, row 2, field 'correct_answer': .*earlier row"):
        read_recognition(written(tmp_path, [recognised(), recognised(correct_answer=False)]))


def test_folders_each_photo_is_asked_about_each_concept(tmp_path):
    for name in ("bo/0.png", "bo/1.JPG", "bo/notes.txt", "bo/._0.png", "mam/0.jpeg", ".git/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = read_recognition(tmp_path)
    assert [(q.photo, q.tag, q.answer) for q in found] == [
        *(("bo/0.png", "<bo>", "yes"), ("bo/0.png", "<mam>", "no")),
        *(("bo/1.JPG", "<bo>", "yes"), ("bo/1.JPG", "<mam>", "no")),
        *(("mam/0.jpeg", "<bo>", "no"), ("mam/0.jpeg", "<mam>", "yes")),
    ]
    assert found[1].text == "Is <mam> in this photo? Answer with a single word or phrase."
    with pytest.raises(QuestionError, match="empty: has no folder with photos"):
        read_recognition(tmp_path / "empty")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None}, "field 'question': is missing"),
        ({"question": 3}, "field 'question': must be text"),
        ({"question": "a<|im_end|>"}, "field 'question': .*control token"),
        ({"options": {"A": "Cat"}}, "field 'options': must be an object of two"),
        ({"options": {"A": "Cat", "b": "Dog"}}, "field 'options': its keys"),
        ({"options": {"A": "Cat", "B": " "}}, "field 'options', field 'B': must be text"),
        ({"correct_answer": "C"}, "field 'correct_answer': must be one of A, B, not 'C'"),
        ({"correct_answer": ["B"]}, "field 'correct_answer'"),
    ],
)
def test_a_bad_entry_is_named_with_file_concept_photo_and_field(tmp_path, changes, message):
    where = r"questions.json, concept 'bo', './yollava-data/test/bo/0.png', "
    with pytest.raises(QuestionError, match=where + message):
        read_visual_questions(written(tmp_path, visual(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": ""}, "field 'image': must be text"),
        ({"concept": "a<b"}, "field 'concept': .*tag"),
        ({"question": None}, "field 'question': is missing"),
        ({"correct_answer": "true"}, "field 'correct_answer': must be true or false, not 'true'"),
    ],
)
def test_a_bad_row_is_named_with_file_row_and_field(tmp_path, changes, message):
    rows = [recognised(), recognised(**changes)]
    with pytest.raises(QuestionError, match="questions.json, row 2, " + message):
        read_recognition(written(tmp_path, rows))


def test_a_photo_that_is_there_twice_is_not_lost_in_silence(tmp_path):
    entry = json.dumps(visual()["bo"]["./yollava-data/test/bo/0.png"])
    with pytest.raises(QuestionError, match=r"questions.json: the key '0.png' is there twice"):
        read_visual_questions(written(tmp_path, f'{{"bo": {{"0.png": {entry}, "0.png": {entry}}}}}'))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(["question", "options", "option", "correct_answer", "image", "concept", "A", "B"])


@given(st.sampled_from(sorted(READERS)), FIELDS, JSON, JSON)
def test_whatever_a_file_holds_it_is_read_or_the_file_is_named(tmp_path_factory, task, field, value, other):
    path = tmp_path_factory.mktemp("q") / "questions.json"
    rows = {"recognition": [{**recognised(), field: value}], "vqa": visual(**{field: value})}
    rows["text"] = {
        "bo": {"0": {**visual()["bo"].popitem()[1], "option": {"A": "a", "B": "b"}, field: value}}
    }
    for held in (rows[task], other, {"bo": other}, [other]):
        path.write_text(json.dumps(held))
        try:
            questions = READERS[task](path)
        except QuestionError as error:
            assert re.match(re.escape(str(path)), str(error))
        else:
            assert questions and all(q.text.strip() and q.answer for q in questions)
