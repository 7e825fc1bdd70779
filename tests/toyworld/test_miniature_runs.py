"""The miniature resumes only a run of the same base, scenes and settings, and compares arms by what they name."""

import pytest

from repic_core.io.files import write_json_atomic


def test_the_miniature_does_not_mix_runs(tmp_path, monkeypatch):
    """A run under `out` is resumed only with the same base, scenes and settings."""
    from repic_core.toyworld import miniature

    base, out, calls = tmp_path / "base", tmp_path / "out", []
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"one")
    row = {"arm": "base", "k": "1", **dict.fromkeys(miniature.SCORES, 0.5)}
    tasks = dict.fromkeys(miniature.TASK_SCORES, 0.5)
    monkeypatch.setattr(miniature, "evaluate_tasks", lambda model, data: tasks)
    monkeypatch.setattr(miniature, "write_heldout_tasks", lambda folder, split: None)
    monkeypatch.setattr(
        miniature, "train_arm", lambda arm, base, data, model, *_, **__: model.mkdir(parents=True)
    )
    monkeypatch.setattr(
        miniature, "evaluate_model", lambda *call: calls.append(call[3]) or [row | {"arm": call[3]}]
    )
    monkeypatch.setattr(
        miniature, "write_training", lambda folder, n: folder.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(
        miniature, "write_heldout", lambda folder, split: folder.mkdir(parents=True, exist_ok=True)
    )

    def run(**change):
        return miniature.run(**{"base": base, "out": out, "seeds": (0,), "arms": ("base",), **change})

    run()
    run()
    run(arms=("base", "grpo"))
    run(arms=("base",))
    assert calls == ["base", "grpo"]
    with pytest.raises(
        ValueError, match=r"settings\.json: made with another n_scenes \(2000, now 10\): give"
    ):
        run(n_scenes=10)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"settings\.json: made with another base"):
        run(base=other)
    monkeypatch.setitem(miniature.ARMS, "grpo", {**miniature.ARMS["grpo"], "max_steps": 7})
    run(arms=("base", "sft_multi"))  # that arm is not asked for
    with pytest.raises(ValueError, match=r"arm grpo was made with .*100.*, now .*7.*: give another --out"):
        run(arms=("grpo",))
    (out / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"out: holds a run without settings\.json"):
        run()
    assert calls == ["base", "grpo", "sft_multi"]


def test_arms_are_compared_over_photos_and_seeds(tmp_path):
    """GRPO names the concept; single captions also name one that is absent: F1 1 against 2/3 in two seeds."""
    from repic_core.toyworld import miniature

    concepts = {
        f"<{name}>": {"name": name, "image": f"{name}.png", "info": "a toy"} for name in ("bo", "mia")
    }
    paths = {concept["image"]: tag for tag, concept in concepts.items()}
    write_json_atomic(tmp_path / "database.json", {"concept_dict": concepts, "path_to_concept": paths})
    for arm, caption in (("grpo", "<bo>."), ("sft_single", "<bo>, <mia>.")):
        for seed in (0, 1):
            for label in miniature.PAIR_SETS:
                rows = [[f"{i}.png", ["<bo>"], caption] for i in range(5)]
                write_json_atomic(tmp_path / f"{arm}_{seed}" / f"{label}.json", rows)
    (row,) = miniature.compared(tmp_path, tmp_path, ["base", "grpo", "sft_single"], (0, 1))
    assert row == ["`grpo` − `sft_single`", *["33.3 [33.3, 33.3], p = 0.0625"] * 2]
