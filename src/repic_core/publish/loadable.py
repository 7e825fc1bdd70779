"""Would a folder load: a model or an adapter in `transformers` and `peft`, an adapter in vLLM?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

VLLM_MAX_RANK = 16  # vLLM's default; a larger r needs --max-lora-rank


def folder_faults(folder: str | Path) -> list[str]:
    """What a folder lacks to be loaded, one message each; [] if nothing."""
    folder = Path(folder)
    faults = _processor_faults(folder)
    files, weight_faults = _weight_files(folder)
    faults += weight_faults
    if (folder / "adapter_config.json").is_file():
        if not any(".lora_A." in name for name in files):
            faults.append("adapter_model.safetensors holds no LoRA weights")
        return faults
    return faults + _model_faults(folder, files)


def _processor_faults(folder: Path) -> list[str]:
    faults = []
    has_tokenizer = _any_file(folder, "tokenizer.json", "vocab.json")
    if not has_tokenizer or not _any_file(folder, "tokenizer_config.json"):
        faults.append("no tokenizer files")
    if not _any_file(folder, "preprocessor_config.json", "processor_config.json"):
        faults.append("no preprocessor_config.json")
    has_template = _any_file(folder, "chat_template.jinja", "chat_template.json")
    if not has_template and "chat_template" not in _json(folder / "tokenizer_config.json"):
        faults.append("no chat template")
    return faults


def _weight_files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The file of each weight, by the weight's name; what is wrong with files that can't be read."""
    from safetensors import SafetensorError, safe_open

    files: dict[str, str] = {}
    faults = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                files |= dict.fromkeys(file.keys(), path.name)
        except SafetensorError as error:
            faults.append(f"{path.name}: {error}")
    return files, faults


def _model_faults(folder: Path, files: dict[str, str]) -> list[str]:
    faults = []
    if not _json(folder / "config.json").get("architectures"):
        faults.append("config.json names no architectures")
    if not _any_file(folder, "generation_config.json"):
        faults.append("no generation_config.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        indexed = _json(index).get("weight_map") or {}
        if indexed != files:
            different = sorted(set(indexed.items()) ^ set(files.items()))
            faults.append(f"model.safetensors.index.json does not fit the files, first at {different[0][0]}")
    elif len(set(files.values())) != 1:
        faults.append("several weight files without model.safetensors.index.json")
    return faults


def vllm_faults(folder: str | Path) -> list[str]:
    """What vLLM would not load of an adapter, or which option it needs; [] for a model that is no adapter.

    Taken from vLLM's source (`vllm/lora/peft_helper.py`, `lora_model.py`): ``target_modules`` may be a regular
    expression; the names in the safetensors file decide; only r and lora_alpha of the whole adapter are read.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return []
    from safetensors import safe_open

    config, faults = _json(folder / "adapter_config.json"), []
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    if config.get("r", 0) > VLLM_MAX_RANK:
        faults.append(f"start vLLM with --max-lora-rank {config['r']}")
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            faults.append(f"{name} is not read by vLLM, so layers would be scaled wrongly: merge the adapter")
    if config.get("use_dora"):
        faults.append("DoRA is not supported: merge the adapter")
    if config.get("modules_to_save"):
        faults.append("modules_to_save is not supported: merge the adapter")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        faults.append("biases are not supported: merge the adapter")
    if any("lm_head.lora_" in key for key in keys):
        faults.append("an adapted lm_head is refused for models that do not list it: merge the adapter")
    if any(re.match(r"base_model\.model\.(model\.)?visual\.", key) for key in keys):
        faults.append(
            "layers of the vision tower are adapted; vLLM ignores them unless it is configured otherwise"
        )
    return faults


def _any_file(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
