"""Merge an adapter into its base and prove that the saved model is still the adapter's::

    repic merge Qwen/Qwen2.5-VL-7B-Instruct runs/mine merged --dtype float32 \\
        --rows held_out.json --database database.json

Merging computes W + s B A. Saved in bfloat16 (8 significant bits) a weight keeps its change only where that is at
least half a step of its grid; which arithmetic was used before makes no difference (`merge_drift` measures both).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem
from repic_core.io.files import write_json_atomic, write_text_atomic
from repic_core.models import loading as models
from repic_core.publish.cards import named, versions
from repic_core.publish.verify import (
    AdapterComparison,
    Limits,
    drawn_items,
    faults_of,
    merge_card,
)

PROCESSOR_FILES = (
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)
DTYPES = ("float32", "bfloat16", "float16")


class MergeError(ValueError):
    """A merge that can't be done, or whose result is not the adapter's model; nothing was written."""


def merge_adapter(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    dtype: str | None = None,
    items: Sequence[CaptionItem] | None = None,
    system: str | None = "evaluation",
    max_new_tokens: int = 64,
    limits: Limits | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Merge `adapter` into `base` in float32, save it under `out` in `dtype`, and verify what was saved.

    Adapter and merged model continue the same prompts; the report (returned, in ``verify.json`` and in the
    model card) has differences of logits along the adapter's greedy captions, in both precisions, and with `items`
    F1 of names (`span`) of both. In memory is one model at a time, in float32.

    Args:
        dtype: of the saved weights, one of `DTYPES`; by default as the base's configuration says.
        items: held-out prompts; by default drawn photos with made-up names, which any model can be given.
        system, max_new_tokens: as for `Captioner`; the toy needs ``system=None``.
        limits: past these the merge is refused.

    Raises:
        MergeError: `out` is not empty, a quantised base, tied embeddings under an adapted head, weights that are
            not finite, or a merged model past `limits`. There is no `out` then.
        ModelError: base or adapter can't be loaded.
    """
    import torch

    limits = limits or Limits()
    out, config = Path(out), check_base(base)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MergeError(f"{out}: is there and not empty: give another folder")
    dtype = dtype or _config_dtype(config)
    if dtype not in DTYPES:
        raise MergeError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    own_items = items is None
    items = drawn_items() if own_items else list(items)
    if not items:
        raise MergeError("items: there is no prompt to verify with")
    verify = AdapterComparison(items, system, max_new_tokens, with_f1=not own_items)

    model, processor = models.load_model(base, adapter, dtype="float32", device=device)
    _check_head(model, adapter)
    verify.start(model, processor)
    weights = weight_changes(model, dtype)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # not finite
        raise MergeError(f"adapter {adapter}: {error}") from None
    with folder_beside(out) as folder:
        merged.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="5GB")
        copy_processor(base, folder)
        del model, merged
        if dtype != "float32":
            verify.add("adapter", *models.load_model(base, adapter, dtype=dtype, device=device))
        for precision in dict.fromkeys(("float32", dtype)):
            verify.add("merged", *models.load_model(folder, dtype=precision, device=device))
        report = {
            "base": named(base),
            "base_revision": getattr(config, "_commit_hash", None),
            "adapter": named(adapter),
            "dtype": dtype,
            "merged_in": "float32",
            "prompts": "drawn photos" if own_items else "given by the caller",
            "n_prompts": len(items),
            "n_tokens": verify.n_tokens,
            "weights": weights,
            "rows": verify.rows,
            "f1": verify.f1,
            "limits": asdict(limits),
            "versions": versions(),
        }
        faults = faults_of(report, limits)
        if faults:
            raise MergeError(
                f"merged in float32 and saved in {dtype}, the model is not that of the adapter: "
                f"{'; '.join(faults)}. {report['weights']['lost']:.0%} of the adapter's changes vanish in {dtype}. "
                "Nothing was written: "
                + ("keep the adapter" if dtype == "float32" else "save in float32, or keep the adapter")
            )
        write_json_atomic(folder / "merge_report.json", report)
        write_text_atomic(folder / "README.md", merge_card(report))
    return report


def check_base(base: str | Path) -> Any:
    """The base's configuration; `MergeError` for a quantised one."""
    config = models.load_config(models.existing(base, "model"))
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = dict(quantised).get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
        raise MergeError(
            f"{base}: is quantised ({method}): rounding to its few bits would take the adapter's changes with it. "
            "Merge into the model that it was quantised from, and quantise the result; or keep the adapter"
        )
    return config


def rounding(weight: Any, delta: Any, dtype: Any) -> dict[str, float]:
    """What of `delta` is left in ``(weight + delta)`` rounded to `dtype`; both are float32 tensors of one shape.

    `relative`: ||delta|| / ||weight||; `error`: ||rounded - weight - delta|| / ||delta||; `kept`: the part along
    delta, <rounded - weight, delta> / ||delta||^2, where weight is first rounded itself; `lost`: share of entries
    whose change vanishes, of those that have one.
    """
    grid = weight.to(dtype).float()
    merged = (weight + delta).to(dtype).float()
    norm = delta.double().pow(2).sum().item()
    if not norm:
        return {"relative": 0.0, "error": 0.0, "kept": 1.0, "lost": 0.0}
    return {
        "relative": math.sqrt(norm / weight.double().pow(2).sum().item()),
        "error": math.sqrt((merged - weight - delta).double().pow(2).sum().item() / norm),
        "kept": ((merged - grid).double() * delta.double()).sum().item() / norm,
        "lost": ((merged == grid) & (delta != 0)).sum().item() / max(1, (delta != 0).sum().item()),
    }


def weight_changes(model: Any, dtype: str) -> dict[str, float]:
    """`rounding` of all LoRA layers of `model` (float32), as means over their layers."""
    import torch

    rows = []
    with torch.no_grad():
        for module in model.modules():
            names = [name for name in getattr(module, "lora_A", ()) if name in module.active_adapters]
            if names and hasattr(module, "get_delta_weight"):
                delta = sum(module.get_delta_weight(name) for name in names)
                rows.append(rounding(module.get_base_layer().weight, delta, getattr(torch, dtype)))
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} if rows else {"lost": 0.0}


def _config_dtype(config: Any) -> str:
    found = config.dtype or getattr(config.get_text_config(), "dtype", None) or "float32"
    return str(found).removeprefix("torch.")


def _check_head(model: Any, adapter: str | Path) -> None:
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False) or getattr(
        model.config, "tie_word_embeddings", False
    )
    if tied and hasattr(model.get_output_embeddings(), "lora_A"):
        raise MergeError(
            f"adapter {adapter}: adapts lm_head, whose weights this base shares with its embeddings, so merging "
            "would change those as well: keep the adapter"
        )


def copy_processor(base: str | Path, folder: str | Path) -> None:
    """Processor, tokenizer, chat template and generation settings, byte for byte."""
    from huggingface_hub import snapshot_download

    source = Path(models.existing(base, "model"))
    if not source.is_dir():
        source = Path(snapshot_download(str(base), allow_patterns=list(PROCESSOR_FILES)))
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, Path(folder) / name)


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` at the end; on an error it is removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
