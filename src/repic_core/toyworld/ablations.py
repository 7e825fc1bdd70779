"""What each part of the recipe does, on the toy world: ``repic toyworld ablations``.

Each arm differs in one thing from `full`, which has OCT, VLT, single and multi ICT rows of 2,000 scenes, groups of
8, and KL weight 0.04. All arms take the same number of steps and of completions in a step. So an arm without a
task sees more rows of the other tasks, and an arm with larger groups sees fewer prompts. Whether OCT and VLT help
naming is therefore asked twice: at equal steps, and at equal rows of ICT, in fewer steps.

There are two budgets: `short`, at which arms are on their way, and `long`, that of the shipped adapter. Both were
fixed here before the test split was run.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.data.rows import read_rows
from repic_core.evaluation.questions import answer_questions
from repic_core.evaluation.task_scores import score_tasks
from repic_core.io.files import write_json_atomic
from repic_core.io.kit import kit_path
from repic_core.models.loading import load_model
from repic_core.tasks import MULTI_ICT, OCT, SINGLE_ICT, TASKS, VLT
from repic_core.toyworld.arms import cell, check_settings, over_seeds, select_rows, spread
from repic_core.toyworld.dataset import write_heldout, write_heldout_tasks, write_training
from repic_core.toyworld.miniature import equal_ict_steps, evaluate_model
from repic_core.toyworld.questions import CaptionReader, heldout_questions
from repic_core.training import grpo

# `without`: methods whose rows are left out; `equal_ict`: in as many steps as it takes to see as many ICT rows as
# `full`; `scenes`: only rows of this many scenes. The rest goes to the recipe.
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "full": {},
    "no OCT": {"without": [OCT]},
    "no VLT": {"without": [VLT]},
    "no OCT, equal ICT": {"without": [OCT], "equal_ict": True},
    "no VLT, equal ICT": {"without": [VLT], "equal_ict": True},
    "no ICT": {"without": [SINGLE_ICT, MULTI_ICT]},
    "single ICT only": {"without": [MULTI_ICT]},
    "multi ICT only": {"without": [SINGLE_ICT]},
    "500 scenes": {"scenes": 500},
    "125 scenes": {"scenes": 125},
    "32 scenes": {"scenes": 32},
    "8 scenes": {"scenes": 8},
    "group 2": {"num_generations": 2},
    "group 4": {"num_generations": 4},
    "group 16": {"num_generations": 16},
    "KL 0": {"beta": 0.0},
    "KL 0.2": {"beta": 0.2},
    "KL 1": {"beta": 1.0},
}
# When the suffix of an ICT prompt is drawn (`training.suffixes`), against `full` and `8 scenes`, which draw it
# once a row. 2,000 scenes are too many for a row to be seen twice. Trained only where `--arms` names them.
SUFFIX_ARMS: dict[str, dict[str, Any]] = {
    "suffix per completion": {"ict_suffix": "completion"},
    "8 scenes, suffix per group": {"scenes": 8, "ict_suffix": "group"},
    "8 scenes, suffix per completion": {"scenes": 8, "ict_suffix": "completion"},
}
# `full` with the question reward, its rows with questions, and the reader that goes by rule.
QUESTION_ARMS: dict[str, dict[str, Any]] = {
    "question reward": {
        "rows": "rows_questions.jsonl",
        "question_weight": 0.5,
        "question_reader": "repic_core.toyworld.questions:CaptionReader",
    }
}
MORE_ARMS = SUFFIX_ARMS | QUESTION_ARMS
# At the rate of the recipe: a budget at which arms are on their way, and that of the shipped adapter.
BUDGETS: dict[str, dict[str, Any]] = {
    "short": {"max_steps": 25, "learning_rate": 3e-4},
    "long": {"max_steps": 80, "learning_rate": 3e-4},
}
SETS = ("1", "2", "4")
# What tables call each score.
TITLES = {
    "f1_1": "F1, 1",
    "f1_2": "F1, 2",
    "f1_4": "F1, 4",
    "questions": "questions",
    "oct": "OCT",
    "vlt_iou": "VLT IoU",
    "vlt_hit": "VLT IoU ≥ 0.5",
    "length": "length",
    "kl": "KL",
}
SCORES = tuple(TITLES)


def arm_settings(arm: str, budget: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm is trained with under a budget; nothing for ``base``.

    >>> arm_settings("no OCT, equal ICT", {"max_steps": 90})
    {'max_steps': 75, 'without': ['yes_no']}
    """
    if arm == "base":
        return {}
    settings = {**budget, **(ARMS | MORE_ARMS)[arm]}
    if settings.pop("equal_ict", False):
        settings["max_steps"] = equal_ict_steps(settings["max_steps"], settings["without"][0])
    return settings


def train_arm(
    settings: Mapping[str, Any], base: str | Path, data: str | Path, out: str | Path, **overrides: Any
) -> Path:
    """GRPO (recipe `toy`) from `base` with the settings of one arm; returns the adapter's folder."""
    recipe = {**settings, **overrides}
    rows = read_rows(Path(data) / recipe.pop("rows", "rows.jsonl"), check_images=False)
    rows = select_rows(rows, recipe.pop("without", ()), recipe.pop("scenes", None))
    grpo.train(*load_model(base), rows, out, "toy", root=data, **recipe)
    return Path(out)


def score_arm(
    base: str | Path, adapter: Path | None, heldout: Path, out: str | Path, arm: str
) -> dict[str, float | None]:
    """`SCORES` of a model on a held-out split.

    They are F1 of names by number of references, the questions that captions of four references answer rightly by
    rule, the scores of the tasks, the length of those captions (characters), and the last logged KL to the base
    (nats per token; None if there is none).
    """
    captions = evaluate_model(base, heldout, out, arm, SETS, adapter=adapter)
    scores = {f"f1_{row['k']}": row["f1"] for row in captions}
    database = ConceptDatabase.load(heldout / "database.json", root=heldout)
    questions = heldout_questions(heldout, database, SETS[-1])
    answers = answer_questions(CaptionReader(), Path(out) / f"{SETS[-1]}.json", questions)
    scores["questions"] = round(answers.accuracy.value, 4)
    model, processor = load_model(base, adapter)
    rows = read_rows(heldout / "tasks.jsonl", check_images=False)
    tasks = score_tasks(model, processor, rows, heldout, batch_size=50, max_new_tokens=32)
    scores |= {name: round(tasks[name].value, 4) for name in ("oct", "vlt_iou", "vlt_hit")}
    return {**scores, "length": captions[-1]["length"], "kl": last_kl(adapter)}


def last_kl(model: str | Path | None) -> float | None:
    """The KL to the base in the last row of ``metrics.csv`` that has one, a mean over `logging_steps` steps."""
    if model is None:
        return 0.0
    path = Path(model) / "metrics.csv"
    # A run of fewer steps than `logging_steps` has no file.
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        values = [float(row["kl"]) for row in csv.DictReader(file) if row.get("kl")]
    return values[-1] if values else None


def run(
    base: str | Path,
    out: str | Path,
    budget: Mapping[str, Any],
    seeds: Sequence[int] = (0, 1, 2),
    split: str = "test",
    arms: Sequence[str] = tuple(ARMS),
    n_scenes: int = 2000,
    photos: int = 150,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Train and score all arms and seeds with one budget; returns the table of `summarize`.

    What is finished under `out` is not done again.

    Args:
        budget: values of the recipe for all arms, such as one of `BUDGETS`.
        photos: held-out photos in each query set, and rows of each task.
        progress: whether to show a bar over arms and seeds, instead of a line for each.

    Raises:
        ValueError: there is no arm of a name; or the run under `out` has another base, number of scenes or photos,
            or other settings.
    """
    from tqdm.auto import tqdm

    unknown = [arm for arm in arms if arm not in ARMS | MORE_ARMS]
    if unknown:
        raise ValueError(f"arm {unknown[0]!r}: use some of {', '.join(ARMS | MORE_ARMS)}")
    base, out = kit_path(base), Path(out)
    settings = {arm: arm_settings(arm, budget) for arm in arms}
    check_settings(base, out, settings, n_scenes=n_scenes, photos=photos)
    train, heldout = out / "data" / "train", out / "data" / split
    if not (train / "truth.json").exists():
        write_training(train, n_scenes)
    if not (heldout / "tasks.jsonl").exists():
        write_heldout(heldout, split, photos)
        write_heldout_tasks(heldout, split, photos)
    todo = [(seed, arm) for seed in seeds for arm in arms if arm != "base" or seed == seeds[0]]
    bar = tqdm(todo, disable=not progress, unit="arm", leave=False)
    for seed, arm in bar:
        name = f"{arm.replace(' ', '_')}_{seed}"
        folder, adapter, started = out / split / name, None, time.time()
        if (folder / "scores.json").exists():
            continue
        if arm != "base":
            adapter = out / "models" / name
            if not (adapter / "finished").exists():
                # Of a run that was cut off there may be checkpoints.
                more: dict[str, Any] = {"seed": seed, "report_to": "none", "overwrite": True}
                if progress:
                    more |= {"disable_tqdm": True, "callbacks": [_steps_shown(bar, arm)]}
                train_arm(settings[arm], base, train, adapter, **more)
                (adapter / "finished").touch()
        minutes = (time.time() - started) / 60
        scores = score_arm(base, adapter, heldout, folder, arm)
        row = {"arm": arm, "seed": seed, "train_minutes": minutes, **scores}
        write_json_atomic(folder / "scores.json", row)
        if not progress:
            print(f"{arm}, seed {seed}: {scores}", flush=True)
    return summarize(out / split)


def _steps_shown(bar: Any, arm: str) -> Any:
    """A callback that writes the arm and its step beside a bar; nothing else is printed then."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bar.set_postfix_str(f"{arm}, step {state.global_step}")

    return Steps()


def what_changes(arm: str) -> str:
    """In words, what an arm changes.

    >>> what_changes("no OCT"), what_changes("group 2"), what_changes("base")
    ('no rows of OCT', 'num_generations 2', 'not trained')
    """
    if arm == "base":
        return "not trained"
    change = dict((ARMS | MORE_ARMS)[arm])
    without = [TASKS[method].label for method in change.pop("without", ())]
    said = [f"no rows of {', '.join(without)}"] if without else []
    said += ["equal rows of ICT"] if change.pop("equal_ict", False) else []
    said += [f"{name} {value}" for name, value in change.items()]
    return "; ".join(said) or "nothing: rows of all tasks"


def summarize(folder: str | Path) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of `SCORES` under `folder`: a row for each arm, ordered as `ARMS` and
    `MORE_ARMS`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(Path(folder).glob("*/scores.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(row["arm"], []).append(row)
    arms = [arm for arm in (*ARMS, *MORE_ARMS) if arm in found]
    return [{"arm": arm, "seeds": len(found[arm]), **over_seeds(found[arm], SCORES)} for arm in arms]


def table_rows(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table of `summarize` as rows for `display.tables`: arm, seeds, and means with standard deviations."""
    return [
        {
            "arm": row["arm"],
            "seeds": row["seeds"],
            **{TITLES[key]: spread(row, key, key not in ("length", "kl")) for key in SCORES},
        }
        for row in table
    ]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown: mean ± standard deviation, in percent (length: characters, KL: nats per token)."""
    lines = [f"| arm | {' | '.join(TITLES.values())} |", "|---" * (len(TITLES) + 1) + "|"]
    for row in table:
        cells = [cell(row, key) for key in SCORES[:-2]]
        cells += [cell(row, "length", 1), cell(row, "kl", 1, 3)]
        lines.append(f"| {row['arm']} | {' | '.join(cells)} |")
    return "\n".join(lines)
