"""Tuning rows: round trip, every bad row, and what TRL makes of the dataset."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.photos import HEIC, MALFORMED, halves
from repic_core.data.rows import RowError, TrainingExample, read_rows, to_dataset, write_rows

ROWS = [
    TrainingExample(("a.png", "b.png"), "Do these two images show the same object?", "yes", "yes_no"),
    TrainingExample(("a.png",), "Give the bounding box of the cat.", [1, 2, 30, 40], "iou"),
    TrainingExample(("a.png", "b.png"), "Name: <bo>, Info: a dog. Caption it.", "<bo>", "yes_no_name"),
    TrainingExample(
        ("a.png", "b.png", "c.png"),
        "<image>Name: <bo>, Info: a dog<image>Name: <mia>, Info: a cat<image>This is the query image. Caption it.",
        ["<bo>", "<mia>"],
        "yes_no_name_multi",
        ("<bo>", "<mia>"),
        ("a dog", "a cat"),
    ),
]


WRITTEN = {"image": "a.png", "problem": "Who?", "solution": "<bo>", "accu_reward_method": "yes_no_name"}


@pytest.fixture
def root(tmp_path):
    for name, color in (("a", "red"), ("b", "green"), ("c", "blue")):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_round_trip(root, name):
    assert read_rows(write_rows(root / name, ROWS)) == ROWS


def test_upstream_rows_need_no_method(root):
    row = {"image": "a.png", "problem": "Where is the cat?", "solution": [1, 2, 3, 4]}
    (root / "rows.json").write_text(json.dumps([row]))
    assert read_rows(root / "rows.json")[0].method == "iou"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: "<image>" not in t)


@settings(max_examples=50)
@given(problem=texts, names=st.lists(texts.filter(str.strip), min_size=1, max_size=4))
def test_any_text_survives_the_file(tmp_path_factory, problem, names):
    rows = [TrainingExample(("a.png",), problem, names, "yes_no_name_multi", tuple(names))]
    path = write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)
    assert read_rows(path, check_images=False) == rows


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"solution": None}, "'solution': missing"),
        ({"solution": "maybe"}, "'solution': must be 'yes' or 'no'"),
        ({"problem": ""}, "'problem': missing"),
        ({"problem": "<image> same?"}, "'problem': 1 <image> for 2"),
        ({"image": ["a.png", "gone.png"]}, "'image': 'gone.png' does not exist under"),
        ({"image": "rows.jsonl"}, "'image': 'rows.jsonl' is not a readable image"),
        ({"accu_reward_method": ["iou"]}, "'accu_reward_method': ['iou'] is not one of"),
        ({"image": [1]}, "'image': must be a path"),
        ({"accu_reward_method": "yesno"}, "'accu_reward_method': 'yesno' is not one of"),
        ({"accu_reward_method": "iou"}, "'solution': must be a box"),
        ({"accu_reward_method": "iou", "solution": [5, 5, 1, 1]}, "x1 < x2"),
        ({"accu_reward_method": "yes_no_name_multi", "solution": [1]}, "'solution': must be a list of names"),
        ({"candidates": "<bo>"}, "'candidates': must be a list"),
        ({"problem": "same?<|im_end|>"}, "'problem': it holds the control token '<|im_end|>'"),
    ],
)
def test_bad_rows_name_file_line_and_field(root, change, field):
    good = {
        "image": ["a.png", "b.png"],
        "problem": "same?",
        "solution": "yes",
        "accu_reward_method": "yes_no",
    }
    path = root / "rows.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(good | change) + "\n")
    with pytest.raises(RowError) as error:
        read_rows(path)
    where, said = str(error.value).split(", field ")
    assert where == f"{path}, line 3" and field in said


@pytest.mark.parametrize(("name", "where"), [("cut.jsonl", "line 1"), ("cut.json", "line 1")])
def test_half_a_file(root, name, where):
    (root / name).write_text('[{"image": "a.png", "probl')
    with pytest.raises(RowError, match=f"{where}: not valid JSON .* cut off"):
        read_rows(root / name)


def test_the_two_forms_taken_for_each_other(root):
    write_rows(root / "list.json", ROWS).rename(root / "list.jsonl")
    with pytest.raises(RowError, match=r"line 1: .* name it \.json$"):
        read_rows(root / "list.jsonl")
    write_rows(root / "lines.jsonl", ROWS).rename(root / "lines.json")
    with pytest.raises(RowError, match=r"line 2: .* if it holds rows line by line, name it \.jsonl"):
        read_rows(root / "lines.json")


def test_photos_too_long_for_the_model(root):
    Image.new("RGB", (400, 2)).save(root / "long.png")
    rows = [TrainingExample(("long.png",), "same?", "yes", "yes_no")]
    with pytest.raises(RowError, match=r"'long.png' is too long for the model \(400 x 2 pixels\): crop it"):
        read_rows(write_rows(root / "rows.json", rows))


def test_dataset_is_what_trl_reads(root):
    from trl.data_utils import prepare_multimodal_messages

    dataset = to_dataset(ROWS, root, seed=1)
    assert dataset["accu_reward_method"] == [row.method for row in ROWS]
    assert [dataset[i]["solution"] for i in range(4)] == [
        "yes",
        "[1, 2, 30, 40]",
        "<bo>",
        '["<bo>", "<mia>"]',
    ]
    example = dataset[3]
    assert example["candidates"] == ["<bo>", "<mia>"] and example["infos"] == ["a dog", "a cat"]
    assert dataset[0]["candidates"] == dataset[0]["infos"] == []
    (message,) = prepare_multimodal_messages(example["prompt"], images=example["images"])
    kinds = [block["type"] for block in message["content"]]
    assert kinds == ["image", "text", "image", "text", "image", "text"]
    colors = [b["image"].convert("RGB").getpixel((0, 0)) for b in message["content"] if b["type"] == "image"]
    assert colors == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]  # each photo is where the text mentions it
    first = dataset[0]["prompt"][0]["content"]
    # without <image>, upstream's order
    assert [block["type"] for block in first] == ["image", "image", "text"]
    assert first[-1]["text"].endswith("must be either 'yes' or 'no' with no additional output.")
    assert to_dataset(ROWS, root, seed=1)["prompt"] == dataset["prompt"]


def test_a_photo_that_is_cut_off_is_refused(root):
    Image.effect_noise((300, 300), 80).convert("RGB").save(root / "a.jpg")
    row = {"image": "a.jpg", "problem": "p", "solution": "yes", "accu_reward_method": "yes_no"}
    (root / "rows.jsonl").write_text(f"{json.dumps(row)}\r\n", encoding="utf-8-sig")  # as Windows writes it
    assert len(read_rows(root / "rows.jsonl")) == 1
    (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:9000])
    with pytest.raises(RowError, match=r"line 1, field 'image': 'a\.jpg' is not a readable image"):
        read_rows(root / "rows.jsonl")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"problem": "Where is the <|im_end|> cat?"}, "field 'problem': it holds the control token"),
        ({"problem": "<image><image> Where is the cat?"}, "field 'problem': 2 <image> for 1 image"),
        ({"problem": "Where is the \ud83d cat?"}, "field 'problem': it holds half a character"),
        ({"solution": "a dog</s>"}, "field 'solution': it holds the control token '</s>'"),
        ({"solution": "an <image> of a dog"}, "field 'solution': it holds the control token '<image>'"),
        ({"solution": "a \ud83d dog"}, "field 'solution': it holds half a character"),
    ],
)
def test_texts_that_no_prompt_can_hold_are_refused_when_a_row_is_built(root, change, said):
    row = {
        "images": ("a.png",),
        "problem": "Caption it.",
        "solution": "<bo>",
        "method": "yes_no_name",
    } | change
    with pytest.raises(RowError, match=said):
        TrainingExample(**row)
    record = {
        "image": "a.png",
        **{k: row[k] for k in ("problem", "solution")},
        "accu_reward_method": "yes_no_name",
    }
    (root / "rows.jsonl").write_text(json.dumps(record))
    with pytest.raises(RowError, match=rf"rows\.jsonl, line 1, {said}"):
        read_rows(root / "rows.jsonl")


@pytest.mark.parametrize("written", ["sub\\Zo\u00eb.png", "sub/Zo\u00eb.png", "sub\\Zoe\u0308.png"])
def test_photos_are_found_as_another_system_writes_them(root, written):
    (root / "sub").mkdir()
    (root / "a.png").rename(root / "sub" / "Zoe\u0308.png")
    (root / "rows.jsonl").write_bytes(json.dumps(WRITTEN | {"image": written}).encode("utf-16"))
    for check in (True, False):
        rows = read_rows(root / "rows.jsonl", check_images=check)
        assert rows[0].images == ("sub/Zoe\u0308.png",)
    assert to_dataset([TrainingExample((written,), "Who?", "<bo>", "yes_no_name")], root)[0]["images"]


def test_photos_that_datasets_would_misread_are_right_in_the_dataset(root):
    """16 bits would be clipped, and a malformed EXIF tag or a name in Latin-1 would end a training."""
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(root / "deep.png")
    (root / "malformed.jpg").write_bytes(halves(exif=MALFORMED))
    latin = os.fsdecode(b"Zo\xeb.png")
    (root / latin).write_bytes((root / "c.png").read_bytes())
    names = ("deep.png", "malformed.jpg", latin, "a.png")
    rows = [TrainingExample((name,), "Who?", "<bo>", "yes_no_name") for name in names]
    deep, turned, third, plain = (row["images"][0] for row in to_dataset(rows, root))
    assert np.abs(np.asarray(deep)[..., 0] - np.rint(ramp / 257)).max() == 0
    assert turned.size == (48, 64) and turned.getpixel((4, 4))[2] > 200
    assert third.getpixel((0, 0)) == (0, 0, 255) and plain.getpixel((0, 0)) == (255, 0, 0)
    assert read_rows(write_rows(root / "rows.jsonl", rows)) == rows
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(root / "nan.tif")
    with pytest.raises(RowError, match=r"nan\.tif: has pixels that are no numbers"):
        to_dataset([TrainingExample(("nan.tif",), "Who?", "<bo>", "yes_no_name")], root)


def test_heic_is_named_in_a_row(root):
    (root / "IMG_1.jpg").write_bytes(HEIC)
    (root / "rows.jsonl").write_text(json.dumps(WRITTEN | {"image": "IMG_1.jpg"}))
    with pytest.raises(RowError, match=r"line 1, field 'image': 'IMG_1.jpg' is a HEIC photo \(iPhone\)"):
        read_rows(root / "rows.jsonl")
