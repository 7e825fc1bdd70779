"""GRPO with captions from a vLLM server: TRL's client against a stub, always; against vLLM where there is one."""

import socket

import pytest

from helpers.families import save_family, varied
from helpers.stub_server import Stub, serving
from helpers.vllm_client import without_vllm
from repic_core.data.rows import read_rows
from repic_core.io.images import open_image
from repic_core.models.loading import load_model
from repic_core.training import grpo

STEPS = 3
SETTINGS = {
    "use_vllm": True,
    "vllm_mode": "server",
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
    "vllm_server_timeout": 5,
}
# Nats; in float32 both sides agree to 1e-5.
BOUND = 1e-4


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_family("qwen2_5_vl", tmp_path_factory.mktemp("base"))


def trained(base, data, out, address, **settings):
    """The trainer after `STEPS` steps with the captions of the server at `address`."""
    model, processor = load_model(base)
    more = {"vllm_server_base_url": address, "vllm_group_port": free_port(), **SETTINGS, **settings}
    rows = read_rows(data / "rows.jsonl")
    return grpo.train(model, processor, rows, out, "toy", root=data, rewards=[(varied, 1.0)], **more)


def differences(trainer):
    """The greatest difference of the server's and the trainer's log-probability of a token, for each step."""
    found = [entry.get("sampling/sampling_logp_difference/max") for entry in trainer.state.log_history]
    return [value for value in found if value is not None]


def test_the_stub_gets_prompts_photos_and_weights(base, data, tmp_path, monkeypatch):
    without_vllm(monkeypatch.setattr)
    stub = Stub(base)
    with serving(stub) as address:
        trainer = trained(base, data, tmp_path, address)
    assert trainer.shares_prefix and trainer.state.global_step == STEPS
    updates = ("start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache")
    assert [stub.calls[f"/{name}"] for name in updates] == [STEPS] * 4
    whole = {name: (p.dtype, tuple(p.shape)) for name, p in load_model(base)[0].named_parameters()}
    assert stub.announced == [whole] * STEPS
    assert len(stub.requests) == 2 * STEPS  # once a group
    assert {request["sampling_params"]["n"] for request in stub.requests} == {4}
    paths = {path for row in read_rows(data / "rows.jsonl") for path in row.images}
    known = {open_image(data / path).tobytes() for path in paths}
    assert len(stub.photos) == 2 * STEPS
    assert {photo.convert("RGB").tobytes() for photos in stub.photos for photo in photos} <= known
    assert len(differences(trainer)) == STEPS and max(differences(trainer)) < BOUND


def test_weights_that_are_not_sent_are_seen(base, data, tmp_path, monkeypatch):
    without_vllm(monkeypatch.setattr)
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration.sync_weights", lambda self: None)
    with serving(Stub(base)) as address:
        found = differences(trained(base, data, tmp_path, address))
    assert found[0] < BOUND and min(found[1:]) > 100 * BOUND
