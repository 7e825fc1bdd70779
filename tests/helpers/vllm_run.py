"""``vllm_run.py ARGUMENTS...``: `training.grpo` on CPUs with FSDP2 and the captions of a server."""

import os
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from helpers.vllm_client import without_vllm
from repic_core.training import grpo


def allow_fsdp():
    """accelerate 1.15 has FSDP2 for GPUs only, and drops its settings on CPUs: so these count as GPUs."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


if __name__ == "__main__":
    without_vllm()
    allow_fsdp()
    grpo.main(sys.argv[1:])
