"""Answers to the field's questions: how they are read and scored, and a whole run on toys."""

from __future__ import annotations

import json

import pytest

from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.field_questions import FieldQuestion, read_visual_questions
from repic_core.evaluation.field_tables import task_scores
from repic_core.evaluation.field_tasks import chosen_answer, items_of, prompt_text, score_answers
from repic_core.evaluation.intervals import balanced_interval
from repic_core.evaluation.questions import QuestionError
from repic_core.toyworld.field_questions import write_field_questions

COLOURS = FieldQuestion("1.png", "<bo>", "What is it?", (("A", "White"), ("B", "Black and white")), "B")


def is_there(photo, tag, answer):
    return FieldQuestion(photo, tag, f"Is {tag} in this image?", (), answer)


def test_balanced_accuracy_computed_by_hand():
    # Of three yes two are right, of five no one is: (2/3 + 1/5) / 2.
    right, truth = [1, 1, 0, 1, 0, 0, 0, 0], ["yes"] * 3 + ["no"] * 5
    found = balanced_interval(right, range(8), truth)
    assert found.value == pytest.approx((2 / 3 + 1 / 5) / 2) and found.low < found.value < found.high
    with pytest.raises(ValueError, match="give one each"):
        balanced_interval([1], ["a"], [])


@pytest.mark.parametrize("always", ["Yes", "No.", "A", "The answer is B."])
def test_who_always_says_the_same_has_half(always):
    truth = ["yes"] * 2 + ["no"] * 18 if always in ("Yes", "No.") else ["A"] * 19 + ["B"]
    options = () if truth[0] == "yes" else (("A", "Cat"), ("B", "Dog"))
    pairs = [(FieldQuestion(f"{n}.png", "<bo>", "?", options, t), always) for n, t in enumerate(truth)]
    score = score_answers(pairs)
    assert score.balanced.value == 0.5 and score.accuracy.value in (0.1, 0.9, 0.95, 0.05)
    assert sorted(r.value for r in score.recalls.values()) == [0, 1] and score.unclear == 0


def test_photos_are_drawn_whole():
    pairs = [(is_there(f"{n % 2}.png", "<bo>", "yes"), "Yes" if n % 2 else "No") for n in range(20)]
    assert (score_answers(pairs).accuracy.low, score_answers(pairs).accuracy.high) == (0, 1)


def test_an_answer_that_chooses_nothing_is_counted_and_wrong():
    pairs = [(is_there("1.png", "<bo>", "no"), text) for text in ("No", "Maybe", "", "Yes or no?")]
    score = score_answers(pairs)
    assert (score.unclear, score.accuracy.value, score.asked, score.published) == (3, 0.25, 4, None)
    assert score.concepts == {"<bo>": {"no": 0.25}}


def test_the_count_of_rap_takes_an_empty_answer_for_an_a():
    question = FieldQuestion("1.png", "<bo>", "?", (("A", "Cat"), ("B", "Dog")), "A")
    score = score_answers([(question, text) for text in ("A.", "", "A. Cat", "B")])
    assert score.published == 0.5 and score.accuracy.value == 0.5 and score.unclear == 1


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "B"),
        ("white.", "A"),
        ("Black and white", "B"),
        ("It is black and white.", None),
        ("It is white.", "A"),
        ("It is not white", None),
        ("It's purple", None),
        ("<think>White?</think> B", "B"),
        ("", None),
    ],
)
def test_an_option_is_chosen_by_its_letter_or_its_words(text, chosen):
    assert chosen_answer(COLOURS, text) == chosen


def test_tags_are_options_too():
    question = FieldQuestion("1.png", "<bo>", "Who?", (("A", "<s>"), ("B", "<mam>")), "A")
    said = [chosen_answer(question, text) for text in ("This is <s>.", "<mam>", "<mam> and <s>")]
    assert said == ["A", "B", None]


def test_questions_are_worded_as_rap_mllm_words_them():
    options = {"A": "Left", "B": "Right"}
    question = FieldQuestion("1.png", "<bo>", "Where is <bo>?", tuple(options.items()), "A")
    theirs = "Question: " + question.text + "\nOptions:\n"  # their `VQA.py`, said again
    for option, content in options.items():
        theirs += f"{option}. {content}\n"
    theirs += "Please give a single character from the options above. \n"
    assert prompt_text(question) == theirs.strip() and prompt_text(question, "open") == question.text


def test_the_references_are_the_concepts_named_and_each_prompt_is_asked_once(tmp_path):
    database = ConceptDatabase([Concept(name=name, image=f"{name}.png") for name in ("mam", "bo", "zoe")])
    who = FieldQuestion("1.png", "<bo>", "Who is it?", (("A", "<bo>"), ("B", "<mam>")), "A")
    asked = [who, is_there("1.png", "<zoe>", "no"), is_there("2.png", "<zoe>", "yes"), who]
    with pytest.raises(QuestionError, match=r"2 of 2 photos are missing, the first is .*1.png: give --root"):
        items_of(asked, database, tmp_path)
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    items = items_of(asked, database, tmp_path)
    assert [[c.tag for c in item.references] for item in items] == [["<mam>", "<bo>"], ["<zoe>"], ["<zoe>"]]
    assert [(item.label, item.query) for item in items][1:] == [
        ("1.png", tmp_path / "1.png"),
        ("2.png", tmp_path / "2.png"),
    ]
    guessed = items_of(asked, database, tmp_path, guess=True)
    assert [(item.query, len(item.references)) for item in guessed] == [(None, 2), (None, 1)]
    text = FieldQuestion("", "<bo>", "Is <bo> a dog?", (("A", "Yes"), ("B", "No")), "A")
    assert [len(items_of([text], database, guess=guess)[0].references) for guess in (False, True)] == [1, 0]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    counts = write_field_questions(folder, "val", n=4)
    assert 4 <= counts["vqa-who"] == counts["vqa-where"] <= 8 and counts["recognition"] == 20 * 3 * 20
    return folder


def run(toys, out, task, *flags):
    name = {"vqa": "vqa-who"}.get(task, task)
    database = "described" if task == "text" else "database"
    files = ["--questions", toys / f"{name}.json", "--database", toys / f"{database}.json", "--root", toys]
    return main(["evaluate", "--task", task, *map(str, [*files, "--out", out, "--quiet", *flags])])


MODEL = ("--model", "assets/toy-base", "--max-new-tokens", "12", "--batch-size", "16", "--method", "toy")


def test_toys_from_the_command_to_the_table(toys, tmp_path, capsys):
    assert run(toys, tmp_path, "vqa", *MODEL, "--ask", "open", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    questions = read_visual_questions(toys / "vqa-who.json")
    assert (row["asked"], row["method"], row["score"]["asked"]) == ("open", "toy", len(questions))
    assert row["score"]["balanced"]["value"] > 0.8 > row["guess"]["balanced"]["value"]
    answers = tmp_path / "answers/toy/vqa-open.json"
    rows = json.loads(answers.read_text())
    answers.write_text(json.dumps(rows[:3]))  # as if it had been interrupted
    assert (
        run(toys, tmp_path, "vqa") == 0 and f"| 3 of {len(questions)} |" in (tmp_path / "vqa.md").read_text()
    )
    assert (
        run(toys, tmp_path, "vqa", *MODEL, "--ask", "open") == 0 and json.loads(answers.read_text()) == rows
    )
    assert task_scores(tmp_path / "answers", "vqa", questions)[0]["score"].asked == len(questions)


def test_recognition_as_in_training_and_text_without_photos(toys, tmp_path, capsys):
    assert run(toys, tmp_path, "recognition", *MODEL, "--ask", "oct", "--limit", "20", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["score"]["recalls"]["yes"]["value"] == 1 and row["score"]["balanced"]["value"] > 0.9
    assert run(toys, tmp_path, "text", *MODEL, "--limit", "4", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["score"]["asked"] == row["guess"]["asked"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--questions", "a.json"], "--questions needs --task"),
        (["--task", "vqa", "--database", "d.json"], "--task vqa needs --questions"),
        (
            ["--task", "text", "--questions", "a", "--database", "d", "--ask", "oct"],
            "for --task text use plain, open",
        ),
        (
            ["--task", "vqa", "--questions", "a", "--database", "d", "--zero-shot"],
            "--suffix is for the paper",
        ),
        (["--task", "vqa", "--questions", "a.json", "--database", "d.json"], "a.json: can't be read"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags, message, capsys):
    assert main(["evaluate", "--root", "nowhere", *flags]) == 2
    assert message in capsys.readouterr().err
