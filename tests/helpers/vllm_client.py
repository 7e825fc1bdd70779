"""The trainer's side of vLLM rollouts where vLLM is not installed: TRL's own client, with gloo in place of NCCL."""

from types import SimpleNamespace

from trl.generation import vllm_client, vllm_generation
from trl.generation.vllm_client import VLLMClient

from helpers.gloo_weights import join, send


def without_vllm(patch=setattr):
    """Let TRL's client run without the package and without CUDA; `patch` is called like `setattr`."""

    def open_endpoint(info):
        # TRL clears two fields of the group at the end.
        return SimpleNamespace(gloo=join(info["master_port"], 0, info["world_size"]), group=SimpleNamespace())

    def send_all(iterator, group, src, post_iter_func):
        send(group.gloo, map(post_iter_func, iterator))

    init = VLLMClient.init_communicator
    # A name of a device without a number is not touched by TRL.
    patch(VLLMClient, "init_communicator", lambda client, device: init(client, "cuda"))
    vllm_client.get_ip = vllm_client.open_trainer_endpoint = vllm_client.packed_nccl_broadcast_producer = None
    for module, name, value in (
        (vllm_client, "is_vllm_available", lambda *_, **__: True),
        (vllm_generation, "is_vllm_available", lambda *_, **__: True),
        (vllm_client, "_HAS_STATEFUL_TRAINER_ENGINE", True),
        (vllm_client, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True),
        (vllm_client, "get_ip", lambda: "127.0.0.1"),
        (vllm_client, "open_trainer_endpoint", open_endpoint),
        (vllm_client, "packed_nccl_broadcast_producer", send_all),
    ):
        patch(module, name, value)
