"""Load a model and its processor from the hub or from a local folder, with or without an adapter."""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from repic_core.io.extras import MissingExtra, need
from repic_core.io.kit import kit_path
from repic_core.models.families import FAMILIES
from repic_core.models.known_warnings import hide_known_warnings

logger = logging.getLogger(__name__)

PAPER_MAX_PIXELS = 1024 * 28 * 28  # upstream's evaluation scripts


class ModelError(ValueError):
    """A model that can't be loaded; the message is one line."""


def load_model(
    name_or_path: str | Path,
    adapter: str | Path | None = None,
    attn: str = "auto",
    dtype: Any = "auto",
    device: str = "auto",
    max_pixels: int | None = None,
    load_in_4bit: bool = False,
    min_pixels: int | None = None,
) -> tuple[Any, Any]:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model and its processor, ready to generate.

    Weights are read from safetensors only, and no code from the model's folder is run.

    Args:
        name_or_path: a hub id such as ``Qwen/Qwen2.5-VL-7B-Instruct``, or a local folder.
        adapter: a PEFT adapter (LoRA), also of another trainer (`adapters`): folder or hub id.
        attn: ``auto`` (on CUDA and in half precision flash-attn 2 where it can be imported, else its ready-made
            kernel where the package ``kernels`` is installed; else sdpa), or an implementation that `transformers`
            knows. The choice is logged in one line.
        dtype: ``auto`` (bfloat16 on CUDA that has it, else float32), or a torch dtype or its name.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda:1``, ...
        max_pixels: images are shrunk to at most this many pixels; by default as the processor is configured.
            The authors evaluate with `PAPER_MAX_PIXELS`.
        load_in_4bit: load the language model's layers in 4 bits (NF4, bitsandbytes), to tune an adapter on a small
            GPU; the vision tower and the head stay in `dtype`.
        min_pixels: images are enlarged to at least this many pixels; by default as the processor is configured.

    Returns:
        (model in eval mode, processor whose tokenizer pads on the left).

    Raises:
        ModelError: a wrong path, an unreachable hub, an unsupported family, pickled or broken weights, an adapter
            that is missing or was made for another model, a dtype, attention or device that is not available, or
            limits of pixels that leave no size.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from repic_core.models.vision import runs_kernel, use_batched_vision

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
            raise ModelError(f"{name}: its processor has no {part}: copy it from the model it was made from")
    missing = sorted(report["missing_keys"])
    if missing:  # these weights would be random
        raise ModelError(f"{name}: {len(missing)} weights are missing in its files, first {missing[0]}")
    processor.tokenizer.padding_side = "left"
    try:
        limit_pixels(processor.image_processor, min_pixels, max_pixels)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from None
    if adapter is not None:
        model = _add_adapter(model, adapter)
    if not runs_kernel(attn):
        use_batched_vision(model)
    return (model if load_in_4bit else model.to(device)).eval(), processor


def limit_pixels(image_processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set the least and the largest number of pixels of a photo after the processor's resize; None: as it is.

    Raises:
        ValueError: the least is above the largest.
    """
    size = dict(image_processor.size)
    least = size["shortest_edge"] if min_pixels is None else min_pixels
    most = size["longest_edge"] if max_pixels is None else max_pixels
    if min_pixels is not None and least > most:
        raise ValueError(f"min_pixels {least} is more than max_pixels {most}: give a smaller one")
    image_processor.size["shortest_edge"], image_processor.size["longest_edge"] = least, most


def _four_bits(dtype: Any) -> Any:
    """QLoRA's settings (arXiv 2305.14314): NF4 with quantised constants."""
    try:
        need("bitsandbytes", extra="four-bits")
    except MissingExtra as error:
        raise ModelError(f"load_in_4bit: {error}") from None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["visual", "lm_head"],
    )


def existing(name_or_path: str | Path, what: str) -> str:
    """The folder `name_or_path` if it exists, here or in the kit (`kit_path`), else the hub id.

    What looks like a path is never sent to the hub.

    Raises:
        ModelError: it is neither, or the folder is not a saved `what` ("model" or "adapter").
    """
    text = os.fspath(name_or_path)
    folder = kit_path(text).expanduser()
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
    """The configuration of a hub id or folder that `existing` returned; `ModelError` if it has none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if not Path(name).is_dir():
            raise ModelError(
                f"{name}: no such folder, and it can't be loaded from the hub ({_in_a_line(error)})"
            ) from None
        raise ModelError(f"{name}: {_in_a_line(error)}") from None


def _add_adapter(model: Any, adapter: str) -> Any:
    """`model` with the adapter on top; only the adapter's configuration and safetensors are downloaded and read."""
    from huggingface_hub import snapshot_download
    from safetensors import SafetensorError

    from repic_core.models.adapters import with_adapter

    folder = adapter
    try:
        if not Path(adapter).is_dir():
            wanted = ["adapter_config.json", "adapter_model.safetensors"]
            folder = snapshot_download(adapter, allow_patterns=wanted)
            _check_folder(Path(folder), "adapter")
        return with_adapter(model, folder)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"adapter {adapter}: {_in_a_line(error)}") from None


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
    """`attn`, or for ``auto`` the fastest attention that works here; logged in one line."""
    if attn == "auto":
        attn, why = _fastest_attention(half_on_cuda)
    else:
        why = "as asked"
    _log_once(attn, why)
    return attn


def _fastest_attention(half_on_cuda: bool) -> tuple[str, str]:
    """The name of an attention implementation, and why it is this one."""
    if not half_on_cuda:
        return "sdpa", "flash-attn needs CUDA and half precision"
    try:
        import_module("flash_attn")  # an installed build may still not fit this torch
        return "flash_attention_2", "flash-attn was found"
    except Exception as error:
        why = f"flash-attn can't be imported: {_in_a_line(error)}"
    try:
        return _ready_made_kernel(), f"ready-made kernel; {why}"
    except Exception as error:  # no package, none for this card, not in the cache while the hub is off, ...
        return "sdpa", f"{why}; no ready-made kernel: {_in_a_line(error)}"


def _ready_made_kernel() -> str:
    """Load flash-attn's ready-made kernel through the package ``kernels``; its name for `transformers`.

    It comes from the hub's cache, or from the hub itself unless ``HF_HUB_OFFLINE`` is set.

    Raises:
        ImportError: ``kernels`` is missing, or is a version that `transformers` does not take.
        ValueError: no kernel for this machine, or it can't be fetched.
    """
    from transformers.integrations.hub_kernels import load_and_register_attn_kernel
    from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

    name = FLASH_ATTN_KERNEL_FALLBACK["flash_attention_2"]
    load_and_register_attn_kernel(name)
    return name


@cache
def _log_once(attn: str, why: str) -> None:
    logger.info("attention: %s (%s)", attn, why)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
