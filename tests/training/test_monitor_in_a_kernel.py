"""The training monitor in a real notebook kernel: it is stopped while the cell runs, and falls back to text."""

import re

import pytest
from jupyter_client.manager import start_new_kernel

CELL = """
import time
from types import SimpleNamespace as N
from repic_core.training.monitor import training_monitor
open("metrics.csv", "w").write("step,reward\\n1,0.5\\n")
args = N(world_size=1)
state = N(is_world_process_zero=True, global_step=0, max_steps=300)
control = N(should_training_stop=False, should_save=False)
watch = training_monitor("metrics.csv")
watch.on_train_begin(args, state, control)
print("comm", watch.button and watch.button.comm.comm_id, flush=True)
while state.global_step < steps and not control.should_training_stop:
    time.sleep(0.1)
    state.global_step += 1
    watch.on_step_end(args, state, control)
watch.on_train_end(args, state, control)
print("ended", control.should_training_stop, control.should_save, flush=True)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path_factory.mktemp("kernel")))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(client, code, during=lambda comm: None, **options):
    """What a cell prints, and the last content of each of its displays. `during` is called while it runs."""
    asked = client.execute(code, **options)
    printed, shown = "", {}
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream" and content["name"] == "stdout":
            printed += content["text"]
            if "comm" in content["text"]:
                during(content["text"].split()[-1])
        elif kind in ("display_data", "update_display_data"):
            shown[content["transient"]["display_id"]] = content["data"]
        elif kind == "error":
            raise AssertionError("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            return printed, list(shown.values())


@pytest.mark.parametrize("way", ["click", "interrupt"])
def test_a_real_kernel_hears_it_while_the_cell_runs(kernel, way):
    """The click is sent as a frontend sends it. Without it the cell would run for 300 steps and fail this test."""
    manager, client = kernel

    def press(comm):
        if way == "interrupt":
            manager.interrupt_kernel()
            return
        content = {"comm_id": comm, "data": {"method": "custom", "content": {"event": "click"}}}
        client.shell_channel.send(client.session.msg("comm_msg", content))

    printed, shown = run_cell(client, "steps = 300" + CELL, press)
    assert printed.splitlines()[-1] == "ended True True"
    assert re.match(r"Stopped after step \d+ of 300", shown[0]["text/plain"])
    assert any("image/png" in bundle for bundle in shown)
    assert not any("application/vnd.jupyter.widget-view+json" in bundle for bundle in shown)


def test_a_runner_without_a_person_gets_text_and_a_figure(kernel):
    """papermill and nbconvert execute cells with ``allow_stdin`` off."""
    printed, shown = run_cell(kernel[1], "steps = 2" + CELL, allow_stdin=False)
    assert printed.splitlines() == ["comm None", "ended False False"]
    text, curves = shown
    assert text["text/plain"] == "Finished after step 2 of 300."
    assert list(curves) == ["image/png", "text/plain"]
