"""Notebook 04: scores before and after, probes, questions, retrieval; it takes what it is given."""

import json
import shutil
from dataclasses import replace

import pytest

from helpers.notebooks import results, run
from helpers.places import BASE, ROOT
from repic_core.captioner.caption_files import settings_path
from repic_core.models.loading import PAPER_MAX_PIXELS, load_model
from repic_core.models.parts import hash_weights
from repic_core.notebooks.results import EVALUATION, results_table
from repic_core.prompts import CAPTION_QUESTIONS, SYSTEM_PROMPTS


def test_evaluation_has_the_table(run_dir):
    """Both models have every number of references, and F1 is the harmonic mean of precision and recall."""
    found = results(run_dir, EVALUATION)
    table = found["table"]
    ks = {row["k"] for row in table}
    assert {1, 2, 4} <= ks and len(table) == 2 * len(ks) and {row["n"] for row in table} == {8}
    for row in table:
        precision, recall = row["precision"], row["recall"]
        assert 0 <= recall <= 1
        if precision and recall:
            assert row["f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-3)
    assert {row["k"] for row in found["other_sets"]} >= {"2 all", "4 all"}
    f1 = {(row["arm"], row["k"]): row["f1"] for row in table}
    assert f1["base", 1] >= 0.8 and f1["tuned", 4] > f1["base", 4] + 0.2
    assert len(results_table(run_dir / EVALUATION / "results.json")) == 3


def test_probes_cover_all_ways(run_dir):
    found = results(run_dir, EVALUATION)["robustness"]
    assert list(found) == ["base", "tuned"]
    for ways in found.values():
        assert list(ways) == ["as asked", "shuffled", *(f"{n} wrong" for n in range(1, 5)), "no photos"]
        assert all(0 <= value <= 1 for value in ways.values()) and ways["no photos"] <= 0.3


def test_captions_are_asked_what_they_tell(run_dir):
    found = results(run_dir, EVALUATION)
    right = {(row["arm"], row["k"]): row["right"] for row in found["questions"]}
    assert right["base", "1"] > right["base", "4"] and right["tuned", "4"] > right["base", "4"]
    for row in found["questions"]:
        assert row["right"] + row["wrong"] + row["not said"] + row["unparsable"] == pytest.approx(1, abs=1e-3)
    assert {(row["arm"], row["k"]) for row in found["told"]} == set(right)
    assert len(found["tasks"]) == 6 and all(0 <= row["score"] <= 1 for row in found["tasks"])


def test_concepts_are_found_among_many(run_dir):
    found = results(run_dir, EVALUATION)
    shares = [row["share of shown concepts"] for row in found["retrieval"]]
    assert [row["among the first"] for row in found["retrieval"]] == [1, 2, 4, 8]
    assert shares == sorted(shares) and shares[-1] >= 0.5
    assert [list(ways) for ways in found["retrieval_f1"].values()] == [["given", "found"]] * 2


def captions_of(run_dir, arm, kind=".json"):
    path = run_dir / "captions" / arm / "4_all.json"
    return json.loads((path if kind == ".json" else settings_path(path)).read_text(encoding="utf-8"))


def test_each_arm_was_captioned_by_its_own_model(run_dir):
    """The weights that made the captions are the base's, and the base's with the shipped adapter."""
    for arm, adapter in (("base", None), ("tuned", "assets/toy-adapter")):
        model, _ = load_model(BASE, adapter)
        assert captions_of(run_dir, arm, "settings")["weights"] == hash_weights(model), arm
    assert captions_of(run_dir, "base", "settings")["weights"] != hash_weights(model)


def test_evaluation_with_other_parameters_captions_again(run_dir, tmp_path):
    """Another adapter (here one that spoils the model), and other sets and numbers, in the same folder."""
    from safetensors.torch import load_file, save_file

    for part in ("data/test", "captions"):
        shutil.copytree(run_dir / part, tmp_path / part)
    shutil.copytree(ROOT / "assets/toy-adapter", tmp_path / "spoilt")
    weights = tmp_path / "spoilt" / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    found = run(
        EVALUATION,
        tmp_path,
        adapter=str(tmp_path / "spoilt"),
        sets=["1", "4 all"],
        probed_set="4 all",
        limit=3,
        max_wrong=1,
        batch_size=2,
        windows_across=1,
    )
    assert [(row["k"], row["n"]) for row in found["table"]] == [(1, 3), (1, 3)]
    assert [row["k"] for row in found["other_sets"]] == ["4 all", "4 all"]
    assert list(found["robustness"]["tuned"]) == ["as asked", "shuffled", "1 wrong", "no photos"]
    assert captions_of(tmp_path, "base") == captions_of(run_dir, "base")[:3]
    old, new = captions_of(run_dir, "tuned"), captions_of(tmp_path, "tuned")
    assert all(row != spoilt for row, spoilt in zip(old, new, strict=False))
    assert all(row["f1"] == 0 for row in found["table"] if row["arm"] == "tuned")


def test_a_setting_of_the_paper_with_a_local_model(official_root, tmp_path):
    """The authors' photos are asked about as their captions were made, and a run that stopped is resumed."""
    from repic_core.evaluation.query_folders import write_paper_queries
    from repic_core.evaluation.query_sets import write_settings

    data = tmp_path / "official"
    asked = write_paper_queries(data, official_root, "4-concepts").settings
    assert (asked.max_new_tokens, asked.max_pixels) == (1024, PAPER_MAX_PIXELS)
    # What the toy says of photos is long and means nothing, and it is slow on large ones.
    write_settings(data, replace(asked, max_new_tokens=8, max_pixels=96 * 96))
    given = {"data": str(data), "adapter": "", "base_name": "", "max_wrong": 0, "batch_size": 1}
    given["windows_across"] = 1
    found = run(EVALUATION, tmp_path, **given, limit=2)
    assert [(row["arm"], row["k"], row["n"]) for row in found["other_sets"]] == [("tuned", "4 all", 2)]
    assert found["told"] == found["tasks"] == found["questions"] == []  # nothing else is known of real photos
    path = tmp_path / "captions" / "tuned" / "4_all.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    ours = official_root / "captioning/quad_concept/captioning-skip-retrieval-ours.json"
    published = json.loads(ours.read_text(encoding="utf-8"))
    assert [row[:2] + row[3:] for row in rows] == [row[:2] + row[3:] for row in published[:2]]
    assert [row[3] for row in rows] == list(CAPTION_QUESTIONS["single"][:2])
    settings = json.loads(settings_path(path).read_text(encoding="utf-8"))
    assert settings["system"] == SYSTEM_PROMPTS["evaluation"]
    assert settings["image size"]["longest_edge"] == 96 * 96
    assert settings["resized by"] == "qwen-vl-utils" and settings["reference style"] == "numbered"
    assert settings["generation"]["max_new_tokens"] == 8
    path.write_text(json.dumps([[*rows[0][:2], "mine", rows[0][3]], rows[1]]))
    run(EVALUATION, tmp_path, **given, limit=3, resume_captions=True)
    assert [row[2] for row in json.loads(path.read_text())][:2] == ["mine", rows[1][2]]
