"""The experiment on lines of information, small, on the toy base."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.models.loading import load_model
from repic_core.toyworld import infos
from repic_core.toyworld.drawings import identities
from repic_core.toyworld.world import GENERIC_INFO


def test_lines_written_by_the_toy_base_are_worth_more_than_none(tmp_path):
    rows = infos.measure_infos(*load_model("assets/toy-base"), tmp_path, "val", scenes=6)
    generic, written, true = rows
    kinds = json.loads((tmp_path / "infos.json").read_text())
    truth = [drawing.description for drawing in identities("val")]
    assert kinds["true"] == truth and set(kinds["generic"]) == {GENERIC_INFO}
    right = sum(said == is_so for said, is_so in zip(kinds["written"], truth, strict=True)) / len(truth)
    assert written["right"] == pytest.approx(right) and right > 0.1
    once = sum(count for count in Counter(truth).values() if count == 1) / len(truth)
    assert generic["unique"] == generic["found by text"] == 0
    assert true["right"] == 1 and true["unique"] == pytest.approx(once)
    assert generic["located"] <= written["located"] <= true["located"]
    assert (
        infos.markdown(
            [
                {"line": row["line"]}
                | {k: v for n in infos.SCORES for k, v in ((n, row[n]), (f"{n}_sd", None))}
                for row in rows
            ]
        ).count("\n")
        == 4
    )


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("On a red carpet. There is a brown bird at the centre.", "a brown bird"),
        ("A person in white has the centre to itself. This is a blue sea.", "a person in white"),
        ("<bo> is at the centre. Below it is a red bug.", "a red bug"),
        ("On a red carpet.", ""),
    ],
)
def test_the_line_is_what_the_caption_calls_the_toy(tmp_path, said, line):
    photo = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "bo.png")
    seen = []
    captioner = SimpleNamespace(caption=lambda scene, *_, **__: seen.append(np.asarray(scene)) or said)
    concept = Concept("<bo>", "bo", str(tmp_path / "bo.png"))
    assert infos.toy_writer(captioner)(concept, []) == line
    (scene,) = seen
    assert scene.shape == (144, 144, 3) and (scene[48:96, 48:96] == photo).all()
    assert (scene[:48] == photo[0, 0]).all() and (scene[:, 96:] == photo[0, 0]).all()
