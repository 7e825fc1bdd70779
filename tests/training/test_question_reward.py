"""The question reward: values by hand, CoViP's tests of repetition, bounds, and a training with it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repic_core.cli import main
from repic_core.data.rows import RowError, RowQuestion, read_rows, to_dataset, write_rows
from repic_core.models.loading import load_model
from repic_core.tasks import NOT_SAID
from repic_core.toyworld.questions import CaptionReader
from repic_core.training import grpo
from repic_core.training.question_reward import (
    QuestionRewardError,
    load_reader,
    make_question_reward,
    question_share,
    repeats,
)

READER = "repic_core.toyworld.questions:CaptionReader"
PLACES = ["top left", "top right", "bottom left", "bottom right"]
CAPTION = "On a blue sea. At the top left is <bo>. <mia> is at the top right."
SHORT = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 16}
SHORT |= {"report_to": "none", "disable_tqdm": True, "seed": 3}


def where(tag, answer):
    return {"text": f"Where is {tag}?", "options": PLACES, "answer": answer}


RIGHT = [where("<bo>", "top left"), where("<mia>", "top right")]
WRONG = [where("<bo>", "top right"), where("<mia>", "top left")]
KEPT = [where("<tom>", NOT_SAID), where("<zoe>", NOT_SAID)]
FAILED = [where("<bo>", NOT_SAID), where("<mia>", NOT_SAID)]


def reward(captions, questions, ids=None, limit=64):
    function = make_question_reward(CaptionReader().choose, limit)
    return function(captions, completion_ids=ids or [[1]] * len(captions), questions=questions)


@pytest.mark.parametrize(
    ("questions", "value"),
    [
        (RIGHT, 1.0),
        (WRONG, 0.0),
        (RIGHT[:1] + WRONG[1:], 0.5),
        (KEPT, 0.0),
        (FAILED, -1.0),
        (RIGHT + KEPT, 1.0),
        (RIGHT + FAILED, 0.0),
        (RIGHT[:1] + WRONG[1:] + KEPT[:1] + FAILED[:1] * 3, 0.5 - 0.75),
    ],
)
def test_values_by_hand(questions, value):
    assert reward([CAPTION], [json.dumps(questions)]) == [value]


def test_repetition_and_overlength_cost_and_rows_without_questions_have_no_reward():
    asked = json.dumps(RIGHT)
    again = " ".join([CAPTION] * 4)
    captions = [CAPTION, again, CAPTION, CAPTION, CAPTION]
    ids = [[1] * 63, [1] * 63, [1] * 64, [1], [1]]
    assert reward(captions, [asked, asked, asked, None, "[]"], ids) == [1.0, -1.0, -1.0, None, None]


def test_an_unclear_answer_is_not_said():
    def choose(caption, text, options):
        return None if "bo" in text else options.index("top right")

    assert question_share(choose, "", [where("<bo>", NOT_SAID), RIGHT[1], RIGHT[0]]) == (0.5, 1)


def test_a_reader_that_reads_nothing_is_an_error():
    question = {"text": "What is it?", "options": ["a", "b"], "answer": "a"}
    with pytest.raises(QuestionRewardError, match="no clear answer to any of 1 questions"):
        reward([CAPTION], [json.dumps([question])])


@pytest.mark.parametrize("name", ["", "nowhere:Reader", "json:Reader", "json", "repic_core.tasks:Task"])
def test_no_such_reader(name):
    with pytest.raises(QuestionRewardError, match=r"question_reader: .* give MODULE:CLASS"):
        load_reader(name)


def words(*numbers):
    return " ".join(f"w{n}" for n in numbers)


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("One. Two. Two.", False),  # three sentences are too few
        ("One. Two. Two. Three.", False),  # 1 copy of 4 is 25%
        ("One. Two. Two. Two.", True),  # 2 of 4
        (words(*range(10), *range(9)), False),  # 19 words are too few
        (words(*range(10), *range(10)), True),  # 16 runs of 5, 10 different: 37%
        (words(*range(40), *range(8)), False),  # 44 runs of 5, 40 different: 9%
        (words(*range(14), *range(14, 40), *range(14)), True),  # 45 runs of 10, 5 twice: 22%
        (words(*range(13), *range(13, 40), *range(13)), False),  # 44 runs of 10, 4 twice: 18%; of 5, 9 of 49
        ("", False),
        (CAPTION, False),
    ],
)
def test_repetition_as_covip_finds_it(text, repeated):
    assert repeats(text) is repeated


QUESTIONS = st.lists(
    st.builds(where, st.sampled_from(["<bo>", "<mia>", "<tom>"]), st.sampled_from([*PLACES, NOT_SAID])),
    max_size=6,
)


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["<bo>", "<mia>", "<tom>"])), max_size=4),
    QUESTIONS,
)
def test_bounds_and_one_right_answer_more_never_earns_less(parts, questions):
    caption = "On a blue sea" + "".join(f", at the {place} is {tag}" for place, tag in parts) + "."
    choose = CaptionReader().choose
    value, clear = question_share(choose, caption, questions)
    assert -1 <= value <= 1 and clear == len(questions)
    for number, question in enumerate(questions):
        options = [*PLACES, NOT_SAID]
        said = options[choose(caption, question["text"], options)]
        if (said == NOT_SAID) == (question["answer"] == NOT_SAID):  # its kind is unchanged
            better = [*questions[:number], {**question, "answer": said}, *questions[number + 1 :]]
            assert question_share(choose, caption, better)[0] >= value


@given(st.text(), st.integers(0, 20))
@settings(deadline=None)
def test_what_repeats_still_repeats_with_one_copy_more(text, copies):
    repeated = f"{text}. " * (copies + 6)
    if text.strip(". !?\n\t") and text.split():
        assert repeats(repeated)


def test_rows_keep_their_questions(data, tmp_path):
    rows = read_rows(data / "rows_questions.jsonl")
    plain = read_rows(data / "rows.jsonl")
    assert [(row.images, row.problem, row.solution) for row in rows] == [
        (row.images, row.problem, row.solution) for row in plain
    ]
    assert read_rows(write_rows(data / "again.jsonl", rows)) == rows
    assert all(bool(row.questions) == ("name" in row.method) for row in rows)
    assert "questions" not in to_dataset(plain, data).column_names
    for row, written in zip(rows, to_dataset(rows, data)["questions"], strict=True):
        assert [q["text"] for q in json.loads(written)] == [q.text for q in row.questions]


def test_the_perfect_caption_earns_one_and_a_stranger_costs(data):
    truth = json.loads((data / "truth.json").read_text())
    rows = [row for row in read_rows(data / "rows_questions.jsonl") if row.questions]
    columns = [json.dumps([vars(q) for q in row.questions]) for row in rows]
    perfect = []
    for row in rows:
        scene = truth[row.images[-1]]
        told = [f"At the {one['place']} is {one['tag'] or one['description']}." for one in scene["objects"]]
        perfect.append(" ".join([f"On a {scene['background']}.", *told]))
    assert reward(perfect, columns) == [1.0] * len(rows)
    negatives = [[q for q in row.questions if q.answer == NOT_SAID] for row in rows]
    assert any(negatives)
    for row, caption, column, negative in zip(rows, perfect, columns, negatives, strict=True):
        named = [row.solution] if isinstance(row.solution, str) else row.solution
        assert len(negative) == len(row.candidates) - len(named)
        if negative:
            stranger = next(tag for tag in row.candidates if tag not in named)
            [value] = reward([f"{caption} At the top left is {stranger}."], [column])
            assert value < 1


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"text": "Who?", "options": ["a"], "answer": "a"}, "needs two options or more"),
        ({"text": "Who?", "options": ["a", "a"], "answer": "a"}, "each once"),
        ({"text": "Who?", "options": ["a", "b"], "answer": "c"}, "'c' is neither an option nor"),
        ({"text": "Who?", "options": ["a", 1], "answer": "a"}, "must be texts"),
        ({"text": "<|im_end|>?", "options": ["a", "b"], "answer": "a"}, "control token"),
        ("Who?", "must be a list of objects"),
        ({"text": "Who?", "options": "ab", "answer": "a"}, "must be a list of objects"),
    ],
)
def test_bad_questions_are_named(data, question, message):
    row = json.loads((data / "rows.jsonl").read_text().splitlines()[0]) | {"questions": [question]}
    (data / "bad.jsonl").write_text(json.dumps(row))
    with pytest.raises(RowError, match=rf"bad.jsonl, line 1, field 'questions': .*{message}"):
        read_rows(data / "bad.jsonl")


@pytest.mark.parametrize("questions", ["Who?", 3, {"text": "Who?"}])
def test_questions_are_a_list(data, questions):
    row = json.loads((data / "rows.jsonl").read_text().splitlines()[0]) | {"questions": questions}
    (data / "bad.jsonl").write_text(json.dumps(row))
    with pytest.raises(RowError, match="field 'questions': must be a list of objects"):
        read_rows(data / "bad.jsonl")


def test_trl_takes_it_and_the_command_has_its_flag(base, data, tmp_path):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    where_ = ["--model", str(base), "--rows", str(data / "rows_questions.jsonl")]
    out = tmp_path / "out"
    asked = [
        "--question-weight",
        "0.5",
        "--question-reader",
        READER,
        "--max-steps",
        "2",
        "--logging-steps",
        "1",
    ]
    main(["train", "grpo", "--config", "toy", *where_, "--output-dir", str(out), *asked, *flags])
    header = (out / "metrics.csv").read_text().splitlines()[0]
    assert "rewards/question_reward/mean" in header and "reward/questions" in header
    record = json.loads((out / "run.json").read_text())
    assert (
        record["settings"]["question_weight"] == 0.5 and record["rewards"] == []
    )  # else `repic reproduce` would refuse


def test_rows_without_questions_or_reader_are_refused(base, data, tmp_path):
    rows = read_rows(data / "rows.jsonl")[:4]
    model, processor = load_model(base)
    for given_rows, reader, message in (
        (rows, READER, "no row has questions"),
        (read_rows(data / "rows_questions.jsonl")[:4], "", "give MODULE:CLASS"),
    ):
        change = {"question_weight": 0.5, "question_reader": reader, "root": data, "max_steps": 1, **SHORT}
        with pytest.raises(ValueError, match=message):
            grpo.train(model, processor, given_rows, tmp_path / "out", **change)


def test_a_question_is_checked_in_memory_too():
    with pytest.raises(RowError, match="neither"):
        RowQuestion("Who?", ("a", "b"), "c")
