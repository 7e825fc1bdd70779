"""GRPO with FSDP2 and the captions of a server in two CPU processes (gloo), for `test_vllm.py`.

``vllm_run.py OUT ARGUMENTS...`` trains to ``OUT/whole``, copies what was there before the third step to
``OUT/resumed`` and resumes it. ``OUT/FOLDER_RANK.log`` is what a process said. This process imports but never
trains; the two processes of a run are forked from it, so they start like fresh ones.
"""

import os
import shutil
import socket
import sys
import traceback
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType

from helpers.places import ROOT
from helpers.vllm_client import without_vllm
from repic_core.models.loading import load_model
from repic_core.training import grpo


def allow_fsdp():
    """accelerate 1.15 has FSDP2 for GPUs only, and drops its settings on CPUs: so these count as GPUs."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def forked(rank, port, log, arguments):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
        without_vllm()
        allow_fsdp()
        grpo.main(arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(folder, *arguments):
    """Train in two processes; ends this one with what they said if one fails."""
    port, group = free_port(), free_port()
    given = ["--output-dir", str(folder), "--vllm_group_port", str(group), *arguments]
    logs = [folder.parent / f"{folder.name}_{rank}.log" for rank in range(2)]
    children = [forked(rank, port, log, given) for rank, log in enumerate(logs)]
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit("".join(log.read_text(errors="replace")[-3000:] for log in logs))


def main(out, *arguments):
    run(out / "whole", *arguments)
    shutil.copytree(out / "whole", out / "resumed")
    shutil.rmtree(out / "resumed" / "checkpoint-3")
    (out / "resumed" / "adapter_model.safetensors").unlink()
    run(out / "resumed", *arguments, "--resume", "true")


if __name__ == "__main__":
    # So that its modules are imported once.
    load_model(ROOT / "assets" / "toy-base")
    main(Path(sys.argv[1]), *sys.argv[2:])
