"""The training monitor: it changes nothing in a run, stops one on demand, and shows escaped text."""

import os
import random
import re
import signal
import time
from html import unescape
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

from helpers.families import At, varied
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.training import grpo, monitor
from repic_core.training.monitor import training_monitor, undisturbed

SMALL = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "logging_steps": 1,
    "warmup_steps": 0,
    "learning_rate": 1e-3,
    "rewards": [(varied, 1.0)],
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture
def few(data):
    return read_rows(data / "rows.jsonl")[:3]


def trained(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def events(steps=100, processes=1, zero=True):
    """(args, state, control) as a trainer gives them."""
    return (
        SimpleNamespace(world_size=processes),
        SimpleNamespace(is_world_process_zero=zero, global_step=0, max_steps=steps),
        SimpleNamespace(should_training_stop=False, should_save=False, should_log=False),
    )


@pytest.fixture
def displayed(monkeypatch):
    """As in a notebook that a person runs; the bundles of each display, oldest first."""
    shown = []

    class Handle:
        def __init__(self, bundles):
            self.bundles = bundles

        def update(self, bundle, raw, metadata):
            self.bundles.append(bundle)

    def display(bundle, raw, display_id, metadata):
        assert "image/png" not in bundle or metadata["image/png"]["alt"] == bundle["text/plain"]
        shown.append([bundle])
        return Handle(shown[-1])

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(monitor, "in_notebook", lambda: True)
    return shown


@pytest.mark.parametrize(
    "settings",
    [
        {"tune": "lora", "lora_dropout": 0.1, "gradient_checkpointing": True},
        {"tune": "lora", "lora_dropout": 0.1, "shared_prefix": False},
        {"tune": "full", "beta": 0.04},
    ],
)
def test_a_run_with_captions_is_bit_identical(base, data, few, tmp_path, settings):
    """The sample captions by sampling, and also draws from all random generators."""
    settings = {**SMALL, **settings, "root": data, "max_steps": 3}
    plain = trained(grpo.train(*load_model(base), few, tmp_path / "plain", **settings))
    model, processor = load_model(base)
    captioner = Captioner(model, processor, system=None, max_new_tokens=4)
    reference = Concept(name="bo", image=Image.new("RGB", (56, 56), "red"), info="a toy")
    modes = []

    def sample():
        modes.append({module.training for module in model.modules()})
        torch.rand(3), numpy.random.rand(3), random.random()
        return captioner.caption(Image.new("RGB", (56, 56), "blue"), [reference], do_sample=True)

    watch = training_monitor(tmp_path / "watched" / "metrics.csv", sample, every=1, widgets=False)
    watched = grpo.train(model, processor, few, tmp_path / "watched", callbacks=[watch], **settings)
    assert [step for step, _ in watch.captions] == [0, 1, 2, 3]
    assert modes == [{False}] * 4 and not any("no caption" in text for _, text in watch.captions)
    assert equal(plain, trained(watched))


def test_modes_and_random_states_are_put_back():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1))
    model.train()
    model[1].eval()

    def draw():
        return torch.rand(1).item(), numpy.random.rand(), random.random()

    def seed():
        torch.manual_seed(1), numpy.random.seed(1), random.seed(1)

    seed()
    wanted = draw()
    seed()
    with pytest.raises(KeyError), undisturbed(model):  # also if the sample fails
        draw()
        assert not model.training and not model[0].training
        raise KeyError
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert draw() == wanted


@pytest.fixture(autouse=True)
def interruptible():
    """As in a notebook or a terminal; a process that was started in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("way", ["click", "interrupt"])
def test_a_stopped_run_is_resumed_from_its_checkpoint(base, data, few, tmp_path, capsys, displayed, way):
    settings = {**SMALL, "root": data, "max_steps": 4, "save_steps": 100, "logging_steps": 100}
    whole = grpo.train(*load_model(base), few, tmp_path / "whole", **settings)
    watch = training_monitor(tmp_path / "parts" / "metrics.csv", widgets=True)

    def press():
        if way == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            watch.button.click()

    callbacks = [At(2, press), watch]
    stopped = grpo.train(*load_model(base), few, tmp_path / "parts", callbacks=callbacks, **settings)
    metrics = (tmp_path / "parts" / "metrics.csv").read_text()
    assert metrics.startswith("step,") and [line.split(",")[0] for line in metrics.splitlines()[1:]] == ["2"]
    assert stopped.state.global_step == 2 and (tmp_path / "parts" / "checkpoint-2" / "optimizer.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert displayed[0][-1]["text/plain"] == (
        "Stopped after step 2 of 4. A checkpoint is saved: resume=True continues from it."
    )
    again = grpo.train(*load_model(base), few, tmp_path / "parts", resume=True, callbacks=[watch], **settings)
    assert again.state.global_step == 4 and equal(trained(whole), trained(again))


def test_the_second_interrupt_is_at_once():
    watch = training_monitor("none.csv", widgets=False)
    args, state, control = events()
    watch.on_train_begin(args, state, control)
    os.kill(os.getpid(), signal.SIGINT)
    assert watch.stopped
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_a_run_of_one_process_is_stopped_and_only_the_first_shows(capsys):
    watch = training_monitor("none.csv", sample=lambda: "<bo>", widgets=False)
    args, state, control = events(processes=2, zero=False)
    watch.on_train_begin(args, state, control, model=torch.nn.Linear(1, 1))
    watch.stop()
    state.global_step = 10
    watch.on_step_end(args, state, control, model=torch.nn.Linear(1, 1))
    watch.on_log(args, state, control, {"reward": 1.0})
    watch.on_train_end(args, state, control)
    assert not control.should_training_stop and not control.should_save and watch.captions == []
    assert capsys.readouterr().out == ""


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> and <bo>'


def test_the_live_display(displayed, tmp_path):
    """Text of captions and messages is escaped, names are coloured, the newest eight are kept, curves redrawn."""
    (tmp_path / "metrics.csv").write_text("step,reward,kl\n1,0.5,0.1\n")
    texts = iter([HOSTILE, *"abcdefgh"])
    concept = Concept(name="bo", image="bo.png")
    watch = training_monitor(tmp_path / "metrics.csv", lambda: next(texts), 1, [concept], widgets=True)
    args, state, control = events()
    model = torch.nn.Linear(1, 1)
    watch.on_train_begin(args, state, control, model=model)
    button, text = displayed
    assert "application/vnd.jupyter.widget-view+json" in button[0]
    html = text[-1]["text/html"]
    assert "<script" not in html and "<img" not in html
    # Names are put into spans, those in no database (here <script>) too; what is read is the text as it is.
    assert HOSTILE in unescape(re.sub(r"<[^>]*>", "", html))
    assert re.search(r'<span class="name" style="--concept: #\w+">&lt;bo&gt;</span>', html)
    for step in range(1, 9):
        state.global_step = step
        watch.on_step_end(args, state, control, model=model)
    assert re.findall(r"<li>step (\d): (\w)</li>", text[-1]["text/html"]) == list(
        zip("12345678", "abcdefgh", strict=True)
    )
    state.global_step = 10  # the sample raises, and training continues
    watch.sample = lambda: Image.open(tmp_path / "<b>gone.png")
    watch.on_step_end(args, state, control, model=model)
    html = text[-1]["text/html"]
    assert "<b>" not in html and "step 10: no caption ([Errno 2]" in html and "&lt;b&gt;gone.png" in html
    watch.on_log(args, state, control, {"reward": 0.5, "reward/iou": 0.25, "kl": 0.1, "loss": 2.0})
    assert "<p>step 10 of 100 | reward 0.5 | VLT 0.25 | KL 0.1</p>" in text[-1]["text/html"]
    (curves,) = displayed[2:]
    watch.on_log(args, state, control, {"reward": 0.5})
    assert len(curves) == 2
    watch.on_train_end(args, state, control)
    assert displayed[2] is curves and curves[-1]["image/png"][:4] == b"\x89PNG"
    assert button[-1] == {"text/plain": "Finished after step 10 of 100."}


def test_where_nobody_watches_it_grows_in_place_and_ends_with_the_curves(displayed, tmp_path, capsys):
    """As under papermill: one text, redrawn, and one figure at the end; no button, nothing printed."""
    (tmp_path / "metrics.csv").write_text("step,reward,kl\n1,0.5,0.1\n")
    watch = training_monitor(tmp_path / "metrics.csv", lambda: "a caption", every=1)
    args, state, control = events(steps=2)
    watch.on_train_begin(args, state, control, model=torch.nn.Linear(1, 1))
    for step in (1, 2):
        state.global_step = step
        watch.on_step_end(args, state, control, model=torch.nn.Linear(1, 1))
        watch.on_log(args, state, control, {"reward": 0.5})
    watch.on_train_end(args, state, control)
    text, curves = displayed
    assert "<p>step 2 of 2 | reward 0.5 | Finished after step 2 of 2.</p>" in text[-1]["text/html"]
    assert len(curves) == 1 and capsys.readouterr().out == ""


def test_lines_of_text_are_few(capsys):
    watch = training_monitor("none.csv", lambda: f"caption {state.global_step}", every=10, widgets=False)
    args, state, control = events(steps=1000)
    watch.on_train_begin(args, state, control, model=torch.nn.Linear(1, 1))
    for step in range(1, 1001):
        state.global_step = step
        watch.on_step_end(args, state, control, model=torch.nn.Linear(1, 1))
        watch.on_log(args, state, control, {"reward": 0.25, "kl": 0.001234, "completions/mean_length": 21.44})
    watch.on_log(args, state, control, {"train_runtime": 3.0})
    watch.on_train_end(args, state, control)
    lines = capsys.readouterr().out.splitlines()
    numbers = [line for line in lines if line.startswith("step")]
    assert 18 <= len(numbers) <= 21
    assert numbers[-1] == "step 1000 of 1000 | reward 0.25 | KL 0.00123 | tokens 21.4"
    assert lines[0] == "    step 0: caption 0" and "    step 1000: caption 1000" in lines
    assert lines[-1] == "Finished after step 1000 of 1000." and len(lines) <= 44


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="every: 0 must be 1 or more"):
        training_monitor("none.csv", every=0)
