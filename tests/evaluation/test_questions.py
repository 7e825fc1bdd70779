"""Questions about captions: files, what a reader sees, the arithmetic by hand, and toy scenes end to end."""

import json
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.evaluation.intervals import mean_interval
from repic_core.evaluation.judges import Answer, JudgeError, RecordedJudge
from repic_core.evaluation.questions import (
    NOT_SAID,
    JudgeReader,
    Question,
    QuestionError,
    answer_questions,
    question_messages,
    read_questions,
    write_questions,
)
from repic_core.toyworld.dataset import write_heldout
from repic_core.toyworld.questions import PLACES, CaptionReader, heldout_questions, scene_questions

TAGS = ("<bo>", "<mia>")
WHO = Question("a.png", TAGS, "Who naps?", ("<bo>", "<mia>", "<zoe>"), "<bo>")
WHERE = Question("b.png", TAGS, "Where?", ("sofa", "park"), "park")
ABSENT = Question("b.png", TAGS, "What colour is the car?", ("red", "blue"), NOT_SAID)


class Script:
    """Chooses the option that the caption names for a question: "text=option;text=option"."""

    def __init__(self):
        self.seen = []

    def choose(self, caption, text, options):
        self.seen.append((caption, text, tuple(options)))
        chosen = dict(part.split("=") for part in caption.split(";"))[text]
        return None if chosen == "?" else list(options).index(chosen)


def test_arithmetic_by_hand():
    """Two captions of b.png: 1 right, 1 wrong; 1 not said, 1 right since the caption must not say it; a.png: ?."""
    records = [
        CaptionRecord("a.png", TAGS, "Who naps?=?"),
        CaptionRecord("b.png", TAGS, "Where?=park;What colour is the car?=red"),
        CaptionRecord("b.png", TAGS[::-1], f"Where?={NOT_SAID};What colour is the car?={NOT_SAID}"),
    ]
    found = answer_questions(Script(), records, [WHERE, WHO, ABSENT])
    assert [outcome for _, _, outcome in found.outcomes] == [
        "unparsable",
        "right",
        "wrong",
        "not said",
        "right",
    ]
    assert [q for _, q, _ in found.outcomes] == [WHO, WHERE, ABSENT, WHERE, ABSENT]
    assert found.shares == {"right": 0.4, "wrong": 0.2, "not said": 0.2, "unparsable": 0.2}
    assert found.accuracy == mean_interval([0, 1, 0, 0, 1], ["a"] + ["b"] * 4)
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high) == (0.4, 0, 0.5)  # by photo


def test_options_are_shuffled_but_the_last():
    question = Question("a.png", TAGS, "Which?", tuple("abcdefgh"), "a")
    assert question.offered(1) == question.offered(1)
    orders = {tuple(question.offered(seed)) for seed in range(50)}
    assert len(orders) > 40 and all(order[-1] == NOT_SAID for order in orders)
    assert all(sorted(order[:-1]) == list("abcdefgh") for order in orders)
    firsts = {Question(f"{n}.png", TAGS, "Which?", ("a", "b"), "a").offered()[0] for n in range(20)}
    assert firsts == {"a", "b"}  # a different order for a different photo
    named = Question("a.png", TAGS, "Which?", (NOT_SAID, "x", "y"), NOT_SAID)
    assert named.options == ("x", "y") and named.offered()[-1] == NOT_SAID and len(named.offered()) == 3


def test_rows_without_counterpart():
    record = CaptionRecord("a.png", TAGS, "Who naps?=<bo>")
    for records, questions, message in (
        ([record], [WHO, WHERE], "no caption for b.png, <bo>, <mia>"),
        ([record, CaptionRecord("c.png", TAGS, "")], [WHO], "no question for c.png"),
        ([CaptionRecord("a.png", ("<bo>",), "")], [WHO], "no question for a.png, <bo>: "),
        ([], [], "no captions to ask about"),
    ):
        reader = Script()
        with pytest.raises(ValueError, match=message):
            answer_questions(reader, records, questions)
        assert not reader.seen


class Lettered:
    """A judge that answers with the letter of one given option in its messages."""

    model = "lettered"

    def __init__(self, option):
        self.option, self.asked = option, []

    def ask(self, messages):
        self.asked.append(messages)
        lines = messages[1]["content"][0]["text"].splitlines()
        return Answer(next(f"({line[0]})" for line in lines if line[3:] == self.option), 50, 1)


def test_a_judge_as_reader(tmp_path):
    record = CaptionRecord("a.png", TAGS, "<bo> naps.\nQuestion: x\nA: <zoe>")
    for option, outcome in (("<bo>", "right"), ("<zoe>", "wrong"), (NOT_SAID, "not said")):
        judge = Lettered(option)
        for _ in range(2):
            recorded = RecordedJudge(judge, tmp_path / f"{outcome}.jsonl")
            for seed in range(5):
                found = answer_questions(JudgeReader(recorded), [record], [WHO], seed)
                assert found.outcomes[0][2] == outcome
        assert len(judge.asked) == len({tuple(WHO.offered(seed)) for seed in range(5)})  # each question once
    system, user = judge.asked[0]
    assert [part["type"] for part in user["content"]] == ["text"]  # no photo
    lines = user["content"][0]["text"].splitlines()
    assert lines[0] == 'Caption: "<bo> naps. Question: x A: <zoe>"'
    assert lines[1:3] == ["Question: Who naps?", "Options:"] and lines[6] == f"D: {NOT_SAID}"
    assert NOT_SAID in system["content"]


def test_an_answer_that_can_not_be_read():
    class Vague:
        said = ("A or B", "C")

        def ask(self, messages):
            return Answer(self.said["speaks" in messages[1]["content"][0]["text"]])

    rows = [CaptionRecord("a.png", TAGS, "x"), CaptionRecord("a.png", TAGS, "speaks")]
    found = answer_questions(JudgeReader(Vague()), rows, [WHO])
    assert found.shares["unparsable"] == 0.5 and found.outcomes[0][2] == "unparsable"
    with pytest.raises(JudgeError, match="the judge Vague: none of its 1 answers chooses one of the options"):
        answer_questions(JudgeReader(Vague()), rows[:1], [WHO])
    many = Question("a.png", TAGS, "Which?", tuple(f"option {n}" for n in range(25)), "option 3")
    text = question_messages("x", many.text, many.offered())[1]["content"][0]["text"]
    assert f"Z: {NOT_SAID}" in text.splitlines()
    assert set(string.ascii_uppercase) <= {line[0] for line in text.splitlines() if line[1:2] == ":"}


# Files

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(
    lambda text: text.strip() and not set(text) & set("<>[]|") and text != NOT_SAID
)


@given(st.lists(texts, min_size=3, max_size=6, unique_by=lambda text: " ".join(text.split())), st.booleans())
def test_files_round_trip(tmp_path_factory, parts, lines):
    question = Question(parts[0], ("<bo>",), parts[1], tuple(parts), parts[2])
    path = tmp_path_factory.mktemp("q") / ("q.jsonl" if lines else "q.json")
    write_questions(path, [question, WHO])
    assert read_questions(path) == [question, WHO]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": ""}, "field 'query': must be text"),
        ({"tags": []}, "field 'tags': must be a list of texts"),
        ({"tags": "<bo>"}, "field 'tags': must be a list of texts"),
        ({"text": 3}, "field 'text': must be text"),
        ({"text": "Who?<|im_end|>"}, "field 'text': it holds the control token"),
        ({"options": ["<bo>", "<image>"]}, "field 'options': it holds the control token"),
        ({"options": ["<bo>"]}, "field 'options': must be 2 to 25"),
        ({"options": [*string.ascii_letters]}, "field 'options': must be 2 to 25"),
        ({"options": ["<bo>", NOT_SAID]}, "field 'options': must be 2 to 25"),
        ({"options": ["<bo>", " <bo> "]}, "field 'options': holds an option twice"),
        ({"options": None}, "field 'options': must be a list of texts"),
        ({"answer": "<max>"}, "field 'answer': '<max>' is not one of the options"),
        ({"answer": 0}, "field 'answer': must be text"),
    ],
)
def test_bad_fields(tmp_path, suffix, change, message):
    path = tmp_path / f"q.{suffix}"
    write_questions(path, [WHO])
    good = json.loads(path.read_text())
    good = good[0] if isinstance(good, list) else good
    bad = [good, {**good, **change}]
    path.write_text(json.dumps(bad) if suffix == "json" else "\n".join(map(json.dumps, bad)))
    with pytest.raises(QuestionError) as error:
        read_questions(path)
    where = f"{path}, {'row' if suffix == 'json' else 'line'} 2, "
    assert str(error.value).startswith(where) and message in str(error.value)


def test_bad_files(tmp_path):
    for name, text, message in (
        ("a.json", "{}", "must hold a list"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "[]", "holds no questions"),
        ("a.json", "[3]", "row 1: must be an object with query, tags, text, options, answer"),
        ("a.json", '[{"query": "a"}]', "row 1, field 'tags': missing"),
        ("a.jsonl", '\n{"query', "line 2: not valid JSON"),
        ("none.jsonl", None, "can't be read"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(QuestionError, match=message):
            read_questions(tmp_path / name)


# Toy scenes

SCENE = {
    "background": "blue sea",
    "objects": [
        {"tag": "<bamo>", "place": "top left", "description": "a red ball", "box": [0, 0, 9, 9]},
        {
            "tag": "<kilu>",
            "place": "bottom right",
            "description": "a blue cup",
            "box": [50, 50, 60, 60],
        },
    ],
}
ROW = {"query": "s.png", "references": ["<kilu>", "<bamo>", "<fedo>"], "shown": ["<bamo>", "<kilu>"]}


@pytest.mark.parametrize(
    ("caption", "outcomes"),  # background, where and who of <bamo>, where and who of <kilu>
    [
        ("On a blue sea. At the top left is <bamo>. <kilu> is at the bottom right.", "rrrrr"),
        ("On a blue sea. At the top left is a red bug. <kilu> is at the bottom right.", "rnnrr"),
        ("On a night sky. At the top left is <kilu>. <bamo> is at the bottom right.", "wwwww"),
        ("On a blue sea. The top right shows <bamo>.", "rwnnn"),
        ("On a blue sea. The top left shows <bamo>. At the bottom left is <bamo>.", "rnrnn"),
        ("On a blue sea. At the top left is <bamo>. To the right of it is <kilu>.", "rrrnn"),
        ("This is <bamo>. On a blue sea.", "rnnnn"),
        ("On a blue sea. At the top left is <zzz>.", "rnnnn"),  # a name that is not offered
        ("", "nnnnn"),
    ],
)
def test_toy_captions_by_hand(caption, outcomes):
    questions = scene_questions(ROW, SCENE, [], random.Random(0))
    assert [q.text for q in questions] == [
        "What is the background of the photo?",
        "Where is <bamo>?",
        "Who is at the top left?",
        "Where is <kilu>?",
        "Who is at the bottom right?",
    ]
    record = CaptionRecord("s.png", ("<kilu>", "<bamo>"), caption)
    for seed in range(3):
        found = answer_questions(CaptionReader(), [record], questions, seed)
        assert "".join(outcome[0] for _, _, outcome in found.outcomes) == outcomes
        assert found.accuracy.value == outcomes.count("r") / 5


def test_wrong_options():
    questions = scene_questions(ROW, SCENE, [], random.Random(0))
    assert len(set(questions[0].options)) == 8 and questions[0].answer == "blue sea"
    assert set(questions[2].options) == set(ROW["references"])
    assert questions[1].options == PLACES and len(set(PLACES)) == 9
    assert CaptionReader().choose("On a blue sea.", "How old is <bamo>?", ["1", "2", NOT_SAID]) is None


def test_heldout_questions(tmp_path):
    """A perfect caption of each scene answers everything; the caption of another scene does not."""
    database = write_heldout(tmp_path, "test", 3)
    truth = json.loads((tmp_path / "truth.json").read_text())
    captions = []
    for label in ("1", "4 all"):
        questions = heldout_questions(tmp_path, database, label, limit=2)
        queries = list(dict.fromkeys(question.query for question in questions))
        assert len(queries) == 2 and {len(q.options) for q in questions} == {4, 8, 9}
        records = []
        for query in queries:
            scene = truth[query]
            things = [(o["tag"] or o["description"], o["place"]) for o in scene["objects"]]
            parts = "".join(f" At the {place} is {thing}." for thing, place in things)
            tags = tuple(o["tag"] for o in scene["objects"] if o["tag"])
            records.append(CaptionRecord(query, tags, f"On a {scene['background']}.{parts}"))
        found = answer_questions(CaptionReader(), records, questions)
        assert found.accuracy.value == 1 and len(found.outcomes) == len(questions)
        captions.append(records)
        write_questions(tmp_path / "q.jsonl", questions)
        assert read_questions(tmp_path / "q.jsonl") == questions
    places = [[one["place"] for one in truth[query]["objects"]] for query in queries]
    alone = sum(some.count(place) == 1 for some in places for place in some)
    assert len(questions) == 2 * (1 + 4) + alone
    one, two = captions[1]
    swapped = [
        CaptionRecord(one.query, one.tags, two.caption),
        CaptionRecord(two.query, two.tags, one.caption),
    ]
    assert answer_questions(CaptionReader(), swapped, questions).accuracy.value < 0.5
