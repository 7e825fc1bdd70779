"""The drawings: the atlas is what the font draws, its record what the names say, and splits tear nothing apart."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from repic_core.cli import main
from repic_core.toyworld.atlas import (
    FONT,
    FONT_SIZE,
    NAMES,
    PEOPLE,
    draw,
    emoji_names,
    families,
    main_color,
    make_atlas,
)
from repic_core.toyworld.drawings import (
    ATLAS,
    FOLDER,
    KINDS,
    OTHER_KIND,
    RECORD,
    SIZE,
    all_drawings,
    identities,
    kind_of,
    pick,
    picture,
    siblings,
)

SPLITS = ("train", "val", "test")
ROWS = json.loads((FOLDER / RECORD).read_text(encoding="utf-8"))["drawings"]


@pytest.fixture(scope="module")
def font():
    from PIL import ImageFont

    for path, package in ((FONT, "fonts-noto-color-emoji"), (NAMES, "unicode-data")):
        if not Path(path).exists():
            pytest.skip(f"the atlas is made from {path}: apt-get install {package}")
    return ImageFont.truetype(FONT, FONT_SIZE)


def text_of(row):
    return "".join(chr(int(point, 16)) for point in row["code_points"].split())


def test_the_record_is_that_of_the_atlas():
    digest = json.loads((FOLDER / RECORD).read_text(encoding="utf-8"))["sha256"]
    assert hashlib.sha256((FOLDER / ATLAS).read_bytes()).hexdigest() == digest
    names = [row["name"] for row in ROWS]
    assert len(ROWS) == len(set(names)) == len({row["code_points"] for row in ROWS}) > 1000
    assert {row["family"] for row in ROWS} <= set(names)


def test_the_record_lists_what_unicode_names_and_the_font_draws(font):
    seen, wanted = set(), []
    for entry in emoji_names():
        image = draw(entry["text"], font)
        if image is not None and image.tobytes() not in seen:
            seen.add(image.tobytes())
            wanted.append(entry)
    found = [{"text": text_of(row), **{k: row[k] for k in ("name", "group", "subgroup")}} for row in ROWS]
    assert found == wanted


def test_the_atlas_shows_what_the_font_draws(font):
    losses = []
    for one, row in list(zip(all_drawings(), ROWS, strict=True))[::29]:
        fresh = draw(text_of(row), font)
        shown, wanted = (np.asarray(image, float) for image in (picture(one), fresh))
        assert shown.shape == wanted.shape == (SIZE, SIZE, 4)
        solid = wanted[..., 3] > 200
        # WebP's loss, mostly in colours at edges; none in what is seen through.
        losses.append(np.abs(shown - wanted)[solid][:, :3].mean())
        assert np.array_equal(shown[..., 3], wanted[..., 3]), one.name
        assert main_color(fresh, one.kind) == one.color == row["color"]
    assert max(losses) < 16 and np.mean(losses) < 7


def test_families_are_those_of_the_record(font):
    # Looks are compared in order, so a part from the start has the families that it has in the whole.
    some = ROWS[:60]
    numbers = families([row["name"] for row in some], [draw(text_of(row), font) for row in some])
    assert [ROWS[number]["family"] for number in numbers] == [row["family"] for row in some]


@pytest.mark.parametrize(
    ("name", "color"),
    [
        *((f"{color} book", color) for color in ("green", "blue", "orange")),
        *(("red apple", "red"), ("green apple", "green"), ("black cat", "black"), ("white flower", "white")),
        *(("pool 8 ball", "black"), ("musical note", "gray"), ("pig", "pink"), ("bear", "brown")),
        *(("frog", "green"), ("lemon", "yellow"), ("eggplant", "purple"), ("wrench", "gray")),
        *(("man cook", "white"), ("police officer", "blue"), ("woman dancing", "red")),
    ],
)
def test_colours_are_those_that_a_person_would_say(name, color):
    assert {one.name: one.color for one in all_drawings()}[name] == color


def test_kinds():
    assert {one.kind for one in all_drawings()} == {*KINDS.values(), OTHER_KIND}
    assert kind_of("food-marine") == "sea animal" and kind_of("sport") == "sports item"
    # "." ends a caption's sentence, and < > enclose names.
    assert not [one for one in all_drawings() if re.search(r"[.<>{}]", one.description)]


def test_what_is_left_out():
    words = set(re.findall(r"[\w-]+", " ".join(row["name"] for row in ROWS)))
    assert not words & {"skin", "tone", "flags", "clock", "o’clock", "alarm", "hourglass", "zodiac", "family"}
    # Flags and hearts as such; a drawing may hold one ("flag in hole", "smiling face with hearts").
    assert [row["name"] for row in ROWS if re.search(r"flag:|heart$", row["name"])] == ["anatomical heart"]


def test_splits_are_disjoint_and_keep_families_whole():
    parts = [identities(split) for split in SPLITS]
    assert sorted(one.number for part in parts for one in part) == list(range(len(all_drawings())))
    shares = [len(part) / len(all_drawings()) for part in parts]
    assert np.allclose(shares, (0.70, 0.12, 0.18), atol=0.03), shares
    family_parts = [{one.family for one in part} for part in parts]
    assert sum(map(len, family_parts)) == len(set.union(*family_parts))
    # Names that differ in sex only, by a rule of this test's own.
    split_by_name = {one.name: split for split, part in zip(SPLITS, parts, strict=True) for one in part}
    family_by_name = {one.name: one.family for one in all_drawings()}
    pairs = [
        (name, other)
        for name in split_by_name
        if (other := re.sub(r"\bman\b", "woman", name)) != name and other in split_by_name
    ]
    assert len(pairs) > 60
    for name, other in pairs:
        assert family_by_name[name] == family_by_name[other], (name, other)
        assert split_by_name[name] == split_by_name[other]


def test_people_are_named_alike():
    assert PEOPLE.sub("person", "woman farmer") == PEOPLE.sub("person", "man farmer") == "person farmer"
    assert PEOPLE.sub("person", "mermaid") == "mermaid"


def test_pick_takes_siblings_as_often_as_it_is_told():
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for k in (1, 4, 7):
            chosen = pick(k, rng, split)
            assert len(set(chosen)) == k and set(chosen) <= set(identities(split))
        for _ in range(50):
            one, other = pick(2, rng, split, hard=1)
            assert one.subgroup == other.subgroup or len(siblings(split)[one.subgroup]) == 1
    pairs = [pick(2, rng, "train", hard=0) for _ in range(50)]
    assert sum(one.subgroup == other.subgroup for one, other in pairs) < 25


def test_pick_ends_where_a_subgroup_is_used_up():
    smallest = min(map(len, siblings("val").values()))
    assert smallest < 7
    for seed in range(100):
        assert len(set(pick(7, np.random.default_rng(seed), "val", hard=1))) == 7


def test_a_small_atlas(font, tmp_path, capsys):
    lines = [
        line
        for line in Path(NAMES).read_text(encoding="utf-8").splitlines()
        if "roup:" in line
        or re.search(
            r"E\S+ (man singer|woman singer|red apple|owl|flag: Chad|red heart|flexed biceps: dark skin tone)$",
            line,
        )
    ]
    names = tmp_path / "names.txt"
    names.write_text("\n".join(lines), encoding="utf-8")
    assert main(["toyworld", "atlas", "--out", str(tmp_path / "made"), "--names", str(names)]) == 0
    assert capsys.readouterr().out.endswith("made: 4 drawings\n")
    record = json.loads((tmp_path / "made" / RECORD).read_text(encoding="utf-8"))
    assert hashlib.sha256((tmp_path / "made" / ATLAS).read_bytes()).hexdigest() == record["sha256"]
    shipped = {row["name"]: row for row in ROWS}
    for row in record["drawings"]:
        wanted = shipped[row["name"]] | {"family": "man singer" if "singer" in row["name"] else row["name"]}
        assert row == wanted


@pytest.mark.parametrize(
    ("given", "package"), [("font", "fonts-noto-color-emoji"), ("names", "unicode-data")]
)
def test_what_is_missing_is_named_with_its_package(tmp_path, capsys, given, package):
    present = tmp_path / "present"
    present.touch()
    paths = {"font": present, "names": present} | {given: tmp_path / "gone"}
    with pytest.raises(FileNotFoundError, match=rf"gone: .*Debian's package {package}"):
        make_atlas(tmp_path / "out", **paths)
    flags = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    assert main(["toyworld", "atlas", "--out", str(tmp_path / "out"), *flags]) == 2
    assert package in capsys.readouterr().err and not (tmp_path / "out").exists()
