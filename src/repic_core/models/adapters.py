"""Put an adapter on a model, also one from another trainer or from before transformers 4.52 renamed the layers.

Which layers an adapter changes is read from the names of its tensors, mapped to the layers' present names. Its
``target_modules`` say the same, but in the names of the model that it was trained on: a regex that left the vision
tower out may now reach it, or nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# Beginnings of layers' names before transformers 4.52, or in the model without its head, and their present ones.
OLD_NAMES = {
    r"^(?=(visual|language_model)\.)": "model.",
    r"^visual$": "model.visual",
    r"^model(?!\.(language_model|visual))(?=\.)": "model.language_model",
}
MISFIT = "its weights are not the ones that its configuration needs in this model"
VB_LORA_BANK = "vblora_vector_bank"  # saved once, shared by all layers
PREFIX = "base_model.model."  # of each tensor, from PEFT
# What follows a layer's name in tensors that are no adapter's: a layer that was trained itself, tokens that were.
NO_ADAPTER = re.compile(r"(weight|bias)$|(base_layer|token_adapter|modules_to_save)\.|trainable_tokens_")


def with_adapter(model: Any, folder: str | Path) -> Any:
    """`model` with the adapter in `folder`; the number of layers that it changes is logged.

    Raises:
        ValueError: a tensor of the file that has no place in this model, or one that the configuration needs and
            the file does not have; names the first.
        RuntimeError: tensors of other sizes.
    """
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel

    tensors = _tensor_names(Path(folder) / "adapter_model.safetensors")
    names = {name for name, _ in model.named_modules()}
    single = names - {name.rpartition(".")[0] for name in names}  # what holds other layers can't be adapted
    layers = adapted_layers(tensors, single)
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    if layers and config.target_modules:
        _check_complete(config, layers, single)
        use_present_names(config, layers)
    adapted = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)(model, config)
    try:
        report = adapted.load_adapter(str(folder), "default", key_mapping=OLD_NAMES)
    except KeyError as error:  # of a layer that was trained itself
        raise ValueError(
            f"its file lacks {error}, which its configuration names in modules_to_save"
        ) from None
    _check_places(report.unexpected_keys)
    missing = [key for key in report.missing_keys if VB_LORA_BANK not in key]
    if missing:
        raise ValueError(f"{MISFIT}: {len(missing)} are missing, first {missing[0]}")
    _tell(adapted, len(layers), folder)
    return adapted


def present_name(name: str) -> str:
    """The name that a layer or a tensor (without `PREFIX`) has now.

    >>> present_name("model.layers.0.mlp.up_proj"), present_name("visual.blocks.0.mlp.up_proj")
    ('model.language_model.layers.0.mlp.up_proj', 'model.visual.blocks.0.mlp.up_proj')
    """
    for old, new in OLD_NAMES.items():
        found, count = re.subn(old, new, name)
        if count:
            return found
    return name


def _former_name(name: str) -> str:
    """The name that a layer had before transformers 4.52."""
    return re.sub(r"^model\.language_model\.", "model.", re.sub(r"^model\.(?=visual)", "", name))


def adapted_layers(tensors: Iterable[str], modules: Collection[str]) -> set[str]:
    """The layers that have tensors of an adapter, by their names among the `modules` of the model.

    Raises:
        ValueError: tensors of layers that the model does not have; names the first.
    """
    found, strange = set(), []
    for tensor in tensors:
        parts = present_name(tensor.removeprefix(PREFIX)).split(".")
        names = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
        layer = next((name for name in names if name in modules), None)
        if layer is not None:
            own = ".".join(parts)[len(layer) + 1 :]
            found |= {layer} if not NO_ADAPTER.match(own) else set()
        elif tensor.startswith(PREFIX):  # others belong to no layer
            strange.append(tensor)
    _check_places(strange)
    return found


def _check_places(strange: Sequence[str]) -> None:
    """ValueError if there are tensors that have no place in the model."""
    if strange:
        raise ValueError(
            f"{len(strange)} of its tensors have no place in this model, first {strange[0]}: {MISFIT}"
        )


def _check_complete(config: Any, layers: set[str], modules: Collection[str]) -> None:
    """ValueError if the configuration, in the names that it was written in, targets layers without tensors."""
    from peft.tuners.tuners_utils import check_target_module_exists

    def targets(named: Callable[[str], str]) -> set[str]:
        return {module for module in modules if check_target_module_exists(config, named(module))}

    own = max(targets(str), targets(_former_name), key=lambda found: (len(found & layers), -len(found)))
    lacking = sorted(own - layers)
    if lacking:
        raise ValueError(
            f"it has tensors for {len(layers)} layers and lacks those of {len(lacking)}, first {lacking[0]}: "
            f"{MISFIT}"
        )


def use_present_names(config: Any, layers: set[str]) -> None:
    """Let a PEFT configuration target exactly `layers`, and name layers as the model does, in all its fields."""
    config.target_modules = layers
    for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):  # they chose these layers
        if hasattr(config, name):
            setattr(config, name, None)
    for name in ("rank_pattern", "alpha_pattern"):
        if getattr(config, name, None):
            setattr(config, name, _pattern(getattr(config, name), layers))
    if getattr(config, "feedforward_modules", None):  # IA3
        config.feedforward_modules = {x for x in layers if _is_among(x, config.feedforward_modules)}
    if getattr(config, "modules_to_save", None):
        config.modules_to_save = [present_name(name) for name in config.modules_to_save]


def _pattern(values: dict[str, Any], layers: set[str]) -> dict[str, Any]:
    """A pattern of PEFT (a regex of the end of a name -> value) with an entry for each layer that it is about."""
    chosen = {layer: next((key for key in values if _ends_with(layer, key)), None) for layer in layers}
    others = {present_name(key): value for key, value in values.items() if key not in chosen.values()}
    return {re.escape(layer): values[key] for layer, key in chosen.items() if key is not None} | others


def _ends_with(layer: str, pattern: str) -> bool:
    return any(re.match(rf"(.*\.)?({pattern})$", name) for name in (layer, _former_name(layer)))


def _is_among(layer: str, targets: str | Iterable[str]) -> bool:
    names = (layer, _former_name(layer))
    if isinstance(targets, str):
        return any(re.fullmatch(targets, name) for name in names)
    return any(name.endswith(target) for name in names for target in targets)


def _tensor_names(file: Path) -> list[str]:
    """The names of the tensors in an adapter's file; ValueError if they are not PEFT's."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
    strange = [name for name in names if not name.startswith("base_model.")]
    if strange or not names:
        raise ValueError(
            f"its tensors are not named as PEFT does ({PREFIX}...): {strange[:1] or 'there are none'}"
        )
    return names


def _tell(adapted: Any, wanted: int, folder: str | Path) -> None:
    """Log how many layers are adapted, and where; ValueError if not as many as the file has tensors for."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [
        name
        for name, module in adapted.named_modules()
        if isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)
    ]
    if len(layers) != wanted:
        raise ValueError(
            f"its file has tensors for {wanted} layers, but {len(layers)} of this model are adapted"
        )
    tower = sum(".visual." in name for name in layers)
    logger.info("adapter %s: %d layers adapted, %d of them in the vision tower", folder, len(layers), tower)
