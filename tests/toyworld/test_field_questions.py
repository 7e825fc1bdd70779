"""Questions about toys by rule: what the scene shows is the right answer, and letters tell nothing."""

from __future__ import annotations

import json
from collections import Counter

from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.field_questions import read_recognition, read_text_questions, read_visual_questions
from repic_core.toyworld.field_questions import PHOTOS, RECOGNISED, write_field_questions


def test_the_questions_agree_with_the_scenes_and_the_infos(tmp_path):
    counts = write_field_questions(tmp_path, "test", n=40, seed=3)
    truth = json.loads((tmp_path / "truth.json").read_text())
    who, where = (read_visual_questions(tmp_path / f"vqa-{name}.json") for name in ("who", "where"))
    assert counts["vqa-who"] == len(who) == len(where) and 70 <= len(who) <= 80
    for one, two in zip(who, where, strict=True):
        objects = truth[one.photo]["objects"]
        places = {o["tag"]: o["place"] for o in objects}
        right, offered = dict(one.options)[one.answer], {text for _, text in one.options}
        assert len(places) == len(objects) == 4
        assert right == one.tag and f" {places[one.tag]}?" in one.text and offered <= set(places)
        assert all(list(places.values()).count(places[tag]) == 1 for tag in offered)
        assert dict(two.options)[two.answer] == f"at the {places[two.tag]}"
        assert {text for _, text in two.options} == {f"at the {places[tag]}" for tag in offered}
    described = ConceptDatabase.load(tmp_path / "described.json", tmp_path)
    texts = read_text_questions(tmp_path / "text.json")
    assert counts["text"] == len(texts) > len(described)
    right, wrong = Counter(), Counter()
    for question in texts:
        info = described[question.tag].info
        assert all((letter == question.answer) == (f" {text}" in info) for letter, text in question.options)
        for letter, text in question.options:
            (right if letter == question.answer else wrong)[text] += 1
    assert right == wrong  # no option is right more often than not
    for asked in (who, where, texts):
        letters = Counter(question.answer for question in asked)
        assert 0.3 < letters["A"] / len(asked) < 0.7
    truths = Counter(question.answer for question in read_recognition(tmp_path / "recognition.json"))
    assert truths == {"yes": RECOGNISED * PHOTOS, "no": RECOGNISED * PHOTOS * (RECOGNISED - 1)}
