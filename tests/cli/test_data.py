"""``repic data``: rows from a folder of photos and from boxes, found again from the rows' own folder."""

import json

import pytest
from PIL import Image

from repic_core.cli import main
from repic_core.data.builders import build_from_folders
from repic_core.data.coco import build_vlt
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate(("bo", "mia", "vase")):
        (folder / name).mkdir(parents=True)
        for place in range(2):
            Image.new("RGB", (60, 40), (80 * number, 90 * place, 0)).save(folder / name / f"{place}.jpg")
    (folder / "bo" / "info.txt").write_text("a brown dog\n")
    return folder


@pytest.fixture
def coco(photos):
    boxes = {
        "images": [{"id": 1, "file_name": "bo/0.jpg", "width": 60, "height": 40}],
        "annotations": [{"image_id": 1, "bbox": [10, 10, 20, 20], "category_id": 3}],
        "categories": [{"id": 3, "name": "dog"}],
    }
    (photos / "boxes.json").write_text(json.dumps(boxes))
    return photos / "boxes.json"


def data(*arguments):
    return main(["data", *map(str, arguments)])


def test_rows_are_those_of_the_builder_seen_from_their_own_folder(photos, tmp_path, capsys):
    out = tmp_path / "rows" / "rows.jsonl"
    assert data("build", "--photos", photos, "--out", out, "--seed", 3, "--references", 3) == 0
    said = capsys.readouterr().out
    rows = read_rows(out)  # the photos are found without another root
    wanted = build_from_folders(photos, 3, infos={"bo": "a brown dog"}, references=3)
    assert [row.problem for row in rows] == [row.problem for row in wanted]
    assert [row.images for row in rows] == [
        tuple(f"../photos/{image}" for image in row.images) for row in wanted
    ]
    assert any("a brown dog" in row.problem for row in rows)
    assert said == f"{out}: {len(rows)} rows (6 OCT, 6 single ICT)\n"
    assert data("check", out) == 0 and capsys.readouterr().out == said
    assert data("check", out, "--json") == 0
    counts = {"yes_no": 6, "yes_no_name": 6}
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "rows": 12, "tasks": counts}


def test_collages_lie_where_they_were_asked_for(photos, tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert data("build", "--photos", photos, "--out", out, "--collages", tmp_path / "collages") == 0
    assert "multi ICT" in capsys.readouterr().out
    queries = [row.images[-1] for row in read_rows(out) if row.method == "yes_no_name_multi"]
    assert queries and all(query.startswith("collages/") for query in queries)


def test_boxes_are_in_the_frame_of_the_model(base, photos, coco, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    both = ("--photos", photos, "--coco", coco, "--model", base)
    assert data("build", *both, "--out", out, "--max-pixels", 1024) == 0
    assert "1 VLT" in capsys.readouterr().out
    processor = load_model(base, max_pixels=1024)[1].image_processor
    (wanted,) = build_vlt(coco, photos, "resized", processor)
    (row,) = (row for row in read_rows(out) if row.method == "iou")
    assert row.solution == wanted.solution and row.problem == "Give the bounding box of the dog."
    assert row.images == ("photos/bo/0.jpg",)
    assert data("build", *both, "--out", out, "--max-pixels", 40000, "--min-pixels", 30000) == 0
    (row,) = (row for row in read_rows(out) if row.method == "iou")
    larger = load_model(base, max_pixels=40000, min_pixels=30000)[1].image_processor
    assert row.solution == build_vlt(coco, photos, "resized", larger)[0].solution != wanted.solution
    assert data("build", *both, "--out", out, "--max-pixels", 100, "--min-pixels", 200) == 2
    assert "min_pixels 200 is more than max_pixels 100" in capsys.readouterr().err


def test_what_is_wrong_is_named(base, photos, tmp_path, capsys):
    out = ("--out", tmp_path / "rows.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"image": "gone.jpg", "problem": "Who?", "solution": "yes"}\n')
    (tmp_path / "boxes.json").write_text("[]")
    wrong = {
        "repic data build: give --photos, --coco or both": ("build", *out),
        "nowhere: no concept folders": ("build", "--photos", tmp_path / "nowhere", *out),
        "boxes.json: not a COCO-style file": (
            "build",
            "--coco",
            tmp_path / "boxes.json",
            "--model",
            base,
            *out,
        ),
        "bad.jsonl, line 1, field": ("check", tmp_path / "bad.jsonl"),
        "gone.jsonl: can't be read (No such file": ("check", tmp_path / "gone.jsonl"),
    }
    for message, arguments in wrong.items():
        assert data(*arguments) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.out == "" and printed.err.count("\n") == 1
    assert not (tmp_path / "rows.jsonl").exists()
