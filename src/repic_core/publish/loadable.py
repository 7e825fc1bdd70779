"""Whether a folder would load: in `transformers`, and an adapter also in vLLM."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

VLLM_MAX_RANK = 16  # vLLM's default; a larger r needs --max-lora-rank


def folder_faults(folder: str | Path) -> list[str]:
    """What a folder lacks to be loaded: weights, index, tokenizer, processor, chat template."""
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    adapter = (folder / "adapter_config.json").is_file()
    faults = []
    tokenizer = ("tokenizer.json", "vocab.json")
    if (
        not any((folder / name).is_file() for name in tokenizer)
        or not (folder / "tokenizer_config.json").is_file()
    ):
        faults.append("no tokenizer files")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        faults.append("no preprocessor_config.json")
    if not (
        any((folder / n).is_file() for n in ("chat_template.jinja", "chat_template.json"))
        or "chat_template" in _json(folder / "tokenizer_config.json")
    ):
        faults.append("no chat template")
    keys: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                keys |= dict.fromkeys(file.keys(), path.name)
        except SafetensorError as error:
            faults.append(f"{path.name}: {error}")
    if adapter:
        if not any(".lora_A." in key for key in keys):
            faults.append("adapter_model.safetensors holds no LoRA weights")
        return faults
    if not _json(folder / "config.json").get("architectures"):
        faults.append("config.json names no architectures")
    if not (folder / "generation_config.json").is_file():
        faults.append("no generation_config.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = _json(index).get("weight_map")
        if wanted != keys:
            differ = sorted(set((wanted or {}).items()) ^ set(keys.items()))
            faults.append(f"model.safetensors.index.json does not fit the files, first at {differ[0][0]}")
    elif len(set(keys.values())) != 1:
        faults.append("several weight files without model.safetensors.index.json")
    return faults


def vllm_faults(folder: str | Path) -> list[str]:
    """What vLLM would not load of an adapter, or what it has to be told; [] for a merged model that is whole.

    From vLLM's source (`vllm/lora/peft_helper.py`, `lora_model.py`): ``target_modules`` may be a regular
    expression, what decides are the names in the safetensors file, and only r and lora_alpha of the whole adapter
    are read.
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
        faults.append("layers of the vision tower are adapted, which vLLM leaves out unless told otherwise")
    return faults


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
