"""Recipes: YAML files of settings, what they tune, and the model made ready for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from repic_core.models.known_warnings import hide_known_warnings

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
    max_prompt_tokens: int | None = field(
        default=None,
        metadata={
            "help": "longer prompts (texts and photos) are an error before training; None: the model's limit"
        },
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "the base in 4 bits (bitsandbytes, CUDA); for LoRA only"}
    )
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "compute each prompt once a group; False: TRL's own trainer (GRPO only)"},
    )

    def __post_init__(self) -> None:
        for name, choices in (("tune", ("lora", "full")), ("reward_profile", ("paper", "strict"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be one of {', '.join(choices)}")
        if self.load_in_4bit and self.tune != "lora":
            raise ValueError("load_in_4bit: a base in 4 bits can't be tuned itself; use tune: lora")


def recipe_path(recipe: str | Path) -> Path:
    """The YAML file of a recipe: a name in the package (``paper``, ``toy``, ...) or a path.

    Raises:
        ValueError: neither exists; names the recipes that there are.
    """
    path = Path(recipe)
    if not path.suffix:
        path = Path(str(resources.files("repic_core.training") / "recipes" / f"{recipe}.yaml"))
    if not path.is_file():
        raise ValueError(
            f"{recipe}: no such recipe; use {', '.join(recipe_names())} or the path of a YAML file"
        )
    return path


def recipe_names() -> list[str]:
    """The recipes in the package."""
    folder = Path(str(resources.files("repic_core.training") / "recipes"))
    return sorted(path.stem for path in folder.glob("*.yaml"))


def recipe_values(recipe: str | Path) -> dict[str, Any]:
    """A recipe's values; those of the recipe that it names as ``base:`` stand where it has none of its own.

    Raises:
        ValueError: as `recipe_path`; the file holds no ``key: value`` lines; recipes that are each other's base.
    """
    import yaml

    seen: list[Path] = []
    values: dict[str, Any] = {}
    following: str | Path | None = recipe
    while following is not None:
        path = recipe_path(following)
        if path in seen:
            raise ValueError(f"{path}: its base leads back to itself")
        seen.append(path)
        try:
            own = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(own, dict):
            raise ValueError(f"{path}: must hold lines of `key: value`")
        following = own.pop("base", None)
        values = {**own, **values}
    return values


def read_recipe(
    recipe: str | Path, config_class: type, overrides: Mapping[str, Any]
) -> tuple[TuneArguments, Any]:
    """A recipe with `overrides` as (`TuneArguments`, `config_class`); its ``model`` is for the command line.

    Raises:
        ValueError: as `recipe_values`, or a key that neither class knows or a value that it refuses; names it.
    """
    from transformers import HfArgumentParser

    hide_known_warnings()
    values = {**recipe_values(recipe), **overrides}
    values.pop("model", None)
    known = {f for c in (TuneArguments, config_class) for f in c.__dataclass_fields__}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{recipe_path(recipe)}: unknown key(s) {', '.join(unknown)}")
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
