"""The recipe `paper-7b-8gpu` under DeepSpeed, ZeRO-2 as it is and ZeRO-3, in two CPU processes; beside `paper`."""

import importlib.util
import json

import pytest

from helpers.sharded import (
    case,
    check_killed_and_resumed,
    check_raised,
    check_same,
    check_whole_and_loaded,
    run_cases,
    sessions,
)
from repic_core.training.recipe import recipe_values

if not importlib.util.find_spec("deepspeed"):
    pytest.skip("DeepSpeed is not installed (bash setup.sh --with deepspeed)", allow_module_level=True)

KINDS = ("zero2", "zero3")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def statuses(data, out):
    rows = data / "rows.jsonl"
    zero3 = recipe_values("paper-7b-8gpu")["deepspeed"]
    zero3["zero_optimization"]["stage"] = 3
    (out / "zero3.json").write_text(json.dumps(zero3))
    both = {"per_device_train_batch_size": 4, "captions": "one draw"}
    two = {**both, "kind": "deepspeed", "config": "paper-7b-8gpu"}
    cases = {"ddp": case(rows, out / "ddp", "paper", **both)}
    cases |= sessions("zero2", rows, out, **two)
    cases |= sessions("zero3", rows, out, **two, deepspeed=out / "zero3.json")
    return run_cases(out, cases)


@pytest.mark.parametrize("name", KINDS)
def test_the_whole_adapter_is_saved(out, statuses, name):
    check_whole_and_loaded(out, name, statuses)
    shards = sorted(
        path.name for path in (out / name / "checkpoint-2" / "global_step2").glob("*optim_states.pt")
    )
    assert len(shards) == 2  # one a process


@pytest.mark.parametrize("name", KINDS)
def test_a_process_that_is_killed_ends_the_run(out, statuses, name):
    check_killed_and_resumed(out, name, statuses)


@pytest.mark.parametrize("name", KINDS)
def test_a_reward_that_raises_ends_the_run(out, statuses, name):
    check_raised(out, name, statuses)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_what_two_processes_without_it_do(out, statuses, name):
    check_same(out, name, "ddp")
