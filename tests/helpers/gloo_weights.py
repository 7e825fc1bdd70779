"""Weights from a trainer to a vLLM server on CPUs: broadcast by gloo, where TRL and vLLM use NCCL.

Both sides import this file, each in its own environment, so it needs torch alone. The trainer is rank 0.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo, TCPStore

LIMIT = timedelta(seconds=60)


def join(port: int, rank: int, size: int) -> ProcessGroupGloo:
    """The group of `size` processes on this machine that meet at `port`; rank 0 opens it."""
    store = TCPStore("127.0.0.1", port, size, is_master=rank == 0, timeout=LIMIT)
    return ProcessGroupGloo(store, rank, size, LIMIT)


def _broadcast(group: ProcessGroupGloo, tensor: torch.Tensor) -> None:
    options = BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    group.broadcast([tensor], options).wait()


def send(group: ProcessGroupGloo, tensors: Iterable[torch.Tensor]) -> None:
    for tensor in tensors:
        _broadcast(group, tensor.detach().contiguous())


def receive(group: ProcessGroupGloo, announced: dict[str, list]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that TRL announced by `names`, `dtype_names` and `shapes`, in this order."""
    fields = (announced[field] for field in ("names", "dtype_names", "shapes"))
    for name, dtype, shape in zip(*fields, strict=True):
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        _broadcast(group, tensor)
        yield name, tensor
