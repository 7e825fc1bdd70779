"""GRPO with FSDP2 and the captions of a server in two CPU processes (gloo), for `test_vllm.py`.

``vllm_run.py OUT ARGUMENTS...`` trains to ``OUT/whole``, copies what was there before the third step to
``OUT/resumed`` and resumes it. ``OUT/FOLDER_RANK.log`` is what a process said. This process imports but never
trains; the two processes of a run are forked from it, so they start like fresh ones.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from helpers.forked import allow_fsdp, forked, free_port
from helpers.vllm_client import without_vllm
from repic_core.models.loading import load_model
from repic_core.training import grpo


def trained(arguments):
    without_vllm()
    allow_fsdp()
    grpo.main(arguments)


def run(folder, *arguments):
    """Train in two processes; ends this one with what they said if one fails."""
    port, group = free_port(), free_port()
    given = ["--output-dir", str(folder), "--vllm_group_port", str(group), *arguments]
    logs = [folder.parent / f"{folder.name}_{rank}.log" for rank in range(2)]
    children = [forked(rank, port, log, partial(trained, given)) for rank, log in enumerate(logs)]
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
    load_model(sys.argv[sys.argv.index("--model") + 1])
    main(Path(sys.argv[1]), *sys.argv[2:])
