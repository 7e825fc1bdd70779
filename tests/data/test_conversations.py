"""Conversations as rows: an example of each format by hand, what is left out, and any record at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.data.conversations import Unusable, convert, to_row, verifiable
from repic_core.data.rows import TrainingExample, read_rows, write_rows
from repic_core.prompts import caption_problem


def talk(question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 1, "image": "a.jpg", "conversations": turns, **more}


def extra(**concepts):
    return {
        f"crop/{name}.jpg": {"name": name, "info": info, "category": "x"} for name, info in concepts.items()
    }


# The example of RAP-MLLM's Data.md, with texts of our own.
RAP = talk("<image>\nDoes <D> sit?", "Yes.", type="basic", extra=extra(D="A man in orange."))


def test_a_row_of_rap_has_its_references_first():
    row = to_row(RAP, "", "grpo")
    problem = caption_problem([Concept("<D>", "D", "x", "A man in orange.")], "Does <D> sit?")
    assert row == TrainingExample(
        ("crop/D.jpg", "a.jpg"), problem, "yes", "yes_no", ("<D>",), ("A man in orange.",)
    )
    assert to_row(RAP, "", "sft").solution == "Yes."


@pytest.mark.parametrize(
    ("answer", "method", "solution"),
    [
        ("<D> throws a disc.", "yes_no_name", "<D>"),
        ("<E> throws a disc to <D>.", "yes_no_name_multi", ["<D>", "<E>"]),
    ],
)
def test_a_caption_of_rap_is_checked_by_its_names(answer, method, solution):
    record = talk("<image>\nGive a caption.", answer, extra=extra(D="A man.", E="", F="A dog."))
    row = to_row(record, "", "grpo")
    assert (row.method, row.solution) == (method, solution)
    assert row.candidates == ("<D>", "<E>", "<F>") and row.infos == ("A man.", "A dog.")
    assert len(row.images) == row.problem.count("<image>") == 4
    taught = to_row(record, "", "sft")
    assert taught.solution == answer and taught.problem == row.problem


@pytest.mark.parametrize(
    ("record", "row"),
    [
        (  # LLaVA's, and VLM-R1's answers in tags
            talk("<image>\nIs it red?", "<answer> No </answer>"),
            TrainingExample(("a.jpg",), "<image>\nIs it red?", "no", "yes_no"),
        ),
        (
            talk("Where is the dog?", "<answer>[1, 2, 30, 40]</answer>", accu_reward_method="iou"),
            TrainingExample(("a.jpg",), "Where is the dog?", [1, 2, 30, 40], "iou"),
        ),
        (
            talk("Where is the dog?", [1, 2, 30, 40], accu_reward_method="iou"),
            TrainingExample(("a.jpg",), "Where is the dog?", [1, 2, 30, 40], "iou"),
        ),
        (
            talk(
                "<image>, <image>: the same?", "Yes.", image=["a.jpg", "b.jpg"], accu_reward_method="yes_no"
            ),
            TrainingExample(("a.jpg", "b.jpg"), "<image>, <image>: the same?", "yes", "yes_no"),
        ),
        (  # ours
            {"image": "a.jpg", "problem": "Who?", "solution": "<bo>", "accu_reward_method": "yes_no_name"},
            TrainingExample(("a.jpg",), "Who?", "<bo>", "yes_no_name"),
        ),
    ],
)
def test_other_rows_by_hand(record, row):
    assert to_row(record, "", "grpo") == row


def test_an_answer_that_no_method_checks_can_be_taught():
    row = to_row(talk("Is it red?", "Rather.", accu_reward_method="yes_no"), "", "sft")
    assert (row.solution, row.method) == ("Rather.", "yes_no_name")
    assert to_row(talk("Is it red?", "no", accu_reward_method="yes_no"), "", "sft").method == "yes_no"


def turns(*speakers):
    return {"image": "a.jpg", "conversations": [{"from": one, "value": "text"} for one in speakers]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"image": "a.jpg"}, "neither `problem` nor a list of `conversations`"),
        ("text", "neither `problem`"),
        (turns("human", "gpt", "human", "gpt"), "more than one question and answer"),
        (turns("gpt", "human"), "not a question from human"),
        (turns("human"), "not a question from human"),
        (talk("<image>\nWhat?", ""), "an empty question or answer"),
        (talk("<image>", "A dog."), "an empty question or answer"),
        (talk("What?", None), "a question or an answer is no text"),
        (talk("What?", "A dog.", image=None), "no photo"),
        (talk("What?", "A dog."), "no rule can check the answer"),
        (
            talk("What has <D>?", "<D> has a hat.", extra=extra(D="")),
            "the question already names the concept",
        ),
        (talk("Where?", "[0.12, 0.3, 0.45, 0.5]"), "a box in parts of the photo"),
        (talk("Which?", "B", accu_reward_method="mcq"), "accu_reward_method 'mcq' has no reward here"),
        (talk("Which?", "B", accu_reward_method="yes_no"), "the answer must be 'yes' or 'no'"),
        (talk("Where?", "[1, 2]", accu_reward_method="iou"), "the answer must be a box"),
        (talk("<image><image>?", "yes"), "field 'problem': 2 <image> for 1 image"),
        (talk("<|im_end|>?", "yes"), "control token"),
        (talk("Who?", "yes", extra=extra(**{"<|x|>": ""})), "field `extra`"),
        (talk("Who?", "yes", extra=["D"]), "field `extra`: must be an object"),
        (talk("Who?", "yes", extra={"a": {"name": "D"}, "b": {"name": "D"}}), "two concepts of one name"),
        ({"problem": "Who?", "image": "a.jpg"}, "field 'solution': missing or empty"),
    ],
)
def test_what_is_left_out_and_why(record, reason):
    with pytest.raises(Unusable) as found:
        to_row(record, "a.jsonl, line 1", "grpo")
    assert reason in str(found.value) and "a.jsonl" not in str(found.value)


def test_each_record_becomes_a_row_or_is_counted():
    records = [
        (f"a, row {i}", record, Path("data")) for i, record in enumerate([RAP, {}, talk("?", "x"), {}])
    ]
    done = convert(records, "grpo", folder="out")
    assert [row.images for row in done.rows] == [("../data/crop/D.jpg", "../data/a.jpg")]
    assert sorted(done.left_out.values()) == [["a, row 1", "a, row 3"], ["a, row 2"]]


TEXTS = st.text() | st.sampled_from(["<D>", "yes", "<image>", "[1, 2, 3, 4]", "<D> and <E>", "<|im_end|>"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXTS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3),
    max_leaves=6,
)
TALKS = st.builds(
    talk,
    TEXTS | VALUES,
    TEXTS | VALUES,
    image=st.just("a.jpg") | VALUES,
    extra=VALUES | st.dictionaries(TEXTS, st.fixed_dictionaries({"name": TEXTS, "info": VALUES}), max_size=3),
    accu_reward_method=st.none() | st.sampled_from(["yes_no", "iou", "yes_no_name", "mcq"]) | VALUES,
)


@given(VALUES | TALKS, st.sampled_from(["grpo", "sft"]))
def test_any_record_becomes_a_row_that_is_read_again_or_a_reason(tmp_path_factory, record, target):
    try:
        row = to_row(record, "x", target)
    except Unusable as reason:
        assert str(reason)
        return
    file = write_rows(tmp_path_factory.getbasetemp() / "any.jsonl", [row])
    assert read_rows(file, check_images=False) == [row]


@given(st.sets(st.sampled_from("ABCDE")), st.sets(st.sampled_from("ABCDE")))
def test_the_solution_is_what_the_answer_names_of_the_references(named, offered):
    tags = [f"<{name}>" for name in sorted(offered)]
    answer = "There are " + ", ".join(f"<{name}>" for name in sorted(named, reverse=True))
    want = [f"<{name}>" for name in sorted(named & offered)]
    if not want:
        with pytest.raises(Unusable):
            verifiable("Caption?", answer, tags)
    else:
        method, solution = verifiable("Caption?", answer, tags)
        assert (solution if isinstance(solution, list) else [solution]) == want
        assert method == ("yes_no_name" if len(want) == 1 else "yes_no_name_multi")


@pytest.fixture
def talks(tmp_path):
    for name in ("a", "D"):
        Image.new("RGB", (56, 56), "red").save(tmp_path / f"{name}.png")
    about = {"D.png": {"name": "D", "info": "a red toy", "category": "toy"}}
    records = [talk("<image>\nCaption?", f"Number {n} is <D>.", image="a.png", extra=about) for n in range(8)]
    records += [turns("human", "gpt", "human", "gpt")] * 2
    (tmp_path / "talks.json").write_text(json.dumps(records))
    return tmp_path / "talks.json"


@pytest.mark.parametrize(("target", "recipe"), [("grpo", "toy"), ("sft", "toy_sft")])
def test_two_steps_on_a_file_of_conversations(base, talks, tmp_path, capsys, target, recipe):
    rows, out = tmp_path / "made" / "rows.jsonl", tmp_path / "out"
    main(["data", "convert", str(talks), "--out", str(rows), "--target", target])
    assert capsys.readouterr().out.splitlines() == [
        f"{rows}: 8 rows (8 single ICT)",
        f"left out: 2 (more than one question and answer), first {talks}, row 9",
    ]
    small = ["--max-steps=2", "--per-device-train-batch-size=2", "--report-to=none"]
    small += ["--num-generations=2", "--max-completion-length=8"] if target == "grpo" else []
    given_ = ["--config", recipe, "--model", str(base), "--rows", str(rows), "--output-dir", str(out)]
    main(["train", target, *given_, *small])
    assert json.loads((out / "run.json").read_text())["result"]["steps"] == 2


def test_shares_of_several_files_and_the_counts_as_json(talks, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    files = [f"{talks}:first:25%", f"{talks}:end:3"]
    main(["data", "convert", *files, "--out", str(rows), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["left_out"]) == (4, {"more than one question and answer": 2})
    assert len(read_rows(rows)) == 4


def test_nothing_usable_is_an_error_that_says_why(talks, tmp_path, capsys):
    assert main(["data", "convert", f"{talks}:end:2", "--out", str(tmp_path / "rows.jsonl")]) != 0
    assert "none of 2 records becomes a row: 2 (more than one question" in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()
