"""The tower that learns who is who: what a batch says of its scenes, training that resumes, what is measured."""

import json

import numpy as np
import pytest
import torch

from repic_core.cli import main
from repic_core.toyworld import recognition
from repic_core.toyworld.atlas import COLORS
from repic_core.toyworld.drawings import all_drawings, kind_of
from repic_core.toyworld.photos import BACKGROUNDS, draw_scene
from repic_core.toyworld.recognition import (
    GRID,
    HIDDEN,
    batch_loss,
    fact_values,
    facts_of,
    make_batch,
    make_heads,
    make_tower,
    measure_recognition,
    patches,
    read_batch,
    train_tower,
)

TOKEN = 16


@pytest.fixture
def drawn(monkeypatch):
    """The scenes and their drawings, as `make_batch` draws them."""
    seen = []

    def kept(drawings, rng):
        scene = draw_scene(drawings, rng)
        seen.append((scene, list(drawings)))
        return scene

    monkeypatch.setattr(recognition, "draw_scene", kept)
    return seen


def test_a_batch_says_where_drawings_are_and_what(drawn):
    batch = make_batch("train", np.random.default_rng(3), scenes=6)
    shown = [(n, box) for n, (scene, _) in enumerate(drawn) for box in scene.boxes]
    drawings = [one for _, present in drawn for one in present]
    assert len(drawn) == 6 and len(shown) == len(batch["where"]) == len(drawings) > 6
    for (n, box), where, reach in zip(shown, batch["where"].tolist(), batch["reach"].tolist(), strict=True):
        scene, row, column = where // GRID**2, where % GRID**2 // GRID, where % GRID
        assert scene == n
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        assert column * TOKEN <= x < (column + 1) * TOKEN and row * TOKEN <= y < (row + 1) * TOKEN
        x, y = column * TOKEN + 8, row * TOKEN + 8
        left, up, right, down = (TOKEN * one for one in reach)
        assert (x - left, y - up, x + right, y + down) == pytest.approx(box)
    assert batch["identities"].tolist() == [one.number for one in drawings]
    assert batch["backgrounds"].tolist() == [list(BACKGROUNDS).index(scene.background) for scene, _ in drawn]
    for facts, one in zip(batch["facts"].tolist(), drawings, strict=True):
        told = [values[i] for values, i in zip(fact_values(), facts, strict=True)]
        assert told == [kind_of(one.subgroup), one.subgroup, one.color]
    # References of 3 x 3 tokens first, then scenes of 9 x 9; a token is 2 x 2 patches.
    assert batch["image_grid_thw"].tolist() == [[1, 6, 6]] * len(drawings) + [[1, 18, 18]] * 6


def test_every_drawing_has_its_facts():
    facts = np.array([facts_of(one) for one in all_drawings()])
    assert [len(set(column)) for column in facts.T] == [len(values) for values in fact_values()]
    assert fact_values()[2] == tuple(COLORS)


def test_batched_loss_is_finite_and_has_gradients():
    tower, heads = make_tower(), make_heads()
    loss, log = batch_loss(tower, heads, make_batch("train", np.random.default_rng(0), scenes=2))
    assert loss.ndim == 0 and torch.isfinite(loss) and all(np.isfinite(v) for v in log.values())
    loss.backward()
    for name, weight in [*tower.named_parameters(), *heads.named_parameters()]:
        assert weight.grad is not None and torch.isfinite(weight.grad).all() and weight.grad.any(), name


def test_a_token_does_not_depend_on_the_rest_of_the_batch():
    tower = make_tower().eval()
    one, two = (make_batch("train", np.random.default_rng(seed), scenes=1) for seed in (0, 1))
    both_references = one["image_grid_thw"].shape[0] - 1
    split = both_references * 36
    pixels = [one["pixel_values"][:split], two["pixel_values"], one["pixel_values"][split:]]
    grids = [one["image_grid_thw"][:-1], two["image_grid_thw"], one["image_grid_thw"][-1:]]
    with torch.no_grad():
        references, _, scene = read_batch(tower, one)
        whole = tower(torch.cat(pixels), torch.cat(grids)).pooler_output
    assert torch.allclose(whole[-(GRID**2) :], scene, atol=1e-4)
    means = whole[: both_references * 9].view(-1, 9, HIDDEN).mean(1)
    assert torch.allclose(means, references, atol=1e-4)


def weights(*parts):
    return torch.cat([weight.detach().flatten() for part in parts for weight in part.parameters()])


def trained(out, steps=4, seed=0):
    torch.manual_seed(7)
    tower, heads = make_tower(), make_heads()
    train_tower(tower, heads, steps, out, seed, scenes=1)
    return weights(tower, heads)


def test_training_resumed_is_training_in_one_go(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recognition, "SAVED_EVERY", 2)
    whole = trained(tmp_path / "whole")
    done = []

    def killed(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return batch_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recognition, "batch_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "resumed")
    assert torch.load(tmp_path / "resumed/recognition.pt", weights_only=True)["step"] == 2
    assert torch.equal(trained(tmp_path / "resumed"), whole)
    # Given once more, nothing is left to do; and another seed trains otherwise.
    assert torch.equal(trained(tmp_path / "resumed"), whole)
    assert not torch.equal(trained(tmp_path / "other", seed=1), whole)
    for name in ("whole", "resumed"):
        lines = (tmp_path / name / "recognition.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert "recognition" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"recognition\.pt is of a training of 4 steps, not 5"):
        trained(tmp_path / "resumed", steps=5)


def code(number):
    return np.array([number // 40 * 8, number % 40 * 6, 100], np.uint8)


class Seer:
    """A tower that reads an identity from the mean colour of each token: see `painted`."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.table = torch.tensor(rng.normal(size=(len(all_drawings()), HIDDEN)), dtype=torch.float32)
        codes = np.stack([code(one.number) for one in all_drawings()])[:, :, None, None]
        same = [np.broadcast_to(one.transpose(1, 2, 0), (48, 48, 3)).copy() for one in codes]
        self.seen = torch.stack([self.colors(patches([image])["pixel_values"])[0] for image in same])

    @staticmethod
    def colors(pixels):
        # Patches come 2 x 2 by 2 x 2, each as (channel, time, height, width).
        return pixels.view(-1, 4, 3, 2 * 8 * 8).mean((1, 3))

    def __call__(self, pixels, grid):
        nearest = torch.cdist(self.colors(pixels), self.seen).argmin(1)
        return type("Output", (), {"pooler_output": self.table[nearest]})


@pytest.fixture
def painted(monkeypatch):
    """References, and in scenes the token at the centre of each box, in a colour that says which drawing it is."""

    def reference(drawing, rng):
        return np.broadcast_to(code(drawing.number), (48, 48, 3)).copy()

    def scene(drawings, rng):
        scene = draw_scene(drawings, rng)
        for one, (x1, y1, x2, y2) in zip(drawings, scene.boxes, strict=True):
            x, y = (int((a + b) / 2 / TOKEN) * TOKEN for a, b in ((x1, x2), (y1, y2)))
            scene.image[y : y + TOKEN, x : x + TOKEN] = code(one.number)
        return scene

    monkeypatch.setattr(recognition, "draw_reference", reference)
    monkeypatch.setattr(recognition, "draw_scene", scene)


def test_recognition_of_a_tower_that_sees_all_and_of_one_that_sees_nothing(painted):
    perfect = measure_recognition(Seer(), {"embed": torch.nn.Identity()}, "val", n=40)
    assert perfect == {f"{k} {kind}": 100.0 for k in (2, 4, 7) for kind in ("random", "siblings")}
    # One that says the same of all is right for the first of k.
    blind = measure_recognition(Seer(), {"embed": torch.zeros_like}, "val", n=40)
    assert blind == {f"{k} {kind}": round(100 / k, 1) for k in (2, 4, 7) for kind in ("random", "siblings")}


def test_recognition_among_siblings_is_among_siblings(monkeypatch):
    shown = []

    def embed(tower, heads, drawings, rng):
        shown.append(drawings)
        return torch.eye(len(drawings)), torch.eye(len(drawings))

    monkeypatch.setattr(recognition, "embed_scene", embed)
    measure_recognition(None, None, "test", n=20)
    groups = [{one.subgroup for one in drawings} for drawings in shown]
    assert all(len(set(drawings)) == len(drawings) for drawings in shown)
    for k in (2, 4, 7):
        # Random ones first, then siblings, each until 20 are shown.
        some = [group for group, drawings in zip(groups, shown, strict=True) if len(drawings) == k]
        half = len(some) // 2
        assert max(map(len, some[:half])) > 1 and {len(group) for group in some[half:]} == {1}


def test_the_command_trains_and_prints_what_was_measured(monkeypatch, tmp_path, capsys):
    made = {}
    monkeypatch.setattr(recognition, "train_tower", lambda *arguments: made.update(trained=arguments[2:]))
    monkeypatch.setattr(recognition, "measure_recognition", lambda tower, heads, split: {f"4 {split}": 98.75})
    assert main(["toyworld", "recognition", "--out", str(tmp_path), "--steps", "3", "--seed", "5"]) == 0
    assert made["trained"] == (3, tmp_path, 5)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["4", "val", "98.8"]
