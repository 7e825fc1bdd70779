"""OCT and VLT on held-out rows: hand-made answers, and the shipped toy base."""

from types import SimpleNamespace

import pytest
from PIL import Image

from helpers.places import BASE
from repic_core.concepts.concept import Concept
from repic_core.data.rows import TrainingExample, to_dataset
from repic_core.evaluation import task_scores
from repic_core.evaluation.task_scores import answer_rows, box_overlap, score_tasks
from repic_core.models.loading import load_model
from repic_core.rewards import iou
from repic_core.toyworld.dataset import write_heldout_tasks


def oct_row(name: str, solution: str) -> TrainingExample:
    return TrainingExample((f"{name}_0.png", f"{name}_1.png"), "The same?", solution, "yes_no")


def vlt_row(name: str, box: list[int]) -> TrainingExample:
    return TrainingExample((f"{name}.png",), "Where is it?", box, "iou")


ANSWERED = [
    (oct_row("a", "yes"), "yes"),
    (vlt_row("b", [0, 0, 10, 10]), "[0, 0, 10, 8]"),  # IoU 0.8
    (oct_row("c", "no"), "Yes."),
    (oct_row("d", "no"), "yes or no"),  # no verdict
    (vlt_row("e", [0, 0, 10, 10]), "[5, 0, 15, 10]"),  # 1/3
    (vlt_row("f", [0, 0, 10, 10]), "[0, 0, 10, 10] or [1, 1, 9, 9]"),  # two boxes
    (vlt_row("g", [0, 0, 10, 10]), "I see none."),
    (vlt_row("h", [0, 0, 10, 10]), '{"bbox_2d": [0, 0, 5, 10]}'),  # just 0.5
    (oct_row("i", "no"), "no"),
]


def answer_with(monkeypatch, pairs):
    texts = {row: text for row, text in ((id(row), text) for row, text in pairs)}
    monkeypatch.setattr(
        task_scores, "answer_rows", lambda model, processor, rows, *_: [texts[id(row)] for row in rows]
    )


def test_scores_by_hand(monkeypatch):
    answer_with(monkeypatch, ANSWERED)
    found = score_tasks(None, None, [row for row, _ in ANSWERED])
    assert found["n"] == {"yes_no": 4, "iou": 5}
    assert found["oct"].value == pytest.approx(2 / 4)
    assert found["vlt_iou"].value == pytest.approx((0.8 + 1 / 3 + 0.5) / 5)
    assert found["vlt_hit"].value == pytest.approx(2 / 5)
    for name in ("oct", "vlt_iou", "vlt_hit"):
        assert 0 <= found[name].low < found[name].value < found[name].high <= 1


def test_a_task_without_rows_has_no_score(monkeypatch):
    answer_with(monkeypatch, ANSWERED)
    found = score_tasks(None, None, [ANSWERED[0][0]])
    assert found["n"] == {"yes_no": 1, "iou": 0} and found["oct"].value == 1.0
    assert found["vlt_iou"] is None and found["vlt_hit"] is None


def test_rows_of_the_same_images_are_drawn_together(monkeypatch):
    """Ten questions about the same photo count as one photo: there is nothing to draw."""
    rows = [vlt_row("same", [0, 0, 10, 10]) for _ in range(10)]
    answers = ["[0, 0, 10, 10]", "none"] * 5
    answer_with(monkeypatch, list(zip(rows, answers, strict=True)))
    hit = score_tasks(None, None, rows)["vlt_hit"]
    assert (hit.value, hit.low, hit.high) == (0.5, 0.5, 0.5)


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="none to score"):
        score_tasks(None, None, [])
    caption = TrainingExample(("a.png",), "<image>Caption.", "<bo>", "yes_no_name")
    with pytest.raises(ValueError, match=r"one is of single ICT \(yes_no_name\), but only yes_no and iou"):
        score_tasks(None, None, [ANSWERED[0][0], caption])


def test_box_overlap():
    assert box_overlap("[0, 0, 10, 10]", [0, 0, 10, 10]) == 1
    assert box_overlap("[10, 10, 0, 0]", [0, 0, 10, 10]) == 0  # empty


def test_the_toy_base_does_both_tasks(tmp_path, monkeypatch):
    """As on its card, in the order of the rows, in any batch size, asked as in training."""
    rows = write_heldout_tasks(tmp_path, "test", 24)
    rows = [row for pair in zip(rows[:24], rows[24:], strict=True) for row in pair]  # OCT and VLT in turns
    model, processor = load_model(BASE)
    asked, template = [], type(processor).apply_chat_template

    def recorded(self, messages, **options):
        asked.append(template(self, messages, **options))
        return asked[-1]

    monkeypatch.setattr(type(processor), "apply_chat_template", recorded)
    answers = answer_rows(model, processor, rows, tmp_path, batch_size=7)
    prompts = [
        processor.apply_chat_template(p, tokenize=False, add_generation_prompt=True)
        for p in to_dataset(rows, tmp_path)["prompt"]
    ]
    assert asked[:48] == asked[48:] == prompts
    assert {text for text in answers[::2]} == {"yes", "no"} and all(t.startswith("[") for t in answers[1::2])
    assert answers == answer_rows(model, processor, rows, tmp_path, batch_size=48)
    found = score_tasks(model, processor, rows, tmp_path, batch_size=48)
    assert found["n"] == {"yes_no": 24, "iou": 24}
    assert found["oct"].value >= 0.85 and 0.1 <= found["vlt_iou"].value <= 0.9
    assert found["vlt_iou"].low < found["vlt_iou"].value < 2 * found["vlt_hit"].value


def test_rows_without_photos_are_answered(base):
    """In a batch alone or with others."""
    model, processor = load_model(base)
    without, with_photo = (
        TrainingExample(photos, "The same?", "yes", "yes_no")
        for photos in ((), (Image.new("RGB", (96, 96)),))
    )
    (alone,) = answer_rows(model, processor, [without])
    (other,) = answer_rows(model, processor, [with_photo])
    assert alone and answer_rows(model, processor, [without, with_photo]) == [alone, other]


def test_a_missing_photo_is_named(base, tmp_path):
    model, processor = load_model(base)
    with pytest.raises(ValueError, match=r"b\.png: no such image"):
        score_tasks(model, processor, [ANSWERED[1][0]], tmp_path)


def test_locate_gives_boxes_in_pixels_of_the_photo(monkeypatch):
    asked, answers = [], ["[500, 250, 1000, 750]", "none", "[7, 7, 7, 9]"]
    monkeypatch.setattr(
        task_scores, "answer_rows", lambda model, processor, rows: asked.extend(rows) or answers
    )
    model = SimpleNamespace(config=SimpleNamespace(model_type="qwen3_vl"))
    concepts = [
        Concept(name="bo", image="bo.png", info="a red ball"),
        *(Concept(name=n, image="x") for n in "ab"),
    ]
    photo = Image.new("RGB", (200, 80))
    boxes = task_scores.locate(model, SimpleNamespace(image_processor=None), photo, concepts)
    assert boxes == [(100, 20, 200, 60), None, None]
    assert [row.problem for row in asked] == [
        f"Give the bounding box of {x}." for x in ("a red ball", "a", "b")
    ]
    assert asked[0].images[0].size == (200, 80) and asked[0].method == "iou"


def test_the_base_locates_described_toys(tmp_path):
    rows = [row for row in write_heldout_tasks(tmp_path, "val", 20) if row.method == "iou"]
    model, processor = load_model(BASE)
    overlaps = []
    for row in rows:
        info = row.problem.removeprefix("Give the bounding box of ").removesuffix(".")
        concept = Concept(name="bo", image="x.png", info=info)
        (box,) = task_scores.locate(model, processor, tmp_path / row.images[0], [concept])
        overlaps.append(iou(box, row.solution) if box else 0.0)
    assert sum(value >= 0.5 for value in overlaps) >= 3  # of 20; it frames a fifth of the test split's
