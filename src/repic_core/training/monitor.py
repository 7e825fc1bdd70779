"""Watch a training as it runs (curves, numbers, captions of one photo) and end it after a step.

In a notebook with a person before it, the display is redrawn in place and has a *Stop* button; elsewhere
(papermill, a script) the same is printed as lines of text. A static figure of the curves stays in the notebook.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.display.caption_grid import concept_colors
from repic_core.display.charts import reward_curves
from repic_core.display.concept_editor import THEME, has_frontend, in_notebook
from repic_core.display.html import STYLE, color_names
from repic_core.tasks import TASKS
from repic_core.training.checkpoints import random_states, set_random_states

if TYPE_CHECKING:
    from repic_core.concepts.concept import Concept

LINES = 20  # of numbers, at most, that a run prints where there is no live display
CAPTIONS = 8  # newest captions in the live display
NUMBERS = {"reward": "reward", "loss": "loss", "kl": "KL", "completions/mean_length": "tokens"}


def training_monitor(
    metrics: str | Path,
    sample: Callable[[], str] | None = None,
    every: int = 10,
    references: Sequence[Concept] = (),
    widgets: bool | None = None,
) -> Any:
    """A `TrainerCallback` that shows a training as it runs; `Monitor` says what it does.

    Args:
        metrics: the CSV of `run.metrics_callback`, which must stand before this in the trainer's callbacks.
        sample: gives the caption of a fixed photo by the model as it is, such as
            ``partial(captioner.caption, photo, references)``. The model must be whole on the first process.
        every: steps between two captions; the first is taken before the first step.
        references: concepts whose names are coloured in the captions.
        widgets: the live display with the button; by default where `concept_editor.has_frontend`.
    """
    from transformers import TrainerCallback

    class TrainingMonitor(Monitor, TrainerCallback):
        """`Monitor` as the trainer takes it."""

    return TrainingMonitor(metrics, sample, every, references, widgets)


class Monitor:
    """What `training_monitor` does at each of the trainer's events; only the first process shows anything.

    `stop`, which the button calls, ends the training after the step and saves a checkpoint, from which
    ``resume=True`` goes on. The first interrupt (the notebook's, or Ctrl-C) does the same; the second interrupts at
    once. Only a run of one process can be stopped so.

    Captions leave the run as it would be without them: modes of modules and random states are put back.
    """

    def __init__(
        self,
        metrics: str | Path,
        sample: Callable[[], str] | None,
        every: int,
        references: Sequence[Concept],
        widgets: bool | None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every: {every} must be 1 or more")
        self.metrics, self.sample, self.every = Path(metrics), sample, every
        self.references, self.widgets = tuple(references), widgets
        self.button: Any = None
        self.stopped = False

    def stop(self, *_: Any) -> None:
        """End after this step."""
        self.stopped = True
        if self.button is not None:
            self.button.disabled, self.button.description = True, "Stopping after this step"

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.stopped, self.numbers, self.due, self.told = False, "", 0, 0
        self.captions: list[tuple[int, str]] = []
        self.handles: dict[str, Any] = {}
        if not state.is_world_process_zero:
            return
        self.live = has_frontend() if self.widgets is None else self.widgets and in_notebook()
        if args.world_size == 1:
            _on_interrupt(self._interrupted)
            if self.live:
                self._show_button()
        self._take_caption(state.global_step, model)
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.stopped and args.world_size == 1:
            control.should_training_stop = control.should_save = True
        if state.is_world_process_zero and state.global_step % self.every == 0:
            self._take_caption(state.global_step, model)
            if self.live:
                self._tell(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        self.numbers = _numbers(state, logs)
        self._tell(state)
        if self.live:
            self._show_curves()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped = self.stopped and state.global_step < state.max_steps
        end = f"{'Stopped after' if stopped else 'Ended with'} step {state.global_step} of {state.max_steps}."
        if stopped:
            end += " A checkpoint is saved: resume=True goes on from it."
        if "button" in self.handles:  # a saved notebook keeps the text, but not the widget
            self._show("button", {"text/plain": end})
            self.button.close()
        else:
            self.due = 0
            self._tell(state)
            print(end)
        if in_notebook():
            self._show_curves()

    def _interrupted(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.stop()

    def _take_caption(self, step: int, model: Any) -> None:
        if self.sample is None:
            return
        with undisturbed(model):
            try:
                caption = self.sample()
            except Exception as error:  # a photo that is gone, say: no reason to lose the training
                caption = f"no caption ({error})"
        self.captions.append((step, caption))

    def _tell(self, state: Any) -> None:
        """Show numbers and captions, or print what is new of them every so many steps."""
        if self.live:
            lines = [
                self.numbers,
                *(f"step {step}: {caption}" for step, caption in self.captions[-CAPTIONS:]),
            ]
            self._show("text", {"text/plain": "\n".join(lines).strip(), "text/html": self._html()})
            return
        if state.global_step < self.due:
            return
        self.due = state.global_step + math.ceil(state.max_steps / LINES)
        if self.numbers:
            print(self.numbers)
            self.numbers = ""
        for step, caption in self.captions[self.told :][-1:]:
            print(f"    step {step}: {caption}")
        self.told = len(self.captions)

    def _html(self) -> str:
        tags = [concept.tag for concept in self.references]
        items = [
            f"<li>step {step}: {color_names(caption, tags, concept_colors(tags), self.references)[0]}</li>"
            for step, caption in self.captions[-CAPTIONS:]
        ]
        return (
            f'{STYLE}<div class="repic" {THEME}><p>{escape(self.numbers)}</p><ul>{"".join(items)}</ul></div>'
        )

    def _show_button(self) -> None:
        from ipywidgets import Button

        self.button = Button(description="Stop after this step", tooltip="Ends after the step and saves")
        self.button.on_click(self.stop)
        _hear_while_busy(self.button, self.stop)
        self._show("button", self.button._repr_mimebundle_())

    def _show_curves(self) -> None:
        try:
            figure = reward_curves(self.metrics)
        except (OSError, ValueError):  # nothing logged yet that can be drawn
            return
        self._show("curves", {"image/png": figure._repr_png_(), "text/plain": f"curves of {self.metrics}"})

    def _show(self, name: str, bundle: Mapping[str, Any]) -> None:
        """Display, or replace what was displayed as `name`."""
        from IPython.display import display

        if name in self.handles:
            self.handles[name].update(bundle, raw=True)
        else:
            self.handles[name] = display(bundle, raw=True, display_id=True)


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Within: `model` in eval mode. Afterwards each module's mode and the random states (torch on CPU and CUDA,
    NumPy, Python) are what they were."""
    modes = [(module, module.training) for module in model.modules()]
    states = random_states()
    try:
        model.eval()
        yield
    finally:
        set_random_states(states)
        for module, training in modes:
            module.training = training


def _numbers(state: Any, logs: Mapping[str, Any]) -> str:
    """``step 5 of 80 | reward 0.63 | OCT 0.9 | ... | KL 0.0012 | tokens 21.5``"""
    named = [(NUMBERS[name], logs[name]) for name in NUMBERS if name in logs]
    if "reward" in logs:
        named = [(name, value) for name, value in named if name != "loss"]
        named[1:1] = [
            (task.label, logs[f"reward/{method}"])
            for method, task in TASKS.items()
            if f"reward/{method}" in logs
        ]
    numbers = " | ".join(f"{name} {float(value):.3g}" for name, value in named)
    return f"step {state.global_step} of {state.max_steps} | {numbers}"


def _on_interrupt(handler: Callable[..., None]) -> None:
    """Let `handler` have the next interrupt, where Python's own handler would have it (in the main thread)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, handler)
        except ValueError:  # another thread than the main one
            return


def _hear_while_busy(button: Any, clicked: Callable[[], None]) -> None:
    """Call `clicked` at a click although a cell runs.

    ipykernel hands a widget's messages to the main thread, which is busy until the cell ends. Before, ipykernel 7.4
    asks the comm, in the thread that receives messages, which subshell a message is for: there it is read. (Private
    there; without it a click is heard when the cell has ended, and the interrupt is what stops.)
    """
    route = getattr(button.comm, "_reply_subshell_for", None)
    if route is None:
        return

    def read(data: Any, default: Any) -> Any:
        if isinstance(data, dict) and data.get("content") == {"event": "click"}:
            clicked()
        return route(data, default)

    button.comm._reply_subshell_for = read
