"""The suffixes of ICT prompts: drawn as often as the setting says, with upstream's weights."""

import copy
import random
from collections import Counter

import pytest

from helpers.families import varied
from repic_core.data.rows import read_rows, to_dataset
from repic_core.models.loading import load_model
from repic_core.prompts import ICT_SUFFIXES, redrawn_suffix, task_messages
from repic_core.tasks import ICT, MULTI_ICT, OCT, SINGLE_ICT
from repic_core.training import grpo
from repic_core.training.suffixes import redrawn

SMALL = {
    "per_device_train_batch_size": 8,
    "num_generations": 8,
    "max_completion_length": 4,
    "logging_steps": 1,
    "rewards": [(varied, 1.0)],
    "report_to": "none",
    "disable_tqdm": True,
}


def asked(problem, method, draw=0):
    return task_messages(["a.png"] * problem.count("<image>"), problem, method, random.Random(draw))


@pytest.mark.parametrize(
    "problem", ["Who is it?", "<image>Name: <bo><image>Who?", "Who?<image>", "Who? Output"]
)
def test_a_redrawn_prompt_is_one_that_could_have_been_drawn_at_first(problem):
    possible = [asked(problem, SINGLE_ICT, draw) for draw in range(40)]
    for draw in range(40):
        again = redrawn_suffix(possible[draw], SINGLE_ICT, random.Random(draw + 100))
        assert again == asked(problem, SINGLE_ICT, draw + 100)
    before = copy.deepcopy(possible[0])
    redrawn_suffix(possible[0], MULTI_ICT, random.Random(5))
    assert possible[0] == before  # rows of the data set are not changed
    assert redrawn_suffix(asked("Same?", OCT), OCT, random.Random(3)) == asked("Same?", OCT)


def endings(rows):
    """The number of the suffix at the end of each row's prompt."""
    texts = [row["prompt"][-1]["content"][-1]["text"] for row in rows]
    named = [
        [n for n, (suffix, _) in enumerate(ICT_SUFFIXES) if suffix and text.endswith(suffix)]
        for text in texts
    ]
    return [found[0] if found else 2 for found in named]


def test_the_weights_are_upstreams_and_each_setting_draws_as_often_as_it_says():
    row = {"prompt": asked("Who?", SINGLE_ICT), "accu_reward_method": SINGLE_ICT}
    drawn = [endings(redrawn([row] * 8, "completion", 0, step, 0)) for step in range(250)]
    assert sum(len(set(group)) > 1 for group in drawn) > 200  # all alike: 0.6^8 + 2 x 0.2^8 = 1.7%
    counts = Counter(ending for group in drawn for ending in group)
    assert [counts[n] / 2000 for n in range(3)] == pytest.approx([0.2, 0.2, 0.6], abs=0.04)
    groups = [endings(redrawn([row] * 8, "group", 0, step, 0)) for step in range(250)]
    assert all(len(set(group)) == 1 for group in groups) and len({group[0] for group in groups}) == 3
    # A group that is spread over processes shares its prompt; completions of two processes differ.
    assert all(endings(redrawn([row], "group", 0, s, 1)) == groups[s][:1] for s in range(250))
    assert any(endings(redrawn([row] * 8, "completion", 0, s, 1)) != drawn[s] for s in range(9))
    assert endings(redrawn([row] * 8, "completion", 0, 7, 0)) == drawn[7]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("each", ["row", "group", "completion"])
def test_what_the_model_is_asked(base, data, tmp_path, each, shared, monkeypatch):
    """The prompts that TRL tokenizes, in each of two steps on one row."""
    from trl import GRPOTrainer

    seen, tokenize = [], GRPOTrainer._tokenize_prompts

    def noted(self, prompts):
        seen.append([prompt[-1]["content"][-1]["text"] for prompt in prompts])
        return tokenize(self, prompts)

    monkeypatch.setattr(GRPOTrainer, "_tokenize_prompts", noted)
    row = next(row for row in read_rows(data / "rows.jsonl") if row.method in ICT)
    settings = {**SMALL, "root": data, "max_steps": 2, "ict_suffix": each, "shared_prefix": shared}

    def expected(seed):
        batch = [to_dataset([row], data, seed)[0]] * 8
        steps = [batch if each == "row" else redrawn(batch, each, seed, step, 0) for step in range(2)]
        return [[one["prompt"][-1]["content"][-1]["text"] for one in step] for step in steps]

    # A seed whose draws differ where they can.
    differ = {"row": lambda one, two: True, "group": lambda one, two: one != two}
    seed = next(s for s in range(99) if differ.get(each, lambda one, two: len(set(one)) > 1)(*expected(s)))
    model = load_model(base)
    trainer = grpo.train(*model, [row], tmp_path / "out", seed=seed, **settings)
    distinct = [list(dict.fromkeys(texts)) for texts in expected(seed)]
    assert seen == (distinct if shared else expected(seed))
    assert {"row": len(distinct[0]) == 1, "group": distinct[0] != distinct[1]}.get(each, len(distinct[0]) > 1)
    assert all(entry["loss"] == entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def test_wrong_settings_are_named(base, data, tmp_path):
    loaded = load_model(base)
    rows = read_rows(data / "rows.jsonl")
    with pytest.raises(ValueError, match="ict_suffix: 'step' must be one of row, group, completion"):
        grpo.train(*loaded, rows, tmp_path / "out", root=data, ict_suffix="step")
    with pytest.raises(ValueError, match="ict_suffix: vLLM is given one prompt a group"):
        grpo.train(*loaded, rows, tmp_path / "out", root=data, ict_suffix="completion", use_vllm=True)
