"""Photos of the drawn world: seeded, no two alike, and their boxes are where the drawings' pixels are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repic_core.toyworld import photos
from repic_core.toyworld.drawings import identities, pick
from repic_core.toyworld.photos import (
    BACKGROUNDS,
    MOST_SHOWN,
    PLACES,
    REFERENCE_SIDE,
    SCENE_SIDE,
    draw_reference,
    draw_scene,
    place_of,
)


def some(k, seed=0):
    return pick(k, np.random.default_rng(seed), "val")


def test_the_same_seed_gives_the_same_photo():
    one, other = (draw_scene(some(4), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.image, other.image)
    assert (one.background, one.boxes, one.depths) == (other.background, other.boxes, other.depths)
    one, other = (draw_reference(some(1)[0], np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, other)


def test_no_two_views_are_alike():
    rng = np.random.default_rng(0)
    one, other = (draw_reference(some(1)[0], rng).astype(int) for _ in range(2))
    assert np.abs(one - other).mean() > 10
    one, other = (draw_scene(some(3), rng).image.astype(int) for _ in range(2))
    assert np.abs(one - other).mean() > 10


@pytest.mark.parametrize("k", range(1, MOST_SHOWN + 1))
def test_sizes_and_boxes(k):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scene = draw_scene(some(k, seed), rng)
        assert scene.image.shape == (SCENE_SIDE, SCENE_SIDE, 3) and scene.image.dtype == np.uint8
        assert scene.background in BACKGROUNDS and sorted(scene.depths) == list(range(k))
        assert len(scene.boxes) == k and {type(v) for box in scene.boxes for v in box} == {int}
        for x1, y1, x2, y2 in scene.boxes:
            assert 0 <= x1 < x2 <= SCENE_SIDE and 0 <= y1 < y2 <= SCENE_SIDE
            assert (x2 - x1) * (y2 - y1) > 100
        for i, a in enumerate(scene.boxes):
            for b in scene.boxes[:i]:
                shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                # The squares in which drawings are placed share less than 0.18; boxes are a little smaller.
                assert shared < 0.18 * max(photos.SCENE_SIDES[k]) ** 2
    reference = draw_reference(some(1)[0], np.random.default_rng(k))
    assert reference.shape == (REFERENCE_SIDE, REFERENCE_SIDE, 3) and reference.dtype == np.uint8


@pytest.mark.parametrize("k", [0, MOST_SHOWN + 1])
def test_none_or_too_many_drawings(k):
    with pytest.raises(ValueError, match=f"{k} drawings: a scene shows 1 to 7"):
        draw_scene(some(max(k, 1))[:k], np.random.default_rng(0))


@pytest.fixture
def blank(monkeypatch):
    """Scenes on an empty ground, in which drawing i (in the order of `_cut_out`) is a plain silhouette of i + 1."""
    cut_out, drawn = photos._cut_out, []

    def silhouette(drawing, side, rng):
        cut = cut_out(drawing, side, rng)
        drawn.append(drawing)
        cut[..., 3] = cut[..., 3] > 0.3
        cut[..., :3] = len(drawn)
        return cut

    monkeypatch.setattr(photos, "_cut_out", silhouette)
    monkeypatch.setattr(photos, "_ground", lambda side, *_: np.zeros((side, side, 3), np.float32))
    monkeypatch.setattr(photos, "_cover", lambda *_: None)
    monkeypatch.setattr(photos, "_photo", lambda canvas, rng: canvas[..., 0])
    return drawn


def extent(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_a_box_is_where_the_drawing_is(blank):
    cut_off = 0
    for seed in range(60):
        blank.clear()
        scene = draw_scene(some(1, seed), np.random.default_rng(seed))
        assert scene.boxes == (extent(scene.image == 1),)
        cut_off += scene.boxes[0][0] == 0 or scene.boxes[0][3] == SCENE_SIDE
    assert cut_off > 0


def test_those_in_front_hide_those_behind(blank):
    hidden = 0
    for seed in range(40):
        blank.clear()
        scene = draw_scene(some(7, seed), np.random.default_rng(seed))
        front = scene.depths.index(6)
        assert scene.boxes[front] == extent(scene.image == front + 1)
        for i, (x1, y1, x2, y2) in enumerate(scene.boxes):
            seen = extent(scene.image == i + 1)
            assert x1 <= seen[0] and y1 <= seen[1] and seen[2] <= x2 and seen[3] <= y2
            if seen != scene.boxes[i]:
                hidden += 1
                # Only by one in front, whose box meets this one's.
                assert any(
                    scene.depths[j] > scene.depths[i] and a < x2 and c > x1 and b < y2 and d > y1
                    for j, (a, b, c, d) in enumerate(scene.boxes)
                )
    assert hidden > 0


def test_what_covers_is_at_most_a_sixth_of_the_box():
    for seed in range(200):
        canvas = np.full((SCENE_SIDE, SCENE_SIDE, 3), -1.0)
        photos._cover(canvas, (20, 30, 60, 90), np.random.default_rng(seed))
        covered = canvas[..., 0] >= 0
        assert 0 < covered.sum() <= 40 * 60 / 6
        assert covered[30:90, 20:60].sum() == covered.sum()


def test_place_of():
    # Centres by hand; thirds of 144 begin at 48 and 96.
    for box, place in [
        ((0, 0, 40, 40), "top left"),
        ((0, 0, 95, 95), "top left"),
        ((0, 0, 96, 96), "centre"),
        ((60, 50, 90, 90), "centre"),
        ((100, 0, 140, 50), "top right"),
        ((10, 100, 30, 144), "bottom left"),
        ((96, 0, 96, 40), "top right"),
        ((60, 96, 80, 96), "bottom"),
        ((40, 2, 80, 50), "top"),
        ((2, 40, 50, 80), "left"),
        ((100, 52, 144, 92), "right"),
        ((104, 104, 144, 144), "bottom right"),
        ((144, 144, 144, 144), "bottom right"),
    ]:
        assert place_of(box) == place, box
    assert len({place for row in PLACES for place in row}) == 9


def test_every_place_is_used():
    rng = np.random.default_rng(0)
    found = [place_of(b) for _ in range(40) for b in draw_scene(pick(5, rng, "train"), rng).boxes]
    counts = [found.count(place) for row in PLACES for place in row]
    assert min(counts) > 0.03 * len(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 2**31))
def test_seven_always_find_room(seed, start):
    rng = np.random.default_rng(seed)
    pool = identities("test")
    drawings = [pool[(start + i) % len(pool)] for i in range(MOST_SHOWN)]
    assert len(draw_scene(drawings, rng).boxes) == MOST_SHOWN


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63))
def test_seven_of_the_largest_find_room(seed):
    sides = [photos.SCENE_SIDES[MOST_SHOWN][1]] * MOST_SHOWN
    assert len(photos._corners(sides, np.random.default_rng(seed))) == MOST_SHOWN
