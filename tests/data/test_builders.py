"""Rows from photos: the authors' DreamBooth folders, frames of boxes, and what is refused."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import ExifTags, Image

from helpers.photos import HEIC
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.data.builders import (
    DEFAULT_INFO,
    BuildError,
    build_from_folders,
    build_multi_ict,
    category_of,
    write_collage,
)
from repic_core.data.photo_folder import database_from_folder
from repic_core.data.rows import read_rows, write_rows
from repic_core.models.boxes import resized_size, to_model_frame, to_original_frame
from repic_core.models.families import FAMILIES


@pytest.fixture(scope="module")
def image_processor():
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(max_pixels=1024 * 28 * 28)


CATEGORIES = {"backpack_dog": "backpack"}  # not the last word of the folder's name


def folders_of(row):
    return [image.split("/")[0] for image in row.images]


def test_dreambooth_rows(official_root, tmp_path):
    root = official_root / "data" / "dreambooth"
    rows = build_from_folders(root, seed=3, categories=CATEGORIES)
    assert Counter(row.method for row in rows) == {"yes_no": 60, "yes_no_name": 60}
    for row in rows:
        folders = folders_of(row)
        if row.method == "yes_no":
            assert (folders[0] == folders[1]) == (row.solution == "yes") and row.images[0] != row.images[1]
        else:
            # the query's concept is among the references, by another photo, and its tag is the solution
            place = folders[:-1].index(folders[-1])
            assert row.candidates[place] == row.solution and row.images[-1] not in row.images[:-1]
    assert read_rows(write_rows(tmp_path / "rows.jsonl", rows), root) == rows
    again, other = (build_from_folders(root, seed=seed, categories=CATEGORIES) for seed in (3, 4))
    assert rows == again != other


def test_dreambooth_negatives_and_distractors_are_hard(official_root):
    rows = build_from_folders(official_root / "data" / "dreambooth", seed=3, categories=CATEGORIES)
    negatives = dict(folders_of(row) for row in rows if row.solution == "no")
    assert category_of(negatives["dog"]) == category_of(negatives["dog8"]) == "dog"
    assert negatives["cat"] == "cat2" and negatives["shiny_sneaker"] == "colorful_sneaker"
    assert negatives["backpack_dog"] == "backpack" and negatives["backpack"] == "backpack_dog"
    several = {folders_of(row)[-1]: row for row in rows if len(row.candidates) == 4}
    assert {re.sub(r"\d", "", folder) for folder in folders_of(several["dog"])} == {"dog"}  # of 7 dogs, 4
    assert "cat" in folders_of(several["cat2"])[:-1]
    places = Counter(row.candidates.index(row.solution) for row in several.values())
    assert set(places) == {0, 1, 2, 3}  # the answer may be in any place


def test_dreambooth_collages_show_what_they_say(official_root, tmp_path):
    root, options = official_root / "data" / "dreambooth", {"seed": 3, "categories": CATEGORIES}
    rows = build_from_folders(root, **options, collages=tmp_path / "collages")
    multi = [row for row in rows if row.method == "yes_no_name_multi"]
    assert rows == build_from_folders(root, **options) + multi and len(multi) == 30
    assert {len(row.solution) for row in multi} == {2, 3, 4}
    assert {len(row.candidates) - len(row.solution) for row in multi} == {0, 1}  # a distractor in some rows
    for row in multi:
        reference = dict(zip(row.candidates, row.images, strict=False))
        assert len(set(folders_of(row)[:-1])) == len(row.candidates) == len(row.images) - 1
        with Image.open(root / row.images[-1]) as collage:
            assert collage.format == "JPEG" and collage.size == (448 * len(row.solution), 448)
            for i, tag in enumerate(row.solution):  # each part is another photo of the concept that it names
                part = np.asarray(collage.crop((448 * i, 0, 448 * (i + 1), 448)), dtype=float)
                folder = (root / reference[tag]).parent
                errors = {p: np.abs(np.asarray(Image.open(p), float) - part).mean() for p in folder.iterdir()}
                nearest = min(errors, key=errors.get)
                assert errors[nearest] < 8 and nearest != root / reference[tag]
    assert rows == build_from_folders(root, **options, collages=tmp_path / "collages")
    assert read_rows(write_rows(tmp_path / "rows.jsonl", rows), root) == rows
    assert not list((tmp_path / "collages").glob("*.tmp"))


@pytest.fixture
def photos(tmp_path):
    """Three concepts of three photos each, of different sizes; the last of each is rotated by its EXIF."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for folder, color in (("dog", "red"), ("dog2", "green"), ("vase", "blue")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i, (wide, high) in enumerate([(60, 40), (40, 60), (80, 40)]):
            file = tmp_path / "photos" / folder / f"{i}.jpg"
            Image.new("RGB", (wide, high), color).save(file, exif=turned if i == 2 else Image.Exif())
    return tmp_path / "photos"


def test_rows_hold_what_the_prompt_says(photos, tmp_path):
    infos = {"dog": "a red dog", "vase": "a blue vase"}
    names = {"dog": "rex", "vase": "bo"}
    rows = build_from_folders(photos, infos=infos, names=names, collages=tmp_path / "collages")
    ict = [row for row in rows if row.method.startswith("yes_no_name")]
    assert Counter(row.method for row in ict) == {"yes_no_name": 6, "yes_no_name_multi": 3}
    own = {"dog": ("<rex>", "a red dog"), "vase": ("<bo>", "a blue vase")}
    for row in ict:
        for folder, tag, info in zip(folders_of(row), row.candidates, row.infos, strict=False):
            assert (tag, info) == own.get(folder, (tag, DEFAULT_INFO))
        told = [f"<image>Name: {t}, Info: {i}" for t, i in zip(row.candidates, row.infos, strict=True)]
        assert row.problem.startswith("".join(told) + "<image>This is the query image.")
        assert len(told) == len(row.images) - 1 == len(set(row.candidates))


def test_collage_of_photos_of_different_sizes(photos, tmp_path):
    path = photos / write_collage(photos, ["dog/0.jpg", "vase/2.jpg"], tmp_path / "collages")
    with Image.open(path) as collage:
        assert collage.size == (60 + 20, 40)  # 60 x 40 as it is; 40 x 80, after its EXIF rotation, halved
        left, right = collage.getpixel((50, 20)), collage.getpixel((70, 20))
    assert left[0] > 200 > left[2] and right[2] > 200 > right[0]  # red, blue


def test_collages_need_a_folder_of_their_own(photos):
    with pytest.raises(BuildError, match="would be a concept"):
        build_from_folders(photos, collages=photos / "collages")
    assert not (photos / "collages").exists()


def test_two_folders_with_one_name(photos):
    with pytest.raises(BuildError, match="'dog' and 'dog2' would both be <Rex>"):
        build_from_folders(photos, names={"dog": "rex", "dog2": "Rex"})


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


def test_queries_and_photos_that_make_no_row():
    bo, mia = Concept("<bo>", image="bo.png"), Concept("<mia>", image=Image.new("RGB", (8, 8)))
    for tags, message in (
        ([], "lists of tags"),
        ("<bo>", "lists of tags"),
        (["<bo>", "<BO>"], "a tag twice"),
    ):
        with pytest.raises(BuildError, match=rf"x\.jpg: .*{message}"):
            build_multi_ict([bo], {"x.jpg": [tags]})
    with pytest.raises(BuildError, match="<mia>: its photo is in memory"):
        build_multi_ict([bo, mia], {"x.jpg": [["<bo>"]]})


@pytest.mark.parametrize("argument", ["names", "infos", "categories"])
def test_misspelt_folders(tmp_path, argument):
    (tmp_path / "dog").mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / "dog" / f"{name}.png")
    with pytest.raises(BuildError, match=f"{argument}: .* has no folder 'dgo'"):
        build_from_folders(tmp_path, **{argument: {"dgo": "x"}})


@pytest.mark.parametrize("size", [(640, 480), (333, 777), (4000, 3000), (40, 30)])
def test_resized_frame_is_the_processors(size, image_processor):
    """The frame has the size of the grid that transformers' processor really makes of such a photo."""
    grid = image_processor(images=Image.new("RGB", size), return_tensors="pt")["image_grid_thw"][0]
    assert resized_size(*size, image_processor) == (int(grid[2]) * 14, int(grid[1]) * 14)


def test_frames_by_hand(image_processor):
    # 640 x 480 is resized to 644 x 476 (multiples of 28)
    assert resized_size(640, 480, image_processor) == (644, 476)
    assert to_model_frame([64, 48, 320, 240], (640, 480), "resized", image_processor) == [64, 48, 322, 238]
    assert to_model_frame([64, 48, 320, 240], (640, 480), "thousandths") == [100, 100, 500, 500]
    back = to_original_frame([100, 100, 500, 500], (640, 480), "thousandths")
    assert back == [64.0, 48.0, 320.0, 240.0]
    thin = ([0, 0, 0.2, 0.2], [639.9, 479.9, 640, 480])  # at least one wide and high, inside the frame
    assert [to_model_frame(box, (640, 480), "thousandths") for box in thin] == [
        [0, 0, 1, 1],
        [999, 999, 1000, 1000],
    ]
    assert to_model_frame(thin[0], (640, 480), "resized", image_processor) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="640 x 480"):
        to_model_frame([0, 0, 641, 10], (640, 480), "thousandths")
    with pytest.raises(ValueError, match="needs the model's image processor"):
        to_model_frame([0, 0, 64, 10], (640, 480))


@pytest.mark.parametrize(
    ("model", "box"),
    [
        ("qwen2_vl", [160, 120, 500, 500]),  # 0 to 1000 of width and height: 64 / 400 = .16, 24 / 200 = .12
        ("qwen2_5_vl", [63, 24, 196, 98]),  # 400 x 200 is resized to 392 x 196
        ("qwen3_vl", [160, 120, 500, 500]),
    ],
)
def test_frame_of_each_model(model, box, image_processor):
    assert to_model_frame([64, 24, 200, 100], (400, 200), FAMILIES[model].frame, image_processor) == box
    assert set(FAMILIES) == {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}


def test_bad_folders(tmp_path):
    with pytest.raises(BuildError, match="no concept folders"):
        build_from_folders(tmp_path / "none")
    (tmp_path / "dog").mkdir()
    with pytest.raises(BuildError, match="holds no photo"):
        build_from_folders(tmp_path)
    (tmp_path / "dog" / "0.jpg").write_bytes(b"not a photo")
    with pytest.raises(BuildError, match=r"0\.jpg is not a readable image"):
        build_from_folders(tmp_path)
    Image.effect_noise((300, 300), 80).convert("RGB").save(tmp_path / "dog" / "0.jpg")
    half = (tmp_path / "dog" / "0.jpg").read_bytes()[:9000]
    (tmp_path / "dog" / "0.jpg").write_bytes(half)
    with pytest.raises(BuildError, match=r"0\.jpg is not a readable image .*truncated"):
        build_from_folders(tmp_path)


def copied(photos, one, other):
    (photos / other).parent.mkdir(exist_ok=True)
    (photos / other).write_bytes((photos / one).read_bytes())


def test_hidden_and_system_entries_are_no_concepts(photos, caplog):
    before = build_from_folders(photos)
    copied(photos, "dog/0.jpg", ".ipynb_checkpoints/0-checkpoint.jpg")
    copied(photos, "dog/0.jpg", "@eaDir/0.jpg")
    copied(photos, "dog/0.jpg", "lost+found/0.jpg")
    for folder in ("__MACOSX", "$RECYCLE.BIN"):
        (photos / folder).mkdir()
    for name in ("._0.jpg", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (photos / "dog" / name).write_bytes(b"\0\5\x16\7")
        (photos / name).write_bytes(b"\0\5\x16\7")
    assert build_from_folders(photos) == before and not caplog.text
    assert [c.tag for c in database_from_folder(photos)] == ["<dog>", "<dog2>", "<vase>"] and not caplog.text


def test_the_same_photo_in_two_folders_is_in_no_row_and_is_named(photos, tmp_path, caplog):
    copied(photos, "dog/0.jpg", "vase/of another name.jpeg")
    for seed in range(8):
        rows = build_from_folders(photos, seed, collages=tmp_path / "collages")
        used = {image for row in rows for image in row.images}
        assert not used & {"dog/0.jpg", "vase/of another name.jpeg"} and {"dog/1.jpg", "vase/0.jpg"} & used
    said = "dog/0.jpg: left out, the same photo as vase/of another name.jpeg"
    assert caplog.messages == [said] * 8


def test_a_copy_in_its_own_folder_makes_no_pair(photos, caplog):
    for name in ("copy of 0.jpg", "z.jpg"):
        copied(photos, "dog/0.jpg", f"dog/{name}")
    for seed in range(8):
        for row in build_from_folders(photos, seed):
            assert len({(photos / image).read_bytes() for image in row.images}) == len(row.images)
    assert "dog/copy of 0.jpg, dog/z.jpg: left out, the same photo as dog/0.jpg" in caplog.messages


def test_folders_that_are_left_with_nothing(photos):
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        copied(photos, f"dog/{name}", f"dog3/{name}")
    with pytest.raises(BuildError, match=r"dog/0\.jpg: the same photo as dog3/0\.jpg: leave it in one of"):
        build_from_folders(photos)


def test_a_database_names_equal_photos(photos, caplog):
    copied(photos, "dog/0.jpg", "vase/x.jpg")
    assert len(database_from_folder(photos)) == 3
    assert "dog/0.jpg and vase/x.jpg: the same photo" in caplog.messages


def test_phones_photos_are_not_passed_over(photos):
    (photos / "dog" / "3.HEIC").write_bytes(HEIC)
    for build in (build_from_folders, database_from_folder):
        with pytest.raises(BuildError, match=r"3\.HEIC is a HEIC photo \(iPhone\): save it as JPEG"):
            build(photos)


def test_folders_that_macos_decomposed(tmp_path):
    for folder in ("Zo\u0308e", "bo"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8), (number, len(folder), 0)).save(tmp_path / folder / f"{number}.png")
    rows = build_from_folders(tmp_path, infos={"Z\u00f6e": "a girl"}, names={"Z\u00f6e": "Zoe"})
    assert any("a girl" in row.infos and "<Zoe>" in row.candidates for row in rows)
    assert [c.name for c in database_from_folder(tmp_path)] == ["Z\u00f6e", "bo"]
