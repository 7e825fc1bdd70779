"""The toy world: samples and scores by hand, what a lesson teaches, files on disk; the shipped base."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from helpers.places import BASE
from repic_core.models.loading import load_model
from repic_core.prompts import caption_messages, caption_problem
from repic_core.toyworld.dataset import QUERY_SETS, write_heldout, write_training
from repic_core.toyworld.drawings import all_drawings, identities, split_of
from repic_core.toyworld.encoder import Encoder
from repic_core.toyworld.grammar import read, reading_order
from repic_core.toyworld.lessons import HABIT, LESSONS, references_of
from repic_core.toyworld.photos import place_of
from repic_core.toyworld.pretrain import pretrain
from repic_core.toyworld.recognition import REFERENCE_GRID
from repic_core.toyworld.scoring import score_scene
from repic_core.toyworld.skills import box_iou, measure_skills
from repic_core.toyworld.world import make_sample, new_name, new_names


def test_names_belong_to_their_split():
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        assert all(split_of(new_name(rng, split)) == split for _ in range(50))
        assert len(set(new_names(50, rng, split))) == 50


def test_sample_caption_and_truth_agree():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sample = make_sample(4, rng, "train", n_shown=3, strangers=2)
        assert len(sample.things) == 5 and sample.shown[3:] == [None, None]
        assert [sample.things[i] for i in range(3)] == [sample.drawings[i] for i in sample.shown[:3]]
        assert not set(sample.things[3:]) & set(sample.drawings)
        background, mentions = read(sample.caption(rng))
        called = sample.called()
        assert [word.startswith("<") for word in called] == [True] * 3 + [False] * 2
        order = reading_order(sample.scene.boxes)
        assert [mention.thing for mention in mentions] == [called[i] for i in order]
        assert background == sample.scene.background
        stated = [(m.place, place_of(sample.scene.boxes[i])) for m, i in zip(mentions, order, strict=True)]
        assert all(said in (None, true) for said, true in stated)
        assert "<" not in sample.caption(rng, named=[False] * 5)


def thing(tag, description, place, box, depth):
    kind = description.split()[-1]
    return {"tag": tag, "description": description, "kind": kind, "place": place, "box": box, "depth": depth}


TRUTH = {
    "background": "night sky",
    "objects": [
        thing("<bo>", "a red bird", "top left", [0, 0, 40, 40], 0),
        thing("<mia>", "a blue bug", "bottom right", [100, 100, 140, 140], 2),
        thing(None, "a green plant", "centre", [60, 60, 100, 100], 1),
    ],
}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "On a night sky. At the top left is <bo>. A green plant is at the centre. Below it is <mia>.",
            {"told": 1, "stated": 1, "right": 1, "described": 1, "kind": 1, "fitting": 1, "background": 1},
        ),
        ("<bo> is at the top left. <mia> is below it.", {"told": 2 / 3, "stated": 2, "right": 2}),
        ("<bo> is at the top. <mia> is above it.", {"told": 2 / 3, "stated": 2, "right": 0}),
        ("<zoe> is at the top left. Next to it is <bo>.", {"told": 2 / 3, "wrong": 1}),
        ("<zoe> is at the top. <zoe> is at the left. <kim> is at the right.", {"told": 1, "wrong": 2, "again": 1}),
        ("A red bird is at the top.", {"told": 1 / 3, "described": 1, "kind": 1, "fitting": 1}),
        ("<bo> is at the left. A red bird is at the right.", {"told": 2 / 3, "stated": 1}
         | {"described": 1, "kind": 1}),
        ("A pink bird is at the top. A red cat is at the left.", {"told": 2 / 3, "described": 2, "kind": 1}),
        ("On a blue sea. <bo> <mia>", {}),
    ],
)  # fmt: skip
def test_scene_scores_by_hand(caption, expected):
    zero = dict.fromkeys(score_scene("", TRUTH), 0)
    assert score_scene(caption, TRUTH) == pytest.approx(zero | expected | {"length": len(caption)})


def test_true_captions_have_full_scores(tmp_path):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sample = make_sample(4, rng, "val", strangers=1)
        objects = []
        for i, one in enumerate(sample.things):
            box, index = sample.scene.boxes[i], sample.shown[i]
            tag = None if index is None else f"<{sample.names[index]}>"
            facts = {"tag": tag, "description": one.description, "kind": one.kind}
            objects.append(facts | {"place": place_of(box), "box": box, "depth": sample.scene.depths[i]})
        truth = {"background": sample.scene.background, "objects": objects}
        for named in (None, [False] * len(objects)):
            found = score_scene(sample.caption(rng, named), truth)
            assert (found["told"], found["background"], found["wrong"]) == (1, 1, 0)
            assert (
                found["right"] == found["stated"] and found["fitting"] == found["kind"] == found["described"]
            )
            assert found["described"] == (len(objects) if named else 1)


@pytest.fixture(scope="module")
def encoder(untrained):
    return Encoder(untrained[1])


def test_lessons_render_as_the_chat_template_does(encoder):
    """What the base was trained on is what the kit asks: same text through the processor's template."""
    from PIL import Image

    processor = encoder.processor
    sample = make_sample(3, np.random.default_rng(2), "train", generic=0.5)
    lesson = LESSONS["who"](3, np.random.default_rng(2), split="train", generic=0.5)
    references = references_of(sample)
    assert "Who is this?" in lesson.turns[0][0] and references[0].tag.startswith("<")
    photos = [*sample.photos, sample.scene.image]
    images = [Image.fromarray(photo) for photo in photos]
    messages = caption_messages(images[-1], references, "Who is this?", system=None)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    real = processor(text=[text], images=[images], return_tensors="pt")["input_ids"][0].tolist()
    ours = encoder.encode(encoder.user_turn(caption_problem(references, "Who is this?"), photos))
    assert ours == real


def test_pointers_lead_to_the_right_tokens(encoder):
    """Names to the same syllable of their reference, looks into the scene, references to their photos."""
    rng = np.random.default_rng(0)
    lessons = [LESSONS["cap"](4, rng, HABIT, split="train", generic=0.6) for _ in range(12)]
    batch = encoder.batch(lessons)
    ids, labels = batch["input_ids"], batch["labels"]
    row, start, end, drawing = batch["names"].unbind(1)
    assert len(row) > 10
    # A tag at the beginning of a sentence has another first token, and the same syllables.
    for text, wanted in ((ids[row, start + 1], ids[row, end]), (labels[row, start + 1], ids[row, end])):
        spelled = [[encoder.tokenizer.decode(one).strip() for one in some] for some in (text, wanted)]
        assert spelled[0] == spelled[1]
    assert (labels[row, end] == -100).all()
    row, start, end, drawing = batch["looks"].unbind(1)
    assert (labels[row, start + 1] != -100).all() and (ids[row, end] == encoder.image_token).all()
    for number, lesson in enumerate(lessons):
        shown = {look.drawing.number for look in lesson.looks[0]}
        assert set(drawing[row == number].tolist()) == shown
    row, start, end, drawing = batch["photos"].unbind(1)
    for number, lesson in enumerate(lessons):
        begins = (ids[number] == encoder.image_token) & (ids[number].roll(1) != encoder.image_token)
        first = begins.nonzero()[:, 0].tolist()[: len(lesson.names)]
        ends = [end[(row == number) & (drawing == one.number)] for one in lesson.names.values()]
        assert [set(some.tolist()) for some in ends] == [{place} for place in first]
        assert all(
            (ids[number, place : place + REFERENCE_GRID**2] == encoder.image_token).all() for place in first
        )


def test_lessons_about_places_and_boxes_are_clear():
    """No place of two things, no description that fits two."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        for name, k in (("place", 7), ("vlt", 6)):
            lesson = LESSONS[name](k, rng, split="train")
            asked = [re.sub("<image>", "", problem).split("\n")[-1] for problem, _ in lesson.turns]
            assert len(set(asked)) == len(asked) <= 4
            assert [look.called in answer for looks, (_, answer) in zip(lesson.looks, lesson.turns, strict=True)
                    for look in looks] == [True] * len(asked)  # fmt: skip


def test_datasets_on_disk(tmp_path):
    counts = write_training(tmp_path / "train", 16, seed=1)
    assert counts == {"rows": 24, "captions_single": 16, "captions_multi": 16}
    drawings = {one.name: one for one in all_drawings()}
    for scene in json.loads((tmp_path / "train" / "truth.json").read_text()).values():
        for one in scene["objects"]:
            assert split_of(drawings[one["drawing"]].family) == "train"
            assert one["description"] == drawings[one["drawing"]].description
            assert one["tag"] is None or split_of(one["tag"].strip("<>")) == "train"
    database = write_heldout(tmp_path / "val", "val", 5, seed=1)
    assert len(database) == len(identities("val"))
    queries = json.loads((tmp_path / "val" / "queries.json").read_text())
    assert {label: len(rows) for label, rows in queries.items()} == dict.fromkeys(QUERY_SETS, 5)
    for row in queries["4 all"]:
        assert sorted(row["shown"]) == sorted(row["references"]) and len(row["shown"]) == 4
    truth = json.loads((tmp_path / "val" / "truth.json").read_text())
    for rows in queries.values():
        for row in rows:
            assert row["shown"] == [one["tag"] for one in truth[row["query"]]["objects"] if one["tag"]]
            assert set(row["shown"]) <= set(row["references"]) <= {concept.tag for concept in database}
    with pytest.raises(ValueError, match="not held out"):
        write_heldout(tmp_path / "x", "train")


def test_box_iou():
    assert box_iou("[0, 0, 10, 10]", "[5, 0, 15, 10]") == pytest.approx(1 / 3)
    assert box_iou("[10, 10, 0, 0]", "[0, 0, 10, 10]") == 0 == box_iou("no box", "[0, 0, 1, 1]")


def test_shipped_base_is_what_its_card_says():
    """A genuine, small Qwen2.5-VL with the skills of section 6 on held-out concepts, and without the habit."""
    size = sum(path.stat().st_size for path in BASE.iterdir())
    model, processor = load_model(BASE)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sum(p.numel() for p in model.parameters()) <= 4_000_000 and size <= 10_000_000
    skills = measure_skills(model, processor, "test", n=48)
    assert skills["who 4"] >= 0.85 and skills["oct 1"] >= 0.85 and skills["vlt 4"] >= 0.1
    assert skills["caption 1"] >= 0.9 and skills["caption 4 all"] <= 0.5
    assert (BASE / "README.md").exists()


def test_pretraining_is_seeded_and_resumes_from_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("repic_core.toyworld.pretrain.measure_recognition", lambda *_: {})

    def weights(out: str, work: str, **options: Any) -> dict[str, Any]:
        pretrain(tmp_path / out, tmp_path / work, 1, 2, **options)
        return load_model(tmp_path / out)[0].state_dict()

    first, again, other = weights("a", "w"), weights("b", "v"), weights("c", "u", seed=1)
    finished = weights("d", "w")  # nothing is left to do
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], finished[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert not list(tmp_path.glob("*/*.tmp"))
    log = (tmp_path / "w" / "language.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2]
