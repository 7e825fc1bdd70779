"""Recipes in two CPU processes: `paper` under DDP, `7b-multinode` under FSDP2 with made-up captions; two nodes."""

import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from helpers.sharded import (
    adapter,
    case,
    check_killed_and_resumed,
    check_raised,
    check_same,
    check_whole_and_loaded,
    run_cases,
    said,
    sessions,
)
from repic_core.data.rows import read_rows, write_rows
from repic_core.training import checkpoints, run

KINDS = ("ddp", "fsdp2")
LIMIT = 300  # seconds; nodes that take longer hang
# All of the recipe but the captions: those that are made up have no log-probabilities.
NO_VLLM = {"config": "7b-multinode", "captions": "made up", "vllm_importance_sampling_correction": "false"}
PAPER = {"config": "paper", "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def statuses(data, out):
    rows = data / "rows.jsonl"
    asked = write_rows(data / "asked.jsonl", [row for row in read_rows(rows) if row.method == "yes_no"])
    # A group of eight in each process, as two nodes of 8 GPUs have it.
    no_vllm = NO_VLLM | {"per_device_train_batch_size": 8}
    apart = out / "node{RANK}"
    cases = sessions("ddp", rows, out, **PAPER)
    cases |= sessions("fsdp2", asked, out, kind="fsdp", **no_vllm)
    (out / "unsharded.yaml").write_text("base: 7b-multinode\nfsdp: null\nfsdp_config: null\n")
    cases["unsharded"] = case(asked, out / "unsharded", **{**no_vllm, "config": out / "unsharded.yaml"})
    cases["nodes_killed"] = case(rows, apart, fault=("kill", 2), **PAPER)
    cases["nodes_resumed"] = case(rows, apart, **PAPER, resume="true")
    return run_cases(out, cases)


@pytest.mark.parametrize("name", KINDS)
def test_the_whole_adapter_is_saved(out, statuses, name):
    check_whole_and_loaded(out, name, statuses)


@pytest.mark.parametrize("name", KINDS)
def test_a_process_that_is_killed_ends_the_run(out, statuses, name):
    check_killed_and_resumed(out, name, statuses)


@pytest.mark.parametrize("name", KINDS)
def test_a_reward_that_raises_ends_the_run(out, statuses, name):
    check_raised(out, name, statuses)


def test_fsdp2_trains_what_whole_copies_do(out, statuses):
    check_same(out, "fsdp2", "unsharded")


def nodes(rows, folders):
    """(exit status, all that was printed) of two nodes on this machine that resume, each with its output folder."""
    given = case(rows, out="{FOLDER}", **PAPER, resume="true")["arguments"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{found.getsockname()[1]}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--local_addr", "127.0.0.1"]
    started = []
    for rank, folder in enumerate(folders):
        own = [argument.replace("{FOLDER}", str(folder)) for argument in given]
        command = [*launch, "--node_rank", str(rank), "-m", "repic_core.training.grpo", *own]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            )
        )
    try:
        told = [node.communicate(timeout=LIMIT)[0] for node in started]
    finally:
        for node in started:
            node.kill()
    return [(node.returncode, text) for node, text in zip(started, told, strict=True)]


def same_as_unbroken(out, folder):
    one, other = adapter(out / "ddp"), adapter(folder)
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_nodes_with_a_folder_that_they_share(data, out, statuses, tmp_path):
    """Launched by torchrun; each resumes the checkpoint of the first, to the bits of the unbroken run."""
    shutil.copytree(out / "ddp_broken" / "checkpoint-2", tmp_path / "checkpoint-2")
    done = nodes(data / "rows.jsonl", [tmp_path, tmp_path])
    assert [status for status, _ in done] == [0, 0], done[0][1][-3000:]
    assert same_as_unbroken(out, tmp_path)


def test_nodes_with_folders_of_their_own_say_what_is_missing(out, statuses):
    """The first has the checkpoints; the second has only its random state in them."""
    assert statuses["nodes_killed"] == [1, -9] and statuses["nodes_resumed"] == [1, 1]
    assert checkpoints.last_whole(out / "node0").name == "checkpoint-2"
    assert [path.name for path in (out / "node1" / "checkpoint-2").iterdir()] == ["rng_state_1.pth"]
    message = (
        "repic_core.training.grpo: resume: process 0 finds checkpoint-2 in its output folder, process 1 finds "
        "no whole checkpoint in its own: give all nodes one output folder that they share, or copy the checkpoint "
        "into the folder of each"
    )
    assert [said(out, "nodes_resumed", rank).splitlines()[-1] for rank in range(2)] == [message] * 2


def test_nodes_with_folders_of_their_own_resume_copies(data, out, statuses, tmp_path):
    """The checkpoint of the first, copied over what the second has of it, is resumed to the bits."""
    folders = [tmp_path / f"node{rank}" for rank in range(2)]
    for rank, folder in enumerate(folders):
        shutil.copytree(out / f"node{rank}" / "checkpoint-2", folder / "checkpoint-2")
        shutil.copytree(out / "node0" / "checkpoint-2", folder / "checkpoint-2", dirs_exist_ok=True)
    done = nodes(data / "rows.jsonl", folders)
    assert [status for status, _ in done] == [0, 0], done[0][1][-3000:]
    assert same_as_unbroken(out, folders[0]) and not (folders[1] / "adapter_config.json").exists()


def test_a_process_without_its_random_state_says_so(tmp_path, caplog):
    """As on a node whose copy of the checkpoint was whole but not its own."""
    (tmp_path / "rng_state_0.pth").touch()
    for process in range(2):
        run._check_same_checkpoint(SimpleNamespace(world_size=2, process_index=process), tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: has no rng_state_1.pth, so process 1 draws other captions than in an unbroken run"
    ]
