"""GRPO from recipes in two CPU processes (gloo), for `sharded.py`, which says what the cases are.

``sharded_run.py OUT`` runs the cases of ``OUT/cases.json`` one after the other. ``OUT/NAME_RANK.log`` is what a
process said, ``OUT/NAME.safetensors`` the adapter that training ended with, gathered; ``OUT/found.json`` has the
exit statuses, null where a process was still there after `LIMIT` seconds. This process imports but never trains;
the two processes of a case are forked from it, so they start like fresh ones.

What libraries refuse on CPUs, and what helps: `forked.allow_fsdp`, `start_deepspeed`.
"""

import json
import os
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

os.environ["DS_ACCELERATOR"] = "cpu"  # before TRL imports DeepSpeed, where it is installed

import torch
import torch._inductor.compile_fx  # DeepSpeed imports it, for seconds
import trl.trainer.grpo_trainer
from safetensors.torch import save_file

import repic_core.training.run
from helpers import spread_recipe
from helpers.forked import allow_fsdp, forked, free_port
from helpers.places import BASE
from repic_core.models.loading import load_model
from repic_core.training import grpo
from repic_core.training.trainer import SharedPrefixGRPOTrainer

LIMIT = 120  # seconds for a case: a safety net


def start_deepspeed():
    """On CPUs accelerate 1.15 starts torch's process group but not DeepSpeed's, which ZeRO-3 needs to load a model.

    Nor is DeepSpeed's operator for shared memory compiled (a minute); training does not use it.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")


def make_up_captions():
    """In place of a vLLM server."""
    trl.trainer.grpo_trainer.VLLMGeneration = lambda *_, **__: SimpleNamespace(
        generation_kwargs={}, _place_features=None, sync_weights=None
    )
    SharedPrefixGRPOTrainer._generate_single_turn = spread_recipe.made_up


def draw_once():
    """Sampling takes one number of the random stream. ZeRO-3 takes more: it goes on until all are done."""
    stock = SharedPrefixGRPOTrainer._generate_single_turn

    def sampled(self, *args, **kwargs):
        state = torch.get_rng_state()
        found = stock(self, *args, **kwargs)
        torch.set_rng_state(state)
        torch.rand(1)
        return found

    SharedPrefixGRPOTrainer._generate_single_turn = sampled


def gathered(trainer):
    """The adapter's whole tensors, under PEFT's names."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole = nullcontext()
    if trainer.is_deepspeed_enabled:
        import deepspeed

        whole = deepspeed.zero.GatheredParameters(list(found.values()))
    with whole:
        full = {name: getattr(p, "full_tensor", lambda p=p: p)() for name, p in found.items()}
        return {name: p.detach().clone().contiguous() for name, p in full.items()}


def keep_the_end(path):
    """Write the adapter that training ended with to `path`."""
    save_result = repic_core.training.run.save_result

    def save(trainer):
        adapter = gathered(trainer)
        if trainer.args.process_index == 0:
            save_file(adapter, path)
        save_result(trainer)

    repic_core.training.run.save_result = save


def one_process(case, rank, end):
    if case["kind"] == "fsdp":
        allow_fsdp()
    if case["kind"] == "deepspeed":
        start_deepspeed()
    if case["captions"] == "made up":
        make_up_captions()
    elif case["captions"] == "one draw":
        draw_once()
    if case["fault"]:
        spread_recipe.fail(*case["fault"])
    keep_the_end(end)
    grpo.main([argument.replace("{RANK}", str(rank)) for argument in case["arguments"]])


def statuses(children):
    """The exit status of each; None for one that was there for too long and had to be killed."""
    found, end = [None] * len(children), time.monotonic() + LIMIT
    while None in found and time.monotonic() < end:
        for place, child in enumerate(children):
            if found[place] is None and (done := os.waitpid(child, os.WNOHANG))[0]:
                found[place] = os.waitstatus_to_exitcode(done[1])
        time.sleep(0.05)
    for child, status in zip(children, found, strict=True):
        if status is None:
            os.kill(child, 9)
            os.waitpid(child, 0)
    return found


def main(out):
    found, out = {}, Path(out)
    for name, case in json.loads((out / "cases.json").read_text()).items():
        port = free_port()
        end = out / f"{name}.safetensors"
        children = [
            forked(rank, port, out / f"{name}_{rank}.log", partial(one_process, case, rank, end))
            for rank in range(2)
        ]
        found[name] = statuses(children)
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    load_model(BASE)  # so that its modules are imported once
    main(*sys.argv[1:])
