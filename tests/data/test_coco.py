"""VLT rows from COCO-style boxes, and what is refused."""

import json

import pytest
from PIL import ExifTags, Image

from repic_core.data.builders import BuildError
from repic_core.data.coco import build_vlt
from repic_core.data.rows import to_dataset


@pytest.fixture(scope="module")
def image_processor():
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(max_pixels=1024 * 28 * 28)


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


def test_crowds_are_skipped_but_counted(coco):
    root, data = coco
    data["annotations"][1]["iscrowd"] = 1
    del data["annotations"][2]["caption"]
    (root / "boxes.json").write_text(json.dumps(data))
    rows = build_vlt(root / "boxes.json", root, "thousandths")
    # the box of a crowd is not one dog's, and as there are several dogs, "the dog" names none of them
    assert [row.problem for row in rows] == ["Give the bounding box of the cat."]
    data["annotations"][1]["caption"] = "the pack"
    (root / "boxes.json").write_text(json.dumps(data))
    assert build_vlt(root / "boxes.json", root, "thousandths") == rows


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_sizes_are_those_of_the_decoded_photo(coco, turn):
    root, data = coco
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    Image.new("RGB", (640, 480)).save(root / "a.jpg", exif=exif)
    for wide, high in ((640, 480), (480, 640)):
        data["images"][0] |= {"width": wide, "height": high}
        (root / "boxes.json").write_text(json.dumps(data))
        try:
            rows = build_vlt(root / "boxes.json", root, "thousandths")
        except BuildError as error:
            other = f"has {high} x {wide} pixels (after its EXIF rotation), but the file says {wide} x {high}"
            assert f"{root / 'boxes.json'}, annotation 1: its photo 'a.jpg' {other}" in str(error)
        else:
            accepted = (wide, high)
    assert accepted == to_dataset(rows, root)[0]["images"][0].size == ((640, 480) if turn < 5 else (480, 640))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": None}, r"boxes\.json, annotation 1: its image \(id 1\) has no file_name"),
        ({"width": None}, "has no width"),
        ({"file_name": "gone.jpg"}, r"annotation 1: its photo 'gone\.jpg' does not exist under"),
        ({"file_name": "boxes.json"}, r"annotation 1: its photo 'boxes\.json' is not a readable image"),
    ],
)
def test_bad_images(coco, change, message):
    root, data = coco
    data["images"][0] = {k: v for k, v in (data["images"][0] | change).items() if v is not None}
    (root / "boxes.json").write_text(json.dumps(data))
    with pytest.raises(BuildError, match=message):
        build_vlt(root / "boxes.json", root, "thousandths")


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
