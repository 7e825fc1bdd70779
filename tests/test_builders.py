"""Rows from photos: the authors' DreamBooth folders, COCO-style boxes, and what is refused."""

import json
from collections import Counter

import pytest
from PIL import Image

from repic_core.boxes import resized_size, to_model_frame, to_original_frame
from repic_core.builders import BuildError, build_from_folders, build_multi_ict, build_vlt, category_of
from repic_core.concepts import ConceptDatabase
from repic_core.tasks import read_rows, write_rows


@pytest.fixture(scope="module")
def image_processor():
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(max_pixels=1024 * 28 * 28)


def test_dreambooth_rows(official_root, tmp_path):
    root = official_root / "data" / "dreambooth"
    rows = build_from_folders(root, seed=3)
    assert Counter(row.method for row in rows) == {"yes_no": 60, "yes_no_name": 60}
    for row in rows:
        folders = [image.split("/")[0] for image in row.images]
        if row.method == "yes_no":
            assert (folders[0] == folders[1]) == (row.solution == "yes") and row.images[0] != row.images[1]
        else:
            # the query's concept is among the references, by another photo, and its tag is the solution
            place = folders[:-1].index(folders[-1])
            assert row.candidates[place] == row.solution and row.images[-1] not in row.images[:-1]
    negatives = {tuple(i.split("/")[0] for i in r.images) for r in rows if r.solution == "no"}
    dogs = [pair for pair in negatives if category_of(pair[0]) == "dog"]
    assert dogs and all(category_of(other) == "dog" for _, other in dogs)  # hard: another dog
    assert rows == build_from_folders(root, seed=3) != build_from_folders(root, seed=4)
    assert read_rows(write_rows(tmp_path / "rows.jsonl", rows), root) == rows


def test_multi_ict_from_the_query_list(official_root):
    database = ConceptDatabase.load(
        official_root / "data/database_tot/database_4_concepts/database_mod.json", root=official_root
    )
    queries = json.loads((official_root / "data/query_tot/4_concept_query_templates.json").read_text())
    rows = build_multi_ict(list(database), queries, distractors=2)
    assert len(rows) == 105 and all(len(r.images) == 7 and len(r.solution) == 4 for r in rows)
    assert all(set(r.solution) < set(r.candidates) for r in rows)
    with pytest.raises(BuildError, match=r"x\.jpg: shows <nobody>"):
        build_multi_ict(list(database), {"x.jpg": [["<nobody>"]]})


@pytest.mark.parametrize("size", [(640, 480), (333, 777), (4000, 3000), (40, 30)])
def test_resized_frame_is_the_processors(size, image_processor):
    """The frame's size is that of the grid which transformers' processor really makes of such a photo."""
    grid = image_processor(images=Image.new("RGB", size), return_tensors="pt")["image_grid_thw"][0]
    assert resized_size(*size, image_processor) == (int(grid[2]) * 14, int(grid[1]) * 14)


def test_frames_by_hand(image_processor):
    # 640 x 480 is resized to 644 x 476 (multiples of 28)
    assert resized_size(640, 480, image_processor) == (644, 476)
    assert to_model_frame([64, 48, 320, 240], (640, 480), "resized", image_processor) == [64, 48, 322, 238]
    assert to_model_frame([64, 48, 320, 240], (640, 480), "thousandths") == [100, 100, 500, 500]
    back = to_original_frame([100, 100, 500, 500], (640, 480), "thousandths")
    assert back == [64.0, 48.0, 320.0, 240.0]
    with pytest.raises(ValueError, match="640 x 480"):
        to_model_frame([0, 0, 641, 10], (640, 480), "thousandths")
    with pytest.raises(ValueError, match="needs the model's image processor"):
        to_model_frame([0, 0, 64, 10], (640, 480))


@pytest.fixture
def coco(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    return tmp_path, {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [64, 48, 256, 192]},
            {"id": 2, "image_id": 1, "category_id": 8, "bbox": [0, 0, 64, 48]},
            {"id": 3, "image_id": 1, "category_id": 8, "bbox": [64, 0, 64, 48], "caption": "the small dog"},
        ],
    }


def test_vlt_rows(coco, image_processor):
    root, data = coco
    (root / "boxes.json").write_text(json.dumps(data))
    rows = build_vlt(root / "boxes.json", root, "resized", image_processor)
    # the cat is the only one; of two dogs only the described one can be asked for
    assert [(r.problem, r.solution) for r in rows] == [
        ("Give the bounding box of the cat.", [64, 48, 322, 238]),
        ("Give the bounding box of the small dog.", [64, 0, 129, 48]),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "annotation 1: its image_id 9"),
        ({"bbox": [600, 0, 64, 10]}, "annotation 1, bbox: the box"),
        ({"bbox": [1, 2]}, "annotation 1, bbox"),
    ],
)
def test_bad_annotations(coco, change, message):
    root, data = coco
    data["annotations"][0] |= change
    (root / "boxes.json").write_text(json.dumps(data))
    with pytest.raises(BuildError, match=message):
        build_vlt(root / "boxes.json", root, "thousandths")


def test_bad_folders(tmp_path):
    with pytest.raises(BuildError, match="no concept folders"):
        build_from_folders(tmp_path / "none")
    (tmp_path / "dog").mkdir()
    with pytest.raises(BuildError, match="holds no photo"):
        build_from_folders(tmp_path)
    (tmp_path / "dog" / "0.jpg").write_bytes(b"not a photo")
    with pytest.raises(BuildError, match=r"0\.jpg: unreadable photo"):
        build_from_folders(tmp_path)
