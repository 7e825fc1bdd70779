"""Processes forked from one that has imported everything, so that they start like fresh ones; two for gloo."""

import logging
import os
import socket
import traceback

from accelerate import PartialState
from accelerate.utils import DistributedType


def allow_fsdp():
    """accelerate 1.15 has FSDP2 for GPUs only, and drops its settings on CPUs: so these count as GPUs."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_a_fork(log, work):
    """The id of a process forked from this one that does `work`; what it says is in the file `log`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        logging.basicConfig(force=True)
        work()
        code = 0
    except SystemExit as error:
        print(error.code, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def forked(rank, port, log, work):
    """`in_a_fork` as one process of two."""

    def placed():
        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
        work()

    return in_a_fork(log, placed)
