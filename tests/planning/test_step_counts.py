"""How often each part of a step is done, how many steps there are, and DeepSpeed's buckets: as TRL and transformers
count them."""

import dataclasses
import json
import math
from functools import cache

import pytest

from helpers.places import ROOT
from repic_core.models.sizes import sized_config
from repic_core.planning import plan as planner
from repic_core.planning.dry_run import build
from repic_core.planning.seconds import counts, optimizer_steps, seconds, work
from repic_core.planning.settings import Card, Step, resolve
from repic_core.training.recipe import TuneArguments

TOY = ROOT / "assets" / "toy-base"
SMALL = Step(1, 60, 20, 4, 12, bf16=False, gpu=False)


@cache
def toy_counts():
    tune = TuneArguments(lora_r=8, lora_alpha=16, lora_dropout=0.0)
    return counts(build(sized_config(TOY), tune, False))


def test_a_rollout_that_is_used_again_costs_its_share():
    """With two iterations, all but the policy's pass is made once for two uses."""
    n = toy_counts()
    step = dataclasses.replace(SMALL, old_policy=True)
    card = Card("card", 100, 1000, 80)
    once = work(n, step, passes=2, images=2, full=False)
    twice = work(n, dataclasses.replace(step, iterations=2), passes=2, images=2, full=False)
    assert list(once) == ["photos", "rollout", "old policy", "reference", "policy"]
    assert once["old policy"] == once["reference"]
    assert twice["policy"] == once["policy"]
    for phase in ("photos", "rollout", "old policy", "reference"):
        assert twice[phase] == {name: value / 2 for name, value in once[phase].items()}, phase
    one = seconds(n, step, 2, once, 10**9, card)
    two = seconds(n, dataclasses.replace(step, iterations=2), 2, twice, 10**9, card)
    assert two["policy"] == one["policy"] and two["rollout"] == pytest.approx(one["rollout"] / 2)


@pytest.mark.parametrize(
    ("changes", "full", "times"),
    [
        ({}, False, 1),  # features are kept for all passes
        ({"photos_once": False}, False, 3),  # rollout, reference, policy
        ({"photos_once": False, "rollout": False}, False, 2),
        ({"photos_once": False, "reference": False}, False, 2),
        ({"photos_once": False, "old_policy": True}, False, 4),
        # the tower is recomputed, and gradients go through it to nowhere
        ({"photos_once": False, "checkpointing": True}, False, 5),
        ({"photos_once": False, "checkpointing": True}, True, 3),
        ({"photos_once": False, "iterations": 2}, False, 2),  # rollout and reference by halves
    ],
)
def test_how_often_photos_are_encoded(changes, full, times):
    n = toy_counts()
    found = work(n, dataclasses.replace(SMALL, **changes), passes=1, images=2, full=full)["photos"]
    patches = 20 * 4  # of the prompt's image tokens, 2 x 2 patches each
    assert found["tokens"] == times * patches
    each = 2 * n["tower"] * patches + n["tower attention"] * patches * patches / 2
    assert found["flops"] == pytest.approx(times * each)


@pytest.mark.parametrize(
    ("changes", "once"),
    [
        ({}, True),
        ({"sharding": "fsdp2", "gpus": 2}, False),
        ({"sharding": "zero2", "gpus": 2}, False),
        ({"shared_prefix": False}, False),
    ],
)
def test_when_photos_are_encoded_once(changes, once):
    """As the trainer decides: a sharded tower, and TRL's own trainer, have no features to keep."""
    given = {name: changes.pop(name) for name in ("sharding", "gpus") if name in changes}
    assert resolve("toy", changes, TOY, **given).step.photos_once is once


@pytest.mark.parametrize(
    ("changes", "old"),
    [
        ({}, False),
        ({"num_iterations": 2}, True),  # the completions are older than the policy in the second use
        ({"steps_per_generation": 4}, True),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 2, "num_iterations": 2}, False),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 1}, False),
        ({"use_vllm": True}, True),
        ({"use_vllm": True, "vllm_importance_sampling_correction": False}, False),
    ],
)
def test_when_the_old_policy_is_asked(changes, old):
    """As TRL decides (`GRPOTrainer._generate_and_score_completions`)."""
    assert resolve("toy", changes, TOY).step.old_policy is old


@pytest.mark.parametrize("rows", [6, 100, 2001])
@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_iterations": 3},
        {"gradient_accumulation_steps": 2, "num_iterations": 2},
        {"steps_per_generation": 2, "gradient_accumulation_steps": 4, "num_train_epochs": 1.5},
        {"steps_per_generation": 4},
    ],
)
def test_steps_are_as_many_as_trl_makes(rows, gpus, changes):
    from trl.trainer.utils import RepeatSampler

    changes = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 8, **changes}
    found = resolve("toy", changes, TOY, gpus=gpus)
    config, step = found.trainer, found.step
    batch = gpus * 8 * config.steps_per_generation
    sampler = RepeatSampler(
        range(rows),
        mini_repeat_count=8,
        batch_size=batch // 8,
        repeat_count=config.num_iterations * config.steps_per_generation,
    )
    passes = len(sampler) // batch  # of each process (`GRPOTrainer.get_train_dataloader`)
    epoch = max(1, math.ceil(passes / config.gradient_accumulation_steps))
    assert optimizer_steps(config, step, rows) == math.ceil(config.num_train_epochs * epoch)
    assert optimizer_steps(config, step, None) is None


def test_steps_by_hand():
    """2000 rows, 2 prompts a rollout, two steps' passes each: 1000 rollouts, 2000 passes, 1000 steps an epoch."""
    for recipe, gpus in (("paper-7b-8gpu", 8), ("7b-1gpu-80gb", 1), ("7b-multinode", 16), ("qwen3-vl-8b", 1)):
        found = resolve(recipe, {}, gpus=gpus)
        assert optimizer_steps(found.trainer, found.step, 2000) == 2 * 1000, recipe
    found = resolve("paper-7b-8gpu", {}, gpus=8)
    thrice = resolve("paper-7b-8gpu", {"num_iterations": 3}, gpus=8)
    assert optimizer_steps(thrice.trainer, thrice.step, 2000) == 3 * 2 * 1000
    batch = resolve("paper-7b-8gpu", {"generation_batch_size": 32}, gpus=8)  # of all GPUs together
    assert batch.step.rounds == 4


def test_a_recipe_for_more_gpus_says_so():
    with pytest.raises(
        ValueError, match=r"paper-7b-8gpu: 2 GPU\(s\) with per_device_train_batch_size 1 hold no whole"
    ):
        resolve("paper-7b-8gpu", {}, gpus=2)


@pytest.mark.parametrize(
    ("size", "model", "elements"),
    [
        ("auto", "Qwen/Qwen2.5-VL-7B-Instruct", 3584**2),
        ("auto", "Qwen/Qwen3-VL-8B-Instruct", 4096**2),
        (5e7, "Qwen/Qwen2.5-VL-7B-Instruct", 50_000_000),
        (None, "Qwen/Qwen2.5-VL-7B-Instruct", 500_000_000),  # DeepSpeed's own
    ],
)
def test_reduce_buckets(tmp_path, size, model, elements):
    """In an object, or in a file as DeepSpeed's users have it."""
    zero = {"stage": 2, "overlap_comm": True} | ({} if size is None else {"reduce_bucket_size": size})
    settings = {"zero_optimization": zero}
    (tmp_path / "zero2.json").write_text(json.dumps(settings))
    for deepspeed in (settings, str(tmp_path / "zero2.json")):
        step = resolve("paper", {"deepspeed": deepspeed}, model, gpus=8).step
        assert (step.sharding, step.bucket) == ("zero2", elements)


def test_the_published_recipe_has_small_buckets():
    """Two of 3584 x 3584 elements in bf16: 49 MiB, not 1.86 GiB."""
    found = planner.plan("paper-7b-8gpu", gpus=8, card="a40", advise=False)
    for terms in found["bytes"].values():
        assert terms["reduce buckets"] == 2 * 2 * 3584**2


def test_a_deepspeed_file_that_is_none(tmp_path):
    (tmp_path / "zero2.json").write_text("[]")
    for name, message in (("zero2.json", "must be an object of settings"), ("none.json", "can't be read")):
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            resolve("paper", {"deepspeed": str(tmp_path / name)}, TOY)


def test_min_pixels_give_small_photos_more_tokens():
    from types import SimpleNamespace

    from repic_core.planning.settings import photo_tokens

    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=14, spatial_merge_size=2))
    assert photo_tokens(config, 280) == 100
    assert photo_tokens(config, 280, min_pixels=560 * 560) == 400
    assert photo_tokens(config, 2800, 560 * 560, 280 * 280) == 400


def test_photos_have_the_size_of_the_authors_training():
    """Rows of several photos: 512 pixels, 18 x 18 tokens; rows of one: 1024, 37 x 37; smaller ones as they are."""

    def photos(side, references, recipe="paper"):
        return resolve(recipe, {}, gpus=1, side=side, references=references).step.photos

    assert photos(2000, 3) == 4 * 18 * 18 == photos(512, 3)
    assert photos(2000, 0) == 37 * 37 and photos(280, 3) == 4 * 10 * 10
    assert photos(2000, 3, "7b-1gpu-80gb") == 4 * 32 * 32
