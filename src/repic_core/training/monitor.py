"""Watch a training as it runs (curves, numbers, captions of one photo) and stop it after a step.

In a notebook the display is redrawn in place; where a person runs it there are a *Stop* button and growing curves.
Elsewhere (a script) the same is printed as lines of text. The last display stays in the notebook: numbers, captions
and a figure of the curves.
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
from repic_core.display.cards import THEME
from repic_core.display.charts import reward_curves
from repic_core.display.concept_editor import has_frontend, in_notebook
from repic_core.display.html import STYLE, color_names
from repic_core.models.parts import eval_mode
from repic_core.tasks import TASKS
from repic_core.training.checkpoints import random_states, set_random_states

if TYPE_CHECKING:
    from repic_core.concepts.concept import Concept

LINES = 20  # of numbers, at most, that a run prints without a live display
CAPTIONS = 8  # how many of the newest captions the live display shows
# The logged values that are shown, with the names that they are shown under.
NUMBERS = {"reward": "reward", "loss": "loss", "kl": "KL", "completions/mean_length": "tokens"}


def training_monitor(
    metrics: str | Path,
    sample: Callable[[], str] | None = None,
    every: int = 10,
    references: Sequence[Concept] = (),
    widgets: bool | None = None,
) -> Any:
    """A `TrainerCallback` that shows a training as it runs; `Monitor` describes what it does.

    Args:
        metrics: the CSV of `run.metrics_callback`, which must come before this in the trainer's callbacks.
        sample: returns a caption of a fixed photo by the model in its present state, such as
            ``partial(captioner.caption, photo, references)``. The model must be whole on the first process.
        every: steps between two captions; the first is taken before the first step.
        references: concepts whose names are coloured in the captions.
        widgets: whether to have the button, which `concept_editor.has_frontend` says by default; False: only
            lines of text.

    Raises:
        ValueError: `every` is less than 1.
    """
    from transformers import TrainerCallback

    class TrainingMonitor(Monitor, TrainerCallback):
        """`Monitor` in the form that the trainer takes."""

    return TrainingMonitor(metrics, sample, every, references, widgets)


class Monitor:
    """What `training_monitor` does at each of the trainer's events; only the first process shows anything.

    `stop`, which the button calls, stops the training after the current step and saves a checkpoint, from which
    ``resume=True`` continues. The first interrupt (the notebook's, or Ctrl-C) does the same; the second interrupts
    at once. Only a run of one process can be stopped in this way.

    Taking captions does not change the run: the modules' modes and the random states are put back.
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
        self.metrics = Path(metrics)
        self.sample = sample
        self.every = every
        self.references = tuple(references)
        self.widgets = widgets
        self.button: Any = None
        self.stopped = False

    def stop(self, *_: Any) -> None:
        """Stop after this step."""
        self.stopped = True
        if self.button is not None:
            self.button.disabled = True
            self.button.description = "Stopping after this step"

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.stopped = False
        self.numbers = ""
        self.captions: list[tuple[int, str]] = []
        self.printed = 0  # how many of the captions were printed
        self.due = 0  # the step from which lines are printed again
        self.handles: dict[str, Any] = {}
        if not state.is_world_process_zero:
            return
        self.live = in_notebook() and self.widgets is not False
        self.watched = self.live and (self.widgets or has_frontend())
        if args.world_size == 1:
            _on_interrupt(self._interrupted)
            if self.watched:
                self._show_button()
        self._take_caption(state.global_step, model)
        self._show_or_print(state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.stopped and args.world_size == 1:
            # Also logged, so that a run that is stopped early has numbers.
            control.should_training_stop = control.should_save = control.should_log = True
        if state.global_step >= state.max_steps:
            # A run of fewer steps than are between two logs has numbers, too.
            control.should_log = True
        if state.is_world_process_zero and state.global_step % self.every == 0:
            self._take_caption(state.global_step, model)
            if self.live:
                self._show_or_print(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        self.numbers = _numbers(state, logs)
        self._show_or_print(state)
        if self.watched:
            self._show_curves()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped = self.stopped and state.global_step < state.max_steps
        end = f"{'Stopped' if stopped else 'Finished'} after step {state.global_step} of {state.max_steps}."
        if stopped:
            end += " A checkpoint is saved: resume=True continues from it."
        if "button" in self.handles:  # the text replaces the widget, which a saved notebook would not keep
            self._show("button", {"text/plain": end})
            self.button.close()
        elif self.live:
            self.numbers = f"{self.numbers} | {end}" if self.numbers else end
            self._show_or_print(state)
        else:
            self.due = 0
            self._show_or_print(state)
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
            except Exception as error:  # a missing photo, for example, is no reason to lose the training
                caption = f"no caption ({error})"
        self.captions.append((step, caption))

    def _show_or_print(self, state: Any) -> None:
        """Show numbers and captions in the live display, or print the new ones at most `LINES` times a run."""
        if self.live:
            captions = [f"step {step}: {caption}" for step, caption in self.captions[-CAPTIONS:]]
            text = "\n".join([self.numbers, *captions]).strip()
            self._show("text", {"text/plain": text, "text/html": self._html()})
            return
        if state.global_step < self.due:
            return
        self.due = state.global_step + math.ceil(state.max_steps / LINES)
        if self.numbers:
            print(self.numbers)
            self.numbers = ""
        if len(self.captions) > self.printed:
            step, caption = self.captions[-1]
            print(f"    step {step}: {caption}")
        self.printed = len(self.captions)

    def _html(self) -> str:
        tags = [concept.tag for concept in self.references]
        items = [
            f"<li>step {step}: {color_names(caption, tags, concept_colors(tags), self.references)[0]}</li>"
            for step, caption in self.captions[-CAPTIONS:]
        ]
        content = f"<p>{escape(self.numbers)}</p><ul>{''.join(items)}</ul>"
        return f'{STYLE}<div class="repic" {THEME}>{content}</div>'

    def _show_button(self) -> None:
        from ipywidgets import Button

        self.button = Button(
            description="Stop after this step", tooltip="Stops after this step and saves a checkpoint"
        )
        self.button.on_click(self.stop)
        _receive_while_busy(self.button, self.stop)
        self._show("button", self.button._repr_mimebundle_())

    def _show_curves(self) -> None:
        try:
            figure = reward_curves(self.metrics)
        except (OSError, ValueError):  # nothing that can be drawn was logged yet
            return
        png, described = figure._repr_png_()
        self._show("curves", {"image/png": png, "text/plain": figure.alt}, {"image/png": described})

    def _show(self, name: str, bundle: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Display `bundle`, or let it replace what was displayed as `name`."""
        from IPython.display import display

        if name in self.handles:
            self.handles[name].update(bundle, metadata=metadata, raw=True)
        else:
            self.handles[name] = display(bundle, metadata=metadata, raw=True, display_id=True)


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """`eval_mode` that also restores the random states (torch on CPU and CUDA, NumPy, Python)."""
    states = random_states()
    try:
        with eval_mode(model):
            yield
    finally:
        set_random_states(states)


def _numbers(state: Any, logs: Mapping[str, Any]) -> str:
    """``step 5 of 80 | reward 0.63 | OCT 0.9 | ... | KL 0.0012 | tokens 21.5``"""
    shown: dict[str, Any] = {}
    for name, label in NUMBERS.items():
        if name not in logs or (name == "loss" and "reward" in logs):  # GRPO shows its reward instead
            continue
        shown[label] = logs[name]
        if name == "reward":
            rewards = {task.label: logs.get(f"reward/{method}") for method, task in TASKS.items()}
            shown |= {label: value for label, value in rewards.items() if value is not None}
    numbers = " | ".join(f"{label} {float(value):.3g}" for label, value in shown.items())
    return f"step {state.global_step} of {state.max_steps} | {numbers}"


def _on_interrupt(handler: Callable[..., None]) -> None:
    """Let `handler` take the next interrupt, if Python's own handler would otherwise take it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, handler)
        except ValueError:  # only the main thread can set a handler
            return


def _receive_while_busy(button: Any, clicked: Callable[[], None]) -> None:
    """Call `clicked` on a click even while a cell runs.

    ipykernel gives a widget's messages to the main thread, which is busy until the cell ends. But before that,
    ipykernel 7.4 asks the comm, in the thread that receives messages, which subshell a message is for; the click is
    read there. This uses a private name of ipykernel's. Without it a click counts only after the cell has ended,
    and the interrupt is the way to stop.
    """
    route = getattr(button.comm, "_reply_subshell_for", None)
    if route is None:
        return

    def read(data: Any, default: Any) -> Any:
        if isinstance(data, dict) and data.get("content") == {"event": "click"}:
            clicked()
        return route(data, default)

    button.comm._reply_subshell_for = read
