"""What GRPO and SFT share: recipes, what is tuned, and the metrics file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from repic_core.files import write_text_atomic

# All linear layers of the language model's blocks and none of the vision tower (paper, appendix B.1). Upstream's
# trainer also adapts `lm_head`; TRL can't (its log-probabilities take the head's own weight).
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class TuneArguments:
    """The kit's own part of a recipe; the rest are the trainer's arguments."""

    tune: str = field(default="lora", metadata={"help": "'lora' (adapter) or 'full', language model only"})
    lora_r: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    max_pixels: int | None = field(
        default=None, metadata={"help": "shrink larger images to this; None: the processor's own setting"}
    )
    reward_profile: str = field(default="strict", metadata={"help": "'paper' or 'strict' (GRPO only)"})
    reward_min_length: int = field(default=100, metadata={"help": "characters (GRPO only)"})
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "compute each prompt once a group; False: TRL's own trainer (GRPO only)"},
    )

    def __post_init__(self) -> None:
        for name, choices in (("tune", ("lora", "full")), ("reward_profile", ("paper", "strict"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be one of {', '.join(choices)}")


def recipe_path(recipe: str | Path) -> Path:
    """The YAML file of a recipe: a name in the package (``paper``, ``toy``) or a path.

    Raises:
        ValueError: neither exists, or the file holds no ``key: value`` lines.
    """
    import yaml

    path = Path(recipe)
    if not path.suffix:
        path = Path(str(resources.files("repic_core") / "recipes" / f"{recipe}.yaml"))
    if not path.is_file():
        raise ValueError(f"{recipe}: no such recipe; use 'paper', 'toy' or the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold lines of `key: value`")
    return path


def read_recipe(
    recipe: str | Path, config_class: type, overrides: Mapping[str, Any]
) -> tuple[TuneArguments, Any]:
    """A recipe with `overrides` as (`TuneArguments`, `config_class`).

    Raises:
        ValueError: as `recipe_path`, or a key that neither class knows or a value that it refuses; names it.
    """
    import yaml
    from transformers import HfArgumentParser

    path = recipe_path(recipe)
    values = {**yaml.safe_load(path.read_text(encoding="utf-8")), **overrides}
    known = {f for c in (TuneArguments, config_class) for f in c.__dataclass_fields__}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{path}: unknown key(s) {', '.join(unknown)}")
    return HfArgumentParser((TuneArguments, config_class)).parse_dict(values)


def prepare_tuning(model: Any, processor: Any, tune: TuneArguments) -> Any:
    """Freeze what is not tuned, limit the images; the `LoraConfig` for the trainer, or None for full tuning.

    Full tuning trains the language model (embeddings and head included) and leaves the vision tower frozen.

    Raises:
        ValueError: the model has an adapter already.
    """
    if hasattr(model, "peft_config"):
        raise ValueError(
            "the model has an adapter already: merge it (`merge_and_unload`), or load the model without it"
        )
    if tune.max_pixels is not None:
        processor.image_processor.size["longest_edge"] = tune.max_pixels
    if tune.tune == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("visual" not in name)
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=tune.lora_r,
        lora_alpha=tune.lora_alpha,
        lora_dropout=tune.lora_dropout,
        target_modules=LORA_TARGETS,
    )


def metrics_callback(path: str | Path) -> Any:
    """A `TrainerCallback` that keeps what the trainer logs in a CSV, a row a logged step.

    A resumed run goes on with the rows up to the step that it resumes from.
    """
    from transformers import TrainerCallback

    path = Path(path)

    class MetricsCSV(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.rows: list[dict[str, Any]] = []
            if state.global_step and path.exists():
                with open(path, newline="", encoding="utf-8") as file:
                    self.rows = [r for r in csv.DictReader(file) if int(r["step"]) <= state.global_step]

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero or not logs or "train_runtime" in logs:
                return
            self.rows.append({"step": state.global_step, **logs})
            columns = list(dict.fromkeys(key for row in self.rows for key in row))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text_atomic(path, text.getvalue())

    return MetricsCSV()


def run_training(trainer: Any, resume: bool) -> None:
    """Train, from the newest ``checkpoint-N`` in the output folder if `resume` and there is one, and save."""
    from transformers.trainer_utils import get_last_checkpoint

    output_dir = trainer.args.output_dir
    checkpoint = get_last_checkpoint(output_dir) if resume and Path(output_dir).is_dir() else None
    if checkpoint:
        _mend_resume(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(output_dir)


def _mend_resume(trainer: Any, checkpoint: str) -> None:
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

    epochs = int(TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME)).epoch + 1e-6)
    make_sampler = trainer._get_train_sampler

    def train_sampler(*args: Any, **kwargs: Any) -> Any:
        sampler = make_sampler(*args, **kwargs)
        for _ in range(epochs if isinstance(sampler, RepeatSampler) else 0):
            next(iter(sampler))
        return sampler

    trainer._get_train_sampler = train_sampler
