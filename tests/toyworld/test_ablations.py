"""The ablations: which rows an arm sees, what is not mixed or done twice, means by hand, the figure."""

import csv
import json
from collections import Counter

import pytest
from PIL import Image

from helpers.places import BASE
from repic_core.data.rows import TrainingExample, read_rows
from repic_core.toyworld import ablations
from repic_core.toyworld.ablation_figure import LINES, SCORES, TASK_ARMS, ablation_figure
from repic_core.toyworld.ablations import ARMS, last_kl, markdown, run, select_rows, summarize
from repic_core.toyworld.dataset import write_heldout_tasks

BUDGET = {"max_steps": 3, "learning_rate": 1e-4}


def test_rows_of_each_arm(data):
    """12 scenes: 12 ICT rows, VLT rows of scenes 0, 4 and 8, OCT rows of scenes 2, 6 and 10."""
    rows = read_rows(data / "rows.jsonl")
    every = Counter(row.method for row in rows)
    assert every["iou"] == every["yes_no"] == 3
    assert every["yes_no_name"] + every["yes_no_name_multi"] == 12 and len(every) == 4
    left_out = {
        "no OCT": {"yes_no"},
        "no VLT": {"iou"},
        "no ICT": {"yes_no_name", "yes_no_name_multi"},
        "single ICT only": {"yes_no_name_multi"},
        "multi ICT only": {"yes_no_name"},
    }
    for arm, methods in left_out.items():
        kept = Counter(row.method for row in select_rows(rows, **ARMS[arm]))
        assert kept == {method: n for method, n in every.items() if method not in methods}, arm
    assert select_rows(rows) == rows
    few = Counter(row.method for row in select_rows(rows, scenes=5))
    assert (few["iou"], few["yes_no"], few["yes_no_name"] + few["yes_no_name_multi"]) == (2, 1, 5)
    assert [row.method for row in select_rows(rows, ["yes_no_name", "yes_no_name_multi"], 3)] == [
        "iou",
        "yes_no",
    ]


def test_the_first_scenes_are_chosen_by_their_number():
    rows = [
        TrainingExample(
            (f"images/{n:05d}_reference_0.png", f"images/{n:05d}_scene.png"), "?", "<bo>", "yes_no_name"
        )
        for n in (0, 9, 10, 31, 32)
    ]
    assert [len(select_rows(rows, scenes=n)) for n in (1, 10, 32, 2000)] == [1, 2, 4, 5]


def test_every_arm_is_one_change_and_in_the_figure():
    drawn = {arm for arms in LINES.values() for arm in arms} | set(TASK_ARMS)
    assert drawn == set(ARMS)
    assert all(
        len({*change} - {"equal_ict"}) == 1 for arm, change in ARMS.items() if arm not in ("base", "full")
    )
    for arm, change in ARMS.items():
        assert 48 % change.get("num_generations", 8) == 0, arm  # whole groups


def test_heldout_tasks(tmp_path):
    rows = write_heldout_tasks(tmp_path / "a", "val", 20)
    assert read_rows(tmp_path / "a" / "tasks.jsonl") == rows
    assert [row.method for row in rows] == ["yes_no"] * 20 + ["iou"] * 20
    assert {row.solution for row in rows[:20]} == {"yes", "no"}
    for row in rows[20:]:
        width, height = Image.open(tmp_path / "a" / row.images[0]).size
        assert (
            0 <= row.solution[0] < row.solution[2] <= width
            and 0 <= row.solution[1] < row.solution[3] <= height
        )
    assert write_heldout_tasks(tmp_path / "b", "val", 20) == rows
    assert write_heldout_tasks(tmp_path / "c", "test", 20) != rows
    with pytest.raises(ValueError, match="not held out"):
        write_heldout_tasks(tmp_path / "d", "train", 1)


def scores(f1: float, kl: float | None = 0.1) -> dict[str, float | None]:
    return {name: f1 for name in ablations.SCORES} | {"length": 80.0, "kl": kl}


@pytest.fixture
def toy_run(tmp_path, monkeypatch):
    """`run` in a folder, with the calls that it makes; nothing is trained."""
    base, trained, scored = tmp_path / "base", [], []
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"one")

    def train(settings, base, data, out, **overrides):
        trained.append((out.name, dict(settings), overrides["seed"]))
        out.mkdir(parents=True)

    def score(base, adapter, heldout, out, arm):
        scored.append((arm, adapter))
        return scores(0.5)

    def write(folder, *_):
        folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(ablations, "train_arm", train)
    monkeypatch.setattr(ablations, "score_arm", score)
    for name in ("write_training", "write_heldout", "write_heldout_tasks"):
        monkeypatch.setattr(ablations, name, write)

    def start(**change):
        options = {
            "base": base,
            "out": tmp_path / "out",
            "budget": BUDGET,
            "seeds": (0,),
            "arms": ("base", "full"),
        }
        return run(**{**options, **change})

    start.trained, start.scored, start.out = trained, scored, tmp_path / "out"
    return start


def test_arms_get_their_settings_and_the_base_is_scored_once(toy_run):
    table = toy_run(seeds=(0, 1), arms=("base", "full", "no OCT", "group 16", "KL 0"))
    group = {**BUDGET, "num_generations": 16}
    assert toy_run.trained[:3] == [
        ("full_0", BUDGET, 0),
        ("no_OCT_0", {**BUDGET, "without": ["yes_no"]}, 0),
        ("group_16_0", group, 0),
    ]
    assert toy_run.trained[4:] == [
        (name[:-1] + "1", settings, 1) for name, settings, _ in toy_run.trained[:4]
    ]
    assert [arm for arm, adapter in toy_run.scored if adapter is None] == ["base"]
    assert [(row["arm"], row["seeds"]) for row in table] == [
        ("base", 1), ("full", 2), ("no OCT", 2), ("group 16", 2), ("KL 0", 2)
    ]  # fmt: skip


def test_what_is_finished_is_not_done_again(toy_run, monkeypatch):
    toy_run()
    toy_run(arms=("full", "no OCT"))
    assert [name for name, *_ in toy_run.trained] == ["full_0", "no_OCT_0"] and len(toy_run.scored) == 3

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ablations, "score_arm", stop)
        toy_run(arms=("KL 0",))
    toy_run(arms=("KL 0",))  # trained, but not scored
    assert [name for name, *_ in toy_run.trained] == ["full_0", "no_OCT_0", "KL_0_0"]
    assert [arm for arm, _ in toy_run.scored] == ["base", "full", "no OCT", "KL 0"]


def test_runs_are_not_mixed(toy_run, tmp_path, monkeypatch):
    toy_run()
    (toy_run.out / "data").mkdir(exist_ok=True)
    with pytest.raises(
        ValueError, match=r"arm full was made with .*'max_steps': 3.*, now .*4.*: give another"
    ):
        toy_run(budget={**BUDGET, "max_steps": 4})
    with pytest.raises(ValueError, match=r"settings\.json: made with another n_scenes \(2000, now 10\)"):
        toy_run(n_scenes=10)
    with pytest.raises(ValueError, match=r"made with another photos \(150, now 5\)"):
        toy_run(photos=5)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match="made with another base"):
        toy_run(base=other)
    (toy_run.out / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run without settings\.json"):
        toy_run()
    assert len(toy_run.trained) == 1


def test_summary_by_hand(tmp_path):
    for seed, (f1, kl) in enumerate([(0.2, 0.1), (0.4, None), (0.9, 0.3)]):
        folder = tmp_path / f"full_{seed}"
        folder.mkdir()
        (folder / "scores.json").write_text(json.dumps({"arm": "full", "seed": seed, **scores(f1, kl)}))
    (tmp_path / "base_0").mkdir()
    (tmp_path / "base_0" / "scores.json").write_text(
        json.dumps({"arm": "base", "seed": 0, **scores(0.0, None)})
    )
    base, full = summarize(tmp_path)
    assert (base["arm"], base["seeds"], base["f1_4"], base["f1_4_sd"], base["kl"]) == (
        "base",
        1,
        0.0,
        None,
        None,
    )
    assert (full["arm"], full["seeds"]) == ("full", 3)
    assert full["f1_4"] == pytest.approx(0.5)
    assert full["f1_4_sd"] == pytest.approx(0.13**0.5)  # squares .09, .01, .16 over n - 1 = 2
    assert (full["kl"], full["kl_sd"]) == pytest.approx((0.2, 0.02**0.5))
    lines = markdown([base, full]).splitlines()
    assert lines[2] == "| base | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 80.0 | - |"
    assert lines[3].startswith("| full | 50.0 ± 36.1 |") and lines[3].endswith(
        "| 80.0 ± 0.0 | 0.200 ± 0.141 |"
    )


def test_rows_of_a_table_have_means_and_spreads():
    rows = ablations.table_rows(table_of("base", "full"))
    assert [(row["arm"], row["seeds"]) for row in rows] == [("base", 3), ("full", 3)]
    assert list(rows[0]) == ["arm", "seeds", *ablations.TITLES.values()]
    assert (str(rows[0]["F1, 2"]), str(rows[1]["F1, 2"])) == ("5.0", "15.0 ± 2.0")
    assert rows[1]["F1, 2"].value == pytest.approx(0.15) and str(rows[1]["KL"]) == "0.500 ± 0.020"


def test_an_arm_that_there_is_not_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="arm 'no VTL': use some of base, full, no OCT"):
        run(BASE, tmp_path / "out", BUDGET, arms=("base", "no VTL"))
    assert not (tmp_path / "out").exists()


def test_last_kl(tmp_path):
    assert last_kl(None) == 0.0 and last_kl(tmp_path) is None
    (tmp_path / "metrics.csv").write_text("step,reward,kl\n1,0.5,0.25\n2,0.5,0.125\n3,0.5,\n")
    assert last_kl(tmp_path) == 0.125
    (tmp_path / "metrics.csv").write_text("step,reward\n1,0.5\n")  # beta 0
    assert last_kl(tmp_path) is None


def table_of(*arms: str) -> list[dict]:
    rows = []
    for number, arm in enumerate(arms):
        row = {"arm": arm, "seeds": 3}
        for place, name in enumerate(ablations.SCORES):
            row |= {name: 0.1 * (number % 5) + 0.05 * place, f"{name}_sd": None if arm == "base" else 0.02}
        rows.append(row)
    return rows


def test_figure_shows_the_numbers(tmp_path):
    table = table_of(*ARMS)
    figure = ablation_figure(table, tmp_path / "ablations")
    assert {path.name for path in tmp_path.iterdir()} == {"ablations.png", "ablations.pdf"}
    assert figure.get_size_inches()[0] == 6.9
    bars, *lines = figure.axes
    heights = [bar.get_height() for bar in bars.patches]
    value = {row["arm"]: row for row in table}
    assert heights == pytest.approx([100 * value[arm][key] for key in SCORES for arm in TASK_ARMS])
    assert [label.get_text() for label in lines[0].get_xticklabels()] == ["8", "32", "125", "500", "2000"]
    drawn = lines[2].containers[0].lines[0].get_ydata()
    assert drawn == pytest.approx([100 * value[arm]["f1_4"] for arm in ("KL 0", "full", "KL 0.2", "KL 1")])
    size = Image.open(tmp_path / "ablations.png").size
    assert size[0] == round(6.9 * 200)


def test_figure_leaves_out_what_was_not_run():
    figure = ablation_figure(table_of("base", "full", "no ICT"))
    assert len(figure.axes) == 1 and len(figure.axes[0].patches) == 3 * len(SCORES)
    assert len(ablation_figure(table_of("full", "group 2")).axes) == 2


def test_a_small_run(tmp_path):
    """Trained for real: the arm without ICT has seen no ICT row, and the base is scored as it is."""
    budget = {"max_steps": 2, "learning_rate": 1e-4, "logging_steps": 1}
    table = run(BASE, tmp_path, budget, (0,), "val", ("base", "no ICT"), n_scenes=24, photos=8)
    with open(tmp_path / "models" / "no_ICT_0" / "metrics.csv", newline="") as file:
        seen = {
            name for row in csv.DictReader(file) for name in row if name.startswith("reward/") and row[name]
        }
    assert seen == {"reward/yes_no", "reward/iou"}
    base, arm = table
    assert base["f1_1"] >= 0.8 and base["f1_4"] <= 0.3 and base["oct"] >= 0.75 and base["kl"] == 0
    assert arm["kl"] is not None and abs(arm["f1_4"] - base["f1_4"]) < 0.3
    saved = json.loads((tmp_path / "val" / "base_0" / "scores.json").read_text())
    assert {name: saved[name] for name in ablations.SCORES} == {name: base[name] for name in ablations.SCORES}
