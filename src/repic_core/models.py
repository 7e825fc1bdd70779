"""Load a model and its processor: a 7B one from the hub, a local folder, the toy base; with or without adapter."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FAMILIES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
PAPER_MAX_PIXELS = 1024 * 28 * 28  # upstream's evaluation scripts


class ModelError(ValueError):
    """A model that can't be loaded, said in one line."""


def load_model(
    name_or_path: str | Path,
    adapter: str | Path | None = None,
    attn: str = "auto",
    dtype: Any = "auto",
    device: str = "auto",
    max_pixels: int | None = None,
) -> tuple[Any, Any]:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model and its processor, ready to generate.

    Weights are read from safetensors only and no code from the model's folder is run.

    Args:
        name_or_path: a hub id such as ``Qwen/Qwen2.5-VL-7B-Instruct``, or a local folder.
        adapter: a PEFT adapter (LoRA): folder or hub id.
        attn: ``auto`` (flash-attn 2 where it can be imported, on CUDA and in half precision; else sdpa), or
            an implementation that `transformers` knows.
        dtype: ``auto`` (bfloat16 on CUDA that has it, else float32), or a torch dtype or its name.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda:1``, ...
        max_pixels: images are shrunk to at most this many pixels; by default the processor's own setting.
            The authors evaluate with `PAPER_MAX_PIXELS`.

    Returns:
        (model in eval mode, processor whose tokenizer pads on the left).

    Raises:
        ModelError: wrong path, unreachable hub, another family, pickled weights, missing adapter.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from repic_core.vision import use_batched_vision

    name = _existing(name_or_path, "model")
    config = _load_config(name)
    family = config.model_type
    if family not in FAMILIES:
        raise ModelError(f"{name}: is a {family!r} model; this kit handles {', '.join(FAMILIES.values())}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cuda = device.startswith("cuda")
    if dtype == "auto":
        dtype = torch.bfloat16 if on_cuda and torch.cuda.is_bf16_supported() else torch.float32
    elif isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    attn = _choose_attention(attn, on_cuda and dtype in (torch.bfloat16, torch.float16))
    sizes = {} if max_pixels is None else {"max_pixels": max_pixels}
    options = {"trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(name, **sizes, **options)
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, attn_implementation=attn, use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {_first_line(error)}") from None
    processor.tokenizer.padding_side = "left"
    if adapter is not None:
        model = _add_adapter(model, _existing(adapter, "adapter"))
    if attn != "flash_attention_2":
        use_batched_vision(model)
    return model.to(device).eval(), processor


def _existing(name_or_path: str | Path, what: str) -> str:
    """The path of a folder that exists, or a hub id; what looks like a path is never looked for on the hub."""
    text = os.fspath(name_or_path)
    if Path(text).is_dir():
        files = {path.name for path in Path(text).iterdir()}
        wanted = "adapter_config.json" if what == "adapter" else "config.json"
        if wanted not in files:
            raise ModelError(f"{text}: no {wanted} in this folder; is it a saved {what}?")
        if not any(name.endswith(".safetensors") for name in files):
            raise ModelError(
                f"{text}: no .safetensors file; pickled weights (.bin) are not read, convert them"
            )
        return text
    parts = text.split("/")
    looks_local = isinstance(name_or_path, Path) or len(parts) != 2 or parts[0] in ("", ".", "..", "~")
    if looks_local or Path(parts[0]).is_dir():
        raise ModelError(f"{text}: no such {what} folder")
    return text


def _load_config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if not Path(name).is_dir():
            raise ModelError(
                f"{name}: no such folder, and the hub does not give it ({_first_line(error)})"
            ) from None
        raise ModelError(f"{name}: {_first_line(error)}") from None


def _add_adapter(model: Any, adapter: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"adapter {adapter}: {_first_line(error)}") from None


def _choose_attention(attn: str, half_on_cuda: bool) -> str:
    if attn == "auto":
        attn = "flash_attention_2" if half_on_cuda and find_spec("flash_attn") else "sdpa"
    _log_once(attn)
    return attn


@cache
def _log_once(attn: str) -> None:
    logger.info("attention: %s", attn)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
