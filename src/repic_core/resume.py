"""A resumed run that is exactly the unbroken one: what `transformers` and TRL do not restore."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from repic_core.checkpoints import begins_with_rollout

logger = logging.getLogger(__name__)


def mend_resume(trainer: Any, checkpoint: str) -> None:
    """Let `trainer` go on from `checkpoint` exactly; optimizer, scheduler and RNG are restored without this.

    - `transformers` 5.23 does not find the weights of a fully tuned Qwen2.5-VL in its own checkpoint: they are
      saved under the hub's names and looked for under the module's (it only warns). The model's loader does.
    - TRL 1.16's sampler of prompts draws a new order in each epoch, and after a resume begins with the first
      epoch's again. The orders that were used up are drawn first.
    """
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME
    from trl.trainer.utils import RepeatSampler

    model = trainer.accelerator.unwrap_model(trainer.model)

    def load_weights(folder: str, *_: Any, **__: Any) -> None:
        saved = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
        model.load_state_dict(saved.state_dict())

    if not hasattr(model, "peft_config"):
        trainer._load_from_checkpoint = load_weights

    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    if not begins_with_rollout(trainer, state.global_step):
        logger.warning(
            "%s lies between two uses of the same completions: the run goes on with new ones, and differs from an "
            "unbroken one; save_steps should be a multiple of the steps that share completions",
            checkpoint,
        )
    epochs = int(state.epoch + 1e-6)
    make_sampler = trainer._get_train_sampler

    def train_sampler(*args: Any, **kwargs: Any) -> Any:
        sampler = make_sampler(*args, **kwargs)
        for _ in range(epochs if isinstance(sampler, RepeatSampler) else 0):
            next(iter(sampler))
        return sampler

    trainer._get_train_sampler = train_sampler
