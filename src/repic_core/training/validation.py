"""Validation while training: held-out captions every few steps, the best step kept, an early end.

The score is that of the result, not of the training: F1 of the names in greedy captions of rows that are not
trained on, counted as by the protocol ``span``. Validating does not change the run: random states and modes are put
back.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.names import find_names
from repic_core.concepts.tags import key
from repic_core.data.rows import TrainingExample
from repic_core.io.files import read_json, replaced, write_json_atomic
from repic_core.io.paths import find_file
from repic_core.prompts import task_messages
from repic_core.tasks import ICT
from repic_core.training.monitor import undisturbed

logger = logging.getLogger(__name__)

# In the output folder: scores.json, and best.safetensors with the weights of the best step.
FOLDER = "validation"


@dataclass(frozen=True)
class Validation:
    """What a training is validated on, and when it ends early.

    Args:
        rows: held-out rows; those of single and multi ICT are captioned, the others are left out.
        root: what the rows' image paths are relative to.
        every: optimizer steps between two validations; the last step is validated, too.
        patience: end the training after so many validations without a better score; 0: never.

    Raises:
        ValueError: there is no ICT row, or a number is too small.
    """

    rows: Sequence[TrainingExample]
    root: str | Path = "."
    every: int = 50
    patience: int = 0
    batch_size: int = 8
    max_new_tokens: int = 256
    asked: tuple[TrainingExample, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", tuple(row for row in self.rows if row.method in ICT))
        if not self.asked:
            raise ValueError(f"validation rows: none is of {' or '.join(ICT)}, whose captions are scored")
        if self.every < 1 or self.patience < 0:
            raise ValueError("validation: give at least 1 step between validations, and no negative patience")


def names_f1(captions: Sequence[str], rows: Sequence[TrainingExample]) -> float:
    """F1 of the names in `captions` of ICT `rows`, counted over all of them; wrong are the prompt's other names.

    >>> tags = ["<bo>", "<mia>"]
    >>> row = TrainingExample(("a.jpg",), "Caption it.", tags, "yes_no_name_multi", (*tags, "<zoe>"))
    >>> names_f1(["<bo> and Zoe play."], [row])
    0.5
    """
    found = right = shown = 0
    for caption, row in zip(captions, rows, strict=True):
        tags = [row.solution] if isinstance(row.solution, str) else list(row.solution)
        known = list(dict.fromkeys((*tags, *row.candidates)))
        said = {key(tag) for *_, tag in find_names(caption, known)}
        true = set(map(key, tags))
        found, right, shown = found + len(said), right + len(said & true), shown + len(true)
    return 2 * right / (found + shown)


def validation_callback(validation: Validation, processor: Any, output_dir: str | Path) -> Any:
    """A `TrainerCallback` that validates; `run.run_training` calls its `restore` before the result is saved."""
    from transformers import TrainerCallback

    class BestStep(_BestStep, TrainerCallback):
        """`_BestStep` in the form that the trainer takes."""

    return BestStep(validation, processor, Path(output_dir) / FOLDER)


class _BestStep:
    """Scores by step, and the weights of the best step; every process of a run computes the same.

    Attributes:
        scores: score by step; step 0 is the model before the training, which is never the result.
        best: the step with the highest score, the earliest of equal ones; None before the first.
    """

    def __init__(self, validation: Validation, processor: Any, folder: Path) -> None:
        self.validation, self.processor, self.folder = validation, processor, folder
        self.scores: dict[int, float] = {}
        self.best: int | None = None
        self.weights: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.deepspeed or args.fsdp:
            raise ValueError("validation: needs the whole model in each process, so no DeepSpeed and no FSDP")
        if state.global_step:
            self._read(state.global_step)
            return
        self.scores, self.best = {0: self._score(model)}, None
        (self.folder / "best.safetensors").unlink(missing_ok=True)  # of another run in this folder
        self._write(state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self.validation.every == 0:
            self._validate(state, model)
            late = [step for step in self.scores if self.best is not None and step > self.best]
            if self.validation.patience and len(late) >= self.validation.patience:
                control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step not in self.scores:
            self._validate(state, model)

    def restore(self, model: Any) -> None:
        """Put the weights of the best step into `model`."""
        import torch

        if self.best is None:
            self._read(None)
        if self.best is None:
            return
        own = dict(_tuned(model))
        with torch.no_grad():
            for name, tensor in self.weights.items():
                own[name].copy_(tensor)
        logger.info("validation: F1 %.3f at step %s, which is the result", self.scores[self.best], self.best)

    def summary(self) -> dict[str, Any]:
        """The scores and the best step, for ``run.json``."""
        return {"rows": len(self.validation.asked), "names_f1": self.scores, "best_step": self.best}

    def _validate(self, state: Any, model: Any) -> None:
        score = self.scores[state.global_step] = self._score(model)
        state.log_history.append({"step": state.global_step, "validation_names_f1": score})
        if self.best is None or score > self.scores[self.best]:
            self.best = state.global_step
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in _tuned(model)}
            self._write(state, weights=True)
        self._write(state)

    def _score(self, model: Any) -> float:
        asked, root, rng = self.validation.asked, Path(self.validation.root), random.Random(0)
        conversations = [
            task_messages([find_file(root, image) for image in row.images], row.problem, row.method, rng)
            for row in asked
        ]
        with undisturbed(model):
            captioner = Captioner(
                _unwrapped(model),
                self.processor,
                system=None,
                batch_size=self.validation.batch_size,
                max_new_tokens=self.validation.max_new_tokens,
            )
            return names_f1(captioner.answer_many(conversations), asked)

    def _write(self, state: Any, weights: bool = False) -> None:
        from safetensors.torch import save

        if not state.is_world_process_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if weights:
            about = {"step": str(self.best), "score": repr(self.scores[self.best])}
            with replaced(self.folder / "best.safetensors") as file:
                file.write(save(self.weights, metadata=about))
        write_json_atomic(self.folder / "scores.json", {str(step): s for step, s in self.scores.items()})

    def _read(self, step: int | None) -> None:
        """What earlier sessions of this run found up to `step` (None: all), and the best weights of all of it."""
        from safetensors import safe_open

        try:
            found = read_json(self.folder / "scores.json", ValueError)
        except ValueError as error:
            raise ValueError(
                f"{error}; a run that was begun without validation is resumed without it"
            ) from None
        self.scores = {int(n): float(score) for n, score in found.items() if step is None or int(n) <= step}
        best = self.folder / "best.safetensors"
        if best.is_file():
            with safe_open(best, "pt") as file:
                about = file.metadata()
                self.weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.best = int(about["step"])
            self.scores[self.best] = float(about["score"])


def _tuned(model: Any) -> list[tuple[str, Any]]:
    """The tensors that are trained, by name."""
    return [(name, tensor) for name, tensor in _unwrapped(model).named_parameters() if tensor.requires_grad]


def _unwrapped(model: Any) -> Any:
    """The model without the wrapper of several processes."""
    while hasattr(model, "module"):
        model = model.module
    return model
