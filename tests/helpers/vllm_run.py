"""``vllm_run.py ARGUMENTS...``: `training.grpo` on CPUs with captions from a server, sharded by FSDP2 if asked for."""

import sys

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from helpers.vllm_client import without_vllm
from repic_core.training import grpo


def fsdp_on_cpus():
    """Let accelerate, which does so on accelerators only, shard in processes on CPUs."""
    init = AcceleratorState.__init__

    def init_with_fsdp(state, *args, fsdp_plugin=None, **kwargs):
        init(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = init_with_fsdp


if __name__ == "__main__":
    without_vllm()
    fsdp_on_cpus()
    grpo.main(sys.argv[1:])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
