"""Recipes: YAML files of training settings, read and checked, and the model prepared for what they tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from repic_core.io.extras import need
from repic_core.io.files import read_yaml
from repic_core.io.kit import kit_path
from repic_core.models.known_warnings import hide_known_warnings
from repic_core.models.loading import limit_pixels
from repic_core.rewards import PROFILES
from repic_core.training.suffixes import TIMES

# All linear layers of the language model's blocks and none of the vision tower (the paper, appendix C.2, tunes the
# language model alone). Upstream's trainer also adapts `lm_head`; TRL can't, because its log-probabilities use the
# head's own weight.
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class TuneArguments:
    """The kit's own settings in a recipe; the others are the trainer's arguments.

    Raises:
        ValueError: an unknown choice, or a 4-bit base that is to be fully tuned.
    """

    tune: str = field(default="lora", metadata={"help": "'lora' (adapter) or 'full', language model only"})
    lora_r: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    max_pixels: int | None = field(
        default=None, metadata={"help": "shrink larger images to this; None: the processor's own setting"}
    )
    min_pixels: int | None = field(
        default=None, metadata={"help": "enlarge smaller images to this; None: the processor's own setting"}
    )
    published_resize: bool = field(
        default=False,
        metadata={
            "help": "first resize photos as in the authors' training (`images.training_size`; GRPO only)"
        },
    )
    reward_profile: str = field(
        default="strict", metadata={"help": "'paper', 'covip' or 'strict' (GRPO only)"}
    )
    reward_min_length: int = field(default=100, metadata={"help": "characters (GRPO only)"})
    fluency_weight: float = field(
        default=0.0, metadata={"help": "weight of `fluency.fluency_reward`; needs beta above 0 (GRPO only)"}
    )
    question_weight: float = field(
        default=0.0,
        metadata={"help": "weight of `question_reward.question_reward`, for rows with questions (GRPO only)"},
    )
    question_reader: str = field(
        default="",
        metadata={
            "help": "who answers these questions, as MODULE:CLASS, such as "
            "repic_core.toyworld.questions:CaptionReader (GRPO only)"
        },
    )
    max_prompt_tokens: int | None = field(
        default=None,
        metadata={"help": "prompts with more tokens (texts and photos) are refused; None: the model's limit"},
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "load the base in 4 bits (bitsandbytes, CUDA); for LoRA only"}
    )
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "compute each prompt once per group; False: TRL's own trainer (GRPO only)"},
    )

    ict_suffix: str = field(
        default="row",
        metadata={
            "help": "when an ICT prompt's suffix is drawn: for each 'row', 'group' or 'completion' (GRPO)"
        },
    )

    def __post_init__(self) -> None:
        choices = {"tune": ("lora", "full"), "reward_profile": PROFILES, "ict_suffix": TIMES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be one of {', '.join(allowed)}")
        if self.published_resize and not self.shared_prefix:
            raise ValueError(
                "published_resize: needs shared_prefix: true, whose trainer opens the photos itself"
            )
        if self.load_in_4bit and self.tune != "lora":
            raise ValueError("load_in_4bit: a base in 4 bits can't be fully tuned; use tune: lora")


def recipe_path(recipe: str | Path) -> Path:
    """The YAML file of a recipe: a name in the package (``paper``, ``toy``, ...) or a path.

    Raises:
        ValueError: there is no such recipe or file; names the recipes in the package.
    """
    path = kit_path(recipe)
    if not path.suffix:
        path = _recipe_folder() / f"{recipe}.yaml"
    if not path.is_file():
        raise ValueError(
            f"{recipe}: no such recipe; use {', '.join(recipe_names())} or the path of a YAML file"
        )
    return path


def recipe_names() -> list[str]:
    """The names of the recipes in the package."""
    return sorted(path.stem for path in _recipe_folder().glob("*.yaml"))


def _recipe_folder() -> Path:
    return Path(str(resources.files("repic_core.training") / "recipes"))


def recipe_values(recipe: str | Path) -> dict[str, Any]:
    """A recipe's values, completed with those of the recipe that it names as its ``base:``, and so on.

    Raises:
        ValueError: as `recipe_path`; a file that holds no ``key: value`` lines; a base that leads back to itself.
    """
    seen: list[Path] = []
    values: dict[str, Any] = {}
    base: str | Path | None = recipe
    while base is not None:
        path = recipe_path(base)
        if path in seen:
            raise ValueError(f"{path}: its base leads back to itself")
        seen.append(path)
        own = read_yaml(path, ValueError)
        base = own.pop("base", None)
        values = {**own, **values}
    return values


def read_recipe(
    recipe: str | Path, config_class: type, overrides: Mapping[str, Any]
) -> tuple[TuneArguments, Any]:
    """A recipe with `overrides` as (`TuneArguments`, `config_class`).

    Its ``model`` is left out: only the command line uses it.

    Raises:
        ValueError: as `recipe_values`; a key that neither class knows, or a value that one refuses (it is named).
    """
    from transformers import HfArgumentParser

    hide_known_warnings()
    values = {**recipe_values(recipe), **overrides}
    values.pop("model", None)
    known = TuneArguments.__dataclass_fields__ | config_class.__dataclass_fields__
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{recipe_path(recipe)}: unknown key(s) {', '.join(unknown)}")
    return HfArgumentParser((TuneArguments, config_class)).parse_dict(values)


def need_packages(values: Mapping[str, Any]) -> None:
    """Check that the optional packages that a run with these values needs are installed.

    Raises:
        MissingExtra: DeepSpeed or W&B is asked for and missing.
    """
    if values.get("deepspeed"):
        need("deepspeed", extra="deepspeed")
    if "wandb" in (values.get("report_to") or ()):
        need("wandb", extra="wandb")


def prepare_tuning(model: Any, processor: Any, tune: TuneArguments) -> Any:
    """Freeze what is not tuned and limit the size of photos.

    Full tuning trains the language model (embeddings and head included) and leaves the vision tower frozen.

    Returns:
        The `LoraConfig` for the trainer, or None for full tuning.

    Raises:
        ValueError: the model already has an adapter; `min_pixels` is above `max_pixels`.
    """
    if hasattr(model, "peft_config"):
        raise ValueError(
            "the model already has an adapter: merge it (`merge_and_unload`), or load the model without it"
        )
    if (tune.min_pixels, tune.max_pixels) != (None, None):
        limit_pixels(processor.image_processor, tune.min_pixels, tune.max_pixels)
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
