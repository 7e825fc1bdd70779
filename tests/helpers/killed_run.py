"""Trainings that are killed (SIGKILL) at chosen points and resumed, for `test_checkpoints.py`.

``killed_run.py BASE DATA OUT`` writes ``found.json``: for each case how its sessions ended. This process imports
but never trains; each session is a process forked from it, so it starts like a fresh one.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from transformers import Trainer, TrainerState

import repic_core.training.trainer
from helpers.families import varied
from helpers.forked import in_a_fork
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.training import checkpoints, grpo

SETTINGS = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_steps": 6,  # with 3 rows: two epochs
    "save_steps": 2,
    "save_total_limit": 1,
    "lora_dropout": 0.1,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "warmup_steps": 0,
    "report_to": "none",
    "disable_tqdm": True,
}
CASES = {  # for each session of a case: the function, and at which of its calls the session is killed
    "unbroken": [None],
    "in the first rollout": [("multinomial", 3), None],
    "in a rollout of the second epoch": [("multinomial", 5 * 6 + 2), None],
    "after the weights": [("optimizer", 2), None],
    "after the optimizer": [("rng", 2), None],
    "before the state": [("state", 2), None],
    "before the marker": [("marker", 2), None],
    "while the older one is deleted": [("delete", 1), None],
    "right after a save": [("saved", 2), None],
    "in the second epoch's second step": [("backward", 5), None],
    "in the last save": [("result", 1), None],
    "three times": [("multinomial", 3 * 6), ("marker", 1), ("optimizer", 2), None],
}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner, name, number, before=None):
    """Make the n-th call of a function kill the process."""
    stock, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            if before:
                before(*args, **kwargs)
            kill()
        return stock(*args, **kwargs)

    setattr(owner, name, counted)


def tear(trainer, folder, **_):
    """Leave the result's weights half written."""
    Path(folder, "adapter_model.safetensors").write_bytes(b"\x10")


def half_delete(folder, **_):
    (folder / "optimizer.pt").unlink(missing_ok=True)


def arm(point, number):
    if point == "multinomial":
        at_call(torch, "multinomial", number)
    elif point == "optimizer":
        at_call(Trainer, "_save_optimizer_and_scheduler", number)
    elif point == "rng":
        at_call(Trainer, "_save_rng_state", number)
    elif point == "state":
        at_call(TrainerState, "save_to_json", number)
    elif point == "marker":
        at_call(checkpoints, "mark_whole", number)
    elif point == "saved":
        at_call(checkpoints, "delete_older", number, before=checkpoints.delete_older)
    elif point == "backward":
        at_call(repic_core.training.trainer.SharedPrefixGRPOTrainer, "_compute_loss", number)
    elif point == "delete":
        shutil.rmtree = lambda folder, **_: (half_delete(folder), kill())
    elif point == "result":
        stock = Trainer.save_model

        def save(self, folder=None, **kwargs):
            if Path(folder).name == ".saving":
                tear(self, folder)
                kill()
            stock(self, folder, **kwargs)

        Trainer.save_model = save


def session(base, data, out, point, resume):
    """Train in this process."""
    if point:
        arm(*point)
    rows = read_rows(data / "rows.jsonl")[:3]
    settings = {"root": data, "rewards": [(varied, 1.0)], "resume": resume, **SETTINGS}
    if point == ("backward", 5):
        settings["save_steps"] = 3  # the checkpoint is between two epochs
    grpo.train(*load_model(base), rows, out, **settings)


def forked(base, data, out, point, resume, log):
    child = in_a_fork(log, partial(session, base, data, out, point, resume))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, "log": log.read_text()}


def main(base, data, out):
    base, data, out = Path(base), Path(data), Path(out)
    found = {}
    for number, (name, points) in enumerate(CASES.items()):
        folder = out / str(number)
        sessions = []
        for turn, point in enumerate(points):
            done = forked(base, data, folder, point, turn > 0, out / f"{number}_{turn}.log")
            done["whole"] = [p.name for p in checkpoints.checkpoints(folder) if not checkpoints.fault(p)]
            done["loadable"] = (folder / "adapter_config.json").is_file()
            sessions.append(done)
        weights = folder / "adapter_model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
        metrics = (folder / "metrics.csv").read_text() if (folder / "metrics.csv").is_file() else ""
        record = json.loads((folder / "run.json").read_text())
        found[name] = {"sessions": sessions, "weights": digest, "metrics": metrics, "record": record}
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
