"""The toy world: splits that do not touch, drawings that match their truth, scores by hand; the shipped base."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from helpers.places import BASE
from repic_core.models.loading import load_model
from repic_core.prompts import caption_messages
from repic_core.toyworld.dataset import QUERY_SETS, write_heldout, write_training
from repic_core.toyworld.draw import COLORS, IDENTITIES, PLACES, Toy, draw_scene
from repic_core.toyworld.encoder import Encoder
from repic_core.toyworld.lessons import HABIT, LESSONS, references_of
from repic_core.toyworld.model import make_processor
from repic_core.toyworld.pretrain import pretrain
from repic_core.toyworld.scoring import position_agreement, score_scene
from repic_core.toyworld.skills import box_iou, measure_skills
from repic_core.toyworld.world import identities, make_sample, new_name, pick_toys, split_of


def test_splits_do_not_touch():
    parts = [set(identities(split)) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set(IDENTITIES)) == len(set.union(*parts)) == 600
    assert len(parts[0]) > 350 and len(parts[1]) > 40 and len(parts[2]) > 60
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        assert all(split_of(new_name(rng, split)) == split for _ in range(50))
        assert all(toy in identities(split) for toy in pick_toys(4, rng, split, hard=1.0))


def test_scene_shows_each_toy_in_its_box():
    toys = [Toy("box", color, "plain") for color in ("red", "blue", "green", "yellow")]
    image, _, places, boxes = draw_scene(toys, np.random.default_rng(3))
    assert sorted(places) == sorted(PLACES)
    for toy, place, (x1, y1, x2, y2) in zip(toys, places, boxes, strict=True):
        centre = image[(y1 + y2) // 2, (x1 + x2) // 2].astype(int)
        assert np.abs(centre - COLORS[toy.color]).max() < 40  # light varies
        assert ("top" in place, "left" in place) == ((y1 + y2) / 2 < 48, (x1 + x2) / 2 < 48)
        outside = image[max(0, y1 - 1), x1].astype(int)
        assert np.abs(outside - COLORS[toy.color]).max() > 20


def test_sample_caption_and_truth_agree():
    sample = make_sample(4, np.random.default_rng(1), "train", n_shown=3)
    caption = sample.caption()
    shown = zip(sample.shown, sample.places, strict=True)
    found = [caption.index(f"at the {place} is <{sample.names[i]}>") for i, place in shown]
    assert found == sorted(found) and len(found) == 3 and sample.background in caption
    described = sample.caption(named=[False] * 3)
    assert all(sample.toys[i].description in described for i in sample.shown) and "<" not in described


TRUTH = {
    "background": "night sky",
    "objects": [
        {"tag": "<bo>", "description": "a plain red ball", "place": "top left", "box": [0, 0, 30, 30]},
        {"tag": "<mia>", "description": "a split blue cat", "place": "bottom right", "box": [50, 50, 90, 90]},
    ],
}


@pytest.mark.parametrize(
    ("caption", "coverage", "placed", "positions"),
    [
        ("On a night sky, at the top left is <bo>, at the bottom right is <mia>.", 1, 1, (2, 2)),
        ("On a night sky, at the top left is a toy, at the bottom right is <mia>.", 1, 0.5, (1, 1)),
        ("On a night sky, at the top left is <mia>.", 1, 0, (0, 1)),
        ("On a night sky, at the top right is <bo>.", 0.5, 0, (0, 1)),
        ("On a night sky, at the bottom left is <zoe>, at the top left is <bo>.", 0.5, 0.5, (1, 1)),
        ("<bo> <mia>", 1, 0, (0, 0)),
        ("This is a plain red ball.", 0.5, 0, (0, 0)),
        ("On a night sky, at the top left is <bo>, at the top left is <bo>.", 0.5, 0.5, (2, 2)),
    ],
)
def test_scene_scores_by_hand(caption, coverage, placed, positions):
    assert position_agreement(caption, TRUTH) == positions
    scores = score_scene(caption, TRUTH)
    assert (scores["coverage"], scores["placed"]) == (coverage, placed)
    assert scores["background"] == ("night sky" in caption) and scores["length"] == len(caption)


def test_lessons_render_as_the_chat_template_does():
    """What the base was trained on is what the kit asks: same text through the processor's template."""
    from PIL import Image

    processor = make_processor()
    encoder = Encoder(processor)
    sample = make_sample(3, np.random.default_rng(2), "train", generic=0.5)
    lesson = LESSONS["who"](3, np.random.default_rng(2), split="train", generic=0.5)
    assert "Who is this?" in lesson.turns[0][0] and references_of(sample)[0].tag.startswith("<")
    references = [c for c in references_of(sample)]
    images = [Image.fromarray(photo) for photo in (*sample.photos, sample.scene)]
    messages = caption_messages(images[-1], references, "Who is this?", system=None)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    real = processor(text=[text], images=[images], return_tensors="pt")["input_ids"][0].tolist()
    from repic_core.prompts import caption_problem

    ours = encoder.encode(
        encoder.user_turn(caption_problem(references, "Who is this?"), [*sample.photos, sample.scene])
    )
    assert ours == real


def test_pointers_lead_to_the_right_syllables():
    encoder = Encoder(make_processor())
    rng = np.random.default_rng(0)
    batch = encoder.batch([LESSONS["cap"](4, rng, HABIT, split="train", generic=0.6) for _ in range(12)])
    row, start, end = batch["pointers"][:, :3].unbind(1)
    assert len(row) > 10
    assert (batch["input_ids"][row, start + 1] == batch["input_ids"][row, end]).all()
    assert (batch["labels"][row, start + 1] == batch["input_ids"][row, end]).all()
    assert (batch["labels"][row, end] == -100).all()


def test_datasets_on_disk(tmp_path):
    counts = write_training(tmp_path / "train", 16, seed=1)
    assert counts == {"rows": 24, "captions_single": 16, "captions_multi": 16}
    database = write_heldout(tmp_path / "val", "val", 5, seed=1)
    assert len(database) == len(identities("val"))
    queries = json.loads((tmp_path / "val" / "queries.json").read_text())
    assert {label: len(rows) for label, rows in queries.items()} == dict.fromkeys(QUERY_SETS, 5)
    for row in queries["4 all"]:
        assert sorted(row["shown"]) == sorted(row["references"]) and len(row["shown"]) == 4
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
    assert skills["who 4"] >= 0.85 and skills["oct 1"] >= 0.85 and skills["vlt 4"] >= 0.45
    assert skills["caption 1"] >= 0.9 and skills["caption 4 all"] <= 0.5
    assert (BASE / "README.md").exists()


def test_pretraining_is_seeded_and_resumes_from_its_checkpoints(tmp_path):
    def weights(out: str, work: str, **options: Any) -> dict[str, Any]:
        pretrain(tmp_path / out, tmp_path / work, (1, 1), 2, **options)
        return load_model(tmp_path / out)[0].state_dict()

    first, again, other = weights("a", "w"), weights("b", "v"), weights("c", "u", seed=1)
    finished = weights("d", "w")  # nothing is left to do
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], finished[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert not list(tmp_path.glob("*/*.tmp"))
    log = (tmp_path / "w" / "language.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2]


def test_positions_agree_with_the_boxes_that_scenes_are_drawn_with():
    for seed in range(40):
        sample = make_sample(4, np.random.default_rng(seed), "val", n_shown=4)
        shown = zip(sample.shown, sample.boxes, strict=True)
        truth = {"objects": [{"tag": f"<{sample.names[i]}>", "box": list(box)} for i, box in shown]}
        assert position_agreement(sample.caption(), truth) == (4, 4)
