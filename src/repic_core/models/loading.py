"""Load a model and its processor: a 7B one from the hub, a local folder, the toy base; with or without adapter."""

from __future__ import annotations

import logging
import os
import re
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from repic_core.models.families import FAMILIES
from repic_core.models.known_warnings import hide_known_warnings

logger = logging.getLogger(__name__)

# Adapters saved with transformers < 4.52 call the layers by the names of that time.
OLD_ADAPTER_KEYS = {
    r"^visual": "model.visual",
    r"^model(?!\.(language_model|visual))": "model.language_model",
}
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
    load_in_4bit: bool = False,
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
        load_in_4bit: the language model's layers in 4 bits (NF4, bitsandbytes), for tuning an adapter on a small
            card; the vision tower and the head stay in `dtype`.

    Returns:
        (model in eval mode, processor whose tokenizer pads on the left).

    Raises:
        ModelError: wrong path, unreachable hub, another family, pickled or broken weights, an adapter that is
            missing or that was made for another model, a dtype, attention or device that is not to be had.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from repic_core.models.vision import use_batched_vision

    hide_known_warnings()
    name = existing(name_or_path, "model")
    adapter = existing(adapter, "adapter") if adapter is not None else None
    config = load_config(name)
    family = config.model_type
    if family not in FAMILIES:
        known = ", ".join(family.name for family in FAMILIES.values())
        raise ModelError(f"{name}: is a {family!r} model; this kit handles {known}")
    device = _choose_device(device)
    dtype = _choose_dtype(dtype, device)
    attn = _choose_attention(attn, device.type == "cuda" and dtype in (torch.bfloat16, torch.float16))
    options: dict[str, Any] = {"trust_remote_code": False}
    quantized = {"quantization_config": _four_bits(dtype), "device_map": {"": device}} if load_in_4bit else {}
    try:
        processor = AutoProcessor.from_pretrained(name, **options)
        model, report = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation=attn,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **quantized,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name}: {_in_a_line(error)}") from None
    for part in ("tokenizer", "image_processor", "chat_template"):
        if not getattr(processor, part, None):
            raise ModelError(f"{name}: its processor has no {part}: copy that of the model it was made from")
    missing = sorted(report["missing_keys"])
    if missing:  # they would stay random
        raise ModelError(f"{name}: {len(missing)} weights are missing in its files, first {missing[0]}")
    processor.tokenizer.padding_side = "left"
    if max_pixels is not None:
        processor.image_processor.size["longest_edge"] = max_pixels
    if adapter is not None:
        model = _add_adapter(model, adapter)
    if attn != "flash_attention_2":
        use_batched_vision(model)
    return (model if load_in_4bit else model.to(device)).eval(), processor


def _four_bits(dtype: Any) -> Any:
    """QLoRA's settings (arXiv 2305.14314): NF4, the constants quantised, too."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ModelError("load_in_4bit needs bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["visual", "lm_head"],
    )


def existing(name_or_path: str | Path, what: str) -> str:
    """A folder that exists, or a hub id; what looks like a path is never looked for on the hub."""
    text = os.fspath(name_or_path)
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        _check_folder(folder, what)
        return str(folder)
    is_hub_id = isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]*\w", text)
    if not is_hub_id or Path(text.split("/")[0]).is_dir():
        raise ModelError(f"{text!r}: no such {what} folder")
    return text


def _check_folder(folder: Path, what: str) -> None:
    files = {path.name for path in folder.iterdir()}
    config = "adapter_config.json" if what == "adapter" else "config.json"
    if config not in files:
        hint = "; it is an adapter: give it as adapter=" if "adapter_config.json" in files else ""
        raise ModelError(f"{folder}: no {config} in this folder{hint or f'; is it a saved {what}?'}")
    weights = "adapter_model.safetensors" if what == "adapter" else ".safetensors"
    if not any(name.endswith(weights) for name in files):
        raise ModelError(f"{folder}: no {weights} file; pickled weights (.bin) are not read: convert them")


def load_config(name: str) -> Any:
    """The configuration of a hub id or folder that `existing` gave; `ModelError` where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if not Path(name).is_dir():
            raise ModelError(
                f"{name}: no such folder, and the hub does not give it ({_in_a_line(error)})"
            ) from None
        raise ModelError(f"{name}: {_in_a_line(error)}") from None


def _add_adapter(model: Any, adapter: str) -> Any:
    """`model` with the adapter on top; only its configuration and safetensors are fetched or read."""
    from huggingface_hub import snapshot_download
    from peft import PeftModel
    from safetensors import SafetensorError

    folder = adapter
    try:
        if not Path(adapter).is_dir():
            wanted = ["adapter_config.json", "adapter_model.safetensors"]
            folder = snapshot_download(adapter, allow_patterns=wanted)
            _check_folder(Path(folder), "adapter")
        with warnings.catch_warnings():  # else an adapter of another layout would load as no adapter at all
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(model, folder, key_mapping=OLD_ADAPTER_KEYS)
    except UserWarning:
        reason = "its weights are not those that its configuration asks for in this model"
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = _in_a_line(error)
    raise ModelError(f"adapter {adapter}: {reason}")


def _choose_device(device: Any) -> Any:
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device {device!r}: {_in_a_line(error)}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def _choose_dtype(dtype: Any, device: Any) -> Any:
    import torch

    if dtype == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ModelError(f"dtype {dtype!r}: use auto, bfloat16, float16 or float32")
    return found


def _choose_attention(attn: str, half_on_cuda: bool) -> str:
    if attn != "auto":
        _log_once(attn, "as asked")
        return attn
    if not half_on_cuda:
        attn, why = "sdpa", "flash-attn needs CUDA and half precision"
    else:
        try:
            import_module("flash_attn")  # an installed build may still not fit this torch
            attn, why = "flash_attention_2", "flash-attn was found"
        except Exception as error:
            attn, why = "sdpa", f"flash-attn can't be imported: {_in_a_line(error)}"
    _log_once(attn, why)
    return attn


@cache
def _log_once(attn: str, why: str) -> None:
    logger.info("attention: %s (%s)", attn, why)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
