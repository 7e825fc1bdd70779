"""Hard negatives by look, with an embedder whose nearest photos are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from repic_core.cli import main
from repic_core.data.builders import build_from_folders
from repic_core.data.looks import nearest_photos
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.retrieval.embedders import TowerEmbedder

# Degrees on a circle: the nearer, the more alike. Dogs by category are dog1 and dog2; by look, dog1 has the vase.
ANGLES = {"dog1": (0, 2), "dog2": (80, 100), "vase": (50, 5), "cat": (20, 30), "cup": (170, 175)}


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name, angles in ANGLES.items():
        (root / name).mkdir(parents=True)
        for angle in angles:
            Image.new("RGB", (16, 16), (angle, 40, 90)).save(root / name / f"{angle:03d}.png")
    return root


def circle(paths):
    """The made-up embedder: a photo's angle is its red value, which is in its file name, too."""
    angles = np.radians([int(path.stem) for path in paths])
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_the_nearest_by_hand(photos):
    listed = {name: [f"{name}/{angle:03d}.png" for angle in angles] for name, angles in ANGLES.items()}
    found = nearest_photos(photos, listed, {"dog1": "dog1/000.png", "cup": "cup/170.png"}, circle)
    assert found == {
        "dog1": {"vase": "vase/005.png", "cat": "cat/020.png", "dog2": "dog2/080.png", "cup": "cup/170.png"},
        "cup": {"dog2": "dog2/100.png", "vase": "vase/050.png", "cat": "cat/030.png", "dog1": "dog1/002.png"},
    }
    assert [list(near) for near in found.values()] == [
        ["vase", "cat", "dog2", "cup"],
        ["dog2", "vase", "cat", "dog1"],
    ]


def angle(image):
    return int(image.split("/")[1].removesuffix(".png"))


def test_negatives_and_distractors_are_the_nearest_by_look(photos, tmp_path):
    options = {"seed": 5, "references": 3, "collages": tmp_path / "collages"}
    rows = build_from_folders(photos, embed=circle, **options)
    assert rows == build_from_folders(photos, embed=circle, **options)

    def nearest(first, count):
        """Concepts and photos by the least angle to `first`, counted again."""
        own = first.split("/")[0]
        best = [
            min((abs(a - angle(first)), f"{name}/{a:03d}.png") for a in angles)
            for name, angles in ANGLES.items()
            if name != own
        ]
        return {file for _, file in sorted(best)[:count]}

    negatives = [row for row in rows if row.solution == "no"]
    assert len(negatives) == 5 and all({row.images[1]} == nearest(row.images[0], 1) for row in negatives)
    several = [row for row in rows if row.method == "yes_no_name" and len(row.candidates) == 3]
    assert len(several) == 5
    for row in several:
        own = row.images[-1].split("/")[0]
        (reference,) = (image for image in row.images[:-1] if image.startswith(f"{own}/"))
        assert set(row.images[:-1]) - {reference} == nearest(reference, 2)
    by_category = build_from_folders(photos, **options)
    dogs = [row for row in by_category if row.solution == "no" and row.images[0].startswith("dog1/")]
    assert [row.images[1].split("/")[0] for row in dogs] == ["dog2"]
    assert [row.images for row in rows if row.solution == "yes"] == [
        row.images for row in by_category if row.solution == "yes"
    ]


def test_the_command_takes_the_models_own_tower(base, photos, tmp_path, capsys):
    out = tmp_path / "photos.jsonl"
    arguments = ["data", "build", "--photos", photos, "--out", out, "--model", base, "--side", "48"]
    assert main([str(argument) for argument in [*arguments, "--hard-negatives"]]) == 0
    embed = TowerEmbedder(*load_model(base), side=48).images
    wanted = build_from_folders(photos, embed=embed)
    assert [row.images for row in read_rows(out)] == [
        tuple(f"photos/{image}" for image in row.images) for row in wanted
    ]
    arguments[-3] = str(tmp_path / "nothing")
    assert main([str(argument) for argument in [*arguments, "--hard-negatives", tmp_path / "gone"]]) == 2
    assert "can't be loaded as an embedder" in capsys.readouterr().err
    assert main(["data", "build", "--coco", "x.json", "--out", str(out), "--hard-negatives"]) == 2
    assert "--hard-negatives needs --photos" in capsys.readouterr().err
