"""The fluency term: its values, and the reference's log-probabilities against each row computed alone."""

import random
import re

import pytest
import torch

from helpers.places import BASE
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.prompts import task_messages
from repic_core.rewards import ict_reward
from repic_core.toyworld.dataset import write_training
from repic_core.training import grpo
from repic_core.training.fluency import fluency_reward

ONE_STEP = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 8,
    "max_steps": 1,
    "warmup_steps": 0,
    "seed": 3,
    "learning_rate": 0.0,
    "shuffle_dataset": False,
    "report_to": "none",
    "disable_tqdm": True,
}


def mean_log_prob(model, processor, messages, ids):
    """Of completion `ids` after a prompt, computed alone."""
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(ids)))
    inputs |= {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    with torch.no_grad():
        logits = model(**inputs).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return logits.gather(1, torch.tensor(ids)[:, None]).mean().item()


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_the_rewards_get_the_references_log_probabilities(base, data, tmp_path, shared_prefix):
    rows = [row for row in read_rows(data / "rows.jsonl") if row.method != "iou"][:2]
    seen = []

    def keep(completions, completion_ids, reference_log_prob, **_):
        seen.extend(zip(completion_ids, reference_log_prob, strict=True))
        return [0.0] * len(completions)

    settings = {**ONE_STEP, "root": data, "rewards": [(keep, 1.0)], "shared_prefix": shared_prefix}
    settings |= {"lora_dropout": 0.0, "max_steps": 2, "learning_rate": 0.1, "num_train_epochs": 2}
    trainer = grpo.train(*load_model(base), rows, tmp_path / "out", fluency_weight=0.5, **settings)
    assert trainer.reward_weights.tolist() == [1.0, 1.0, 0.5]
    assert len(seen) == 8  # of two steps: the reference stays the base when the policy has moved
    model, processor = load_model(base)
    suffixes = random.Random(3)
    messages = [
        task_messages([str(data / i) for i in row.images], row.problem, row.method, suffixes) for row in rows
    ]
    for number, (ids, value) in enumerate(seen):
        want = mean_log_prob(model, processor, messages[number // 2 % 2], ids)
        assert value == pytest.approx(want, abs=1e-4)


def test_word_salad_costs_what_the_strict_reward_does_not_see(tmp_path):
    write_training(tmp_path, 12)
    rows = read_rows(tmp_path / "captions_multi.jsonl", check_images=False)[:4]
    model, processor = load_model(BASE)
    shuffled = random.Random(0)
    for row in rows:
        messages = task_messages(
            [str(tmp_path / i) for i in row.images], row.problem, row.method, random.Random(0)
        )
        words = row.solution.split()
        shuffled.shuffle(words)
        salad = " ".join(words)
        named = re.findall("<[a-z]+>", row.solution)
        assert ict_reward(salad, named, row.candidates, row.infos, 20) == 1  # the hole
        ids = [processor.tokenizer(text).input_ids for text in (row.solution, salad)]
        assert fluency_reward(ids, [mean_log_prob(model, processor, messages, i) for i in ids]) == [0, -1]


def test_values_by_hand():
    logged = {}
    values = fluency_reward([""] * 4, [0.0, -2.0, -4.0, -60.0], log_metric=logged.__setitem__)
    assert values == [0, 0, -0.5, -1]
    assert logged == {"reference_log_prob": -16.5}


def test_no_reference_no_fluency(base, data, tmp_path):
    with pytest.raises(
        ValueError, match="fluency_weight: needs the reference model, so beta must be above 0"
    ):
        rows = read_rows(data / "rows.jsonl")[:2]
        grpo.train(
            *load_model(base), rows, tmp_path / "out", root=data, beta=0.0, fluency_weight=0.5, **ONE_STEP
        )
