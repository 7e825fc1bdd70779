"""VLT rows from COCO-style boxes, and what is refused."""

import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from repic_core.data.builders import BuildError
from repic_core.data.coco import build_vlt
from repic_core.data.rows import to_dataset
from repic_core.io.images import training_size
from repic_core.models.boxes import resized_size


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


def built(coco, **changes):
    root, data = coco
    data["annotations"][0] |= changes
    (root / "boxes.json").write_text(json.dumps(data))
    return build_vlt(root / "boxes.json", root, "thousandths")


@pytest.mark.parametrize(
    ("bbox", "solution"),
    [
        ([569.5039392565208, 48, 70.4960607434793, 96], [890, 100, 1000, 300]),  # 1e-13 too far
        ([-0.4, -2.9, 64.4, 50.9], [0, 0, 100, 100]),
        ([576, 432, 67, 51], [900, 900, 1000, 1000]),  # three pixels
    ],
)
def test_boxes_that_are_over_the_border_by_rounding_are_clipped(coco, bbox, solution):
    assert built(coco, bbox=bbox)[0].solution == solution


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"bbox": [576, 432, 67.1, 48]},
            r"bbox: the box \[.*\] reaches 3.1 pixels outside its photo of 640 x 480",
        ),
        ({"bbox": [-4, 0, 64, 48]}, "bbox: the box .* reaches 4 pixels outside"),
        ({"bbox": [10, 10, 0, 5]}, "bbox: the box .* is empty"),
        ({"bbox": [10, 10, 5, -5]}, "bbox: the box .* is empty"),
        ({"bbox": [641, 10, 2, 5]}, "bbox: the box"),
        ({"bbox": [10, 10, float("nan"), 5]}, "bbox: the box must be four numbers"),
        ({"bbox": ["1", "2", "3", "4"]}, "bbox: the box must be four numbers"),
        ({"bbox": [10, 10, 5, 5, 30]}, "bbox: the box must be four numbers"),
        ({"bbox": [], "segmentation": [[1, 1, 2, 2, 3, 1]]}, "bbox: there is none .*segmentation"),
        ({"bbox": None}, "bbox: there is none"),
        ({"rotation": 30}, r"bbox: the box is turned \(rotation 30\): export upright boxes"),
        ({"angle": -0.5}, r"bbox: the box is turned \(angle -0.5\)"),
        ({"attributes": {"rotation": "a bit"}}, "bbox: the box is turned by 'a bit', which is no number"),
        ({"category_id": 9}, "its category_id 9 is not among the categories"),
        ({"image_id": "1"}, "its image_id '1' is not among the images"),
        ({"caption": "the dog<|im_end|>"}, "caption 'the dog.*: it holds the control token"),
        ({"caption": "the <image> dog"}, "caption .*: it holds the control token '<image>'"),
        (
            {"caption": "the \ud83d dog"},
            r"caption 'the \\ud83d dog': field 'problem': it holds half a character",
        ),
        ({"caption": 7}, "caption 7: "),
    ],
)
def test_what_an_export_can_hold_and_no_row_can_is_named(coco, changes, said):
    with pytest.raises(BuildError, match=rf"boxes\.json, annotation 1(: |, ){said}"):
        built(coco, **changes)


@pytest.mark.parametrize(
    ("degrees", "solution"),
    [
        (45.0, [180, 73, 445, 427]),
        (-45, [180, 73, 445, 427]),
        ("405", [180, 73, 445, 427]),
        (90, [281, 42, 344, 458]),
        (180, [156, 208, 469, 292]),
        (0, [156, 208, 469, 292]),
        (None, [156, 208, 469, 292]),
    ],
)
def test_boxes_that_cvat_turned_become_their_hull(coco, degrees, solution):
    """CVAT writes the box before it is turned, and turns it clockwise about its centre (cvat #4745)."""
    attributes = {"occluded": False, "rotation": degrees}
    assert built(coco, bbox=[100, 100, 200, 40], attributes=attributes, rotation=0)[0].solution == solution


def test_the_hull_of_a_turned_box_may_leave_the_photo(coco):
    found = built(coco, bbox=[0, 0, 200, 40], attributes={"rotation": 90})
    assert found[0].solution == [125, 0, 188, 250]  # 80 to 120, -80 to 120


@pytest.mark.parametrize(
    ("field", "entry", "said"),
    [
        (
            "images",
            {"id": 1, "file_name": "b.jpg", "width": 640, "height": 480},
            "the image id 1 is there twice",
        ),
        (
            "images",
            {"id": 2, "file_name": "a.jpg", "width": 640, "height": 480},
            "the file_name 'a.jpg' is there",
        ),
        ("categories", {"id": 7, "name": "bird"}, "the category id 7 is there twice"),
        ("categories", {"id": 9, "name": " Cat"}, "the category 'cat' is there twice"),
    ],
)
def test_merged_files_are_refused(coco, field, entry, said):
    coco[1][field].append(entry)
    with pytest.raises(BuildError, match=rf"boxes\.json: {said}.*: give each its own"):
        built(coco)


def test_boxes_without_a_description_or_of_crowds_are_not_looked_at(coco):
    assert len(built(coco, bbox=None, iscrowd=1)) == 1
    del coco[1]["categories"], coco[1]["annotations"][:2]
    assert [row.problem for row in built(coco)] == ["Give the bounding box of the small dog."]


@pytest.mark.parametrize("name", ["sub\\Zo\u00eb.jpg", "sub/Zoe\u0308.jpg"])
def test_photos_are_found_as_another_system_writes_them(coco, name):
    root, data = coco
    (root / "sub").mkdir()
    (root / "a.jpg").rename(root / "sub" / "Zoe\u0308.jpg")
    data["images"][0]["file_name"] = name
    assert {row.images for row in built(coco)} == {("sub/Zoe\u0308.jpg",)}


def test_a_turned_tiff_has_the_size_that_is_seen(coco):
    root, data = coco
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (480, 640)).save(root / "a.tif", exif=exif)
    data["images"][0]["file_name"] = "a.tif"
    assert built(coco)[0].solution == [100, 100, 500, 500]


@pytest.mark.parametrize("size", [(2000, 1100), (1100, 2000), (1500, 300), (400, 300)])
def test_a_box_is_still_right_after_the_published_resize(tmp_path, size):
    """The box lies on the same pixels of what the model sees as it does on the photo."""
    from repic_core.toyworld.model import make_processor

    patches = make_processor().image_processor
    patches.size = {"shortest_edge": 56 * 56, "longest_edge": 1024 * 28 * 28}
    x, y, wide, high = size[0] // 4, size[1] // 2, size[0] // 4, size[1] // 3
    photo = Image.new("L", size)
    photo.paste(255, (x, y, x + wide, y + high))
    photo.convert("RGB").save(tmp_path / "a.png")
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [x, y, wide, high], "caption": "the square"}],
        "categories": [],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    (row,) = build_vlt(tmp_path / "boxes.json", tmp_path, "resized", patches, published_resize=True)
    seen = training_size(size, 1)
    model_sees = resized_size(*seen, patches)
    pixels = np.asarray(photo.resize(seen, Image.Resampling.LANCZOS).resize(model_sees)) > 127
    ys, xs = np.nonzero(pixels)
    found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert max(abs(a - b) for a, b in zip(row.solution, found, strict=True)) <= 1
    (far,) = build_vlt(tmp_path / "boxes.json", tmp_path, "thousandths", None, published_resize=True)
    (same,) = build_vlt(tmp_path / "boxes.json", tmp_path, "thousandths", None)
    assert max(abs(a - b) for a, b in zip(far.solution, same.solution, strict=True)) <= 1
