"""What merging an adapter loses, and to what: ``repic benchmark merge-drift`` prints three tables.

1. Layers of Qwen2.5-VL 7B's shapes with random weights and a LoRA of r 64 and alpha 128 (`paper`), for several
   sizes of B: how much of the adapter is left in the weights, and in the layer's output.
2. The toy model with its adapter: F1 of names on held-out scenes with four references, merged in several ways.
3. The toy with an eighth of its adapter and weights on ever coarser grids. So the toy's large changes become as
   small against the grid's step as those of a 7B adapter are in bfloat16.

The ways: *merged in bf16* (base loaded in bfloat16, PEFT's `merge_and_unload`), *fp32, then bf16* (merged in
float32, then rounded), *fp32* (saved in float32), *adapter, bf16* (base in bfloat16, not merged).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem
from repic_core.evaluation.query_sets import QuerySettings, load_query_set
from repic_core.io import tables
from repic_core.models import loading as models
from repic_core.publish.merge import rounding
from repic_core.publish.verify import names_f1

# (out, in) of Qwen2.5-VL-7B's language model: hidden 3584, 4 key/value heads of 128, inner 18944.
LAYERS = {"q_proj": (3584, 3584), "k_proj": (512, 3584), "up_proj": (18944, 3584), "down_proj": (3584, 18944)}
WEIGHT_STD = 0.02  # `initializer_range` of that config.json
RANK, ALPHA = 64, 128  # recipes/paper.yaml
# Adam moves a parameter by about the learning rate a step. Over 1,000 steps of a rate that falls linearly from 1e-5
# (recipes/paper.yaml), B's root mean square is 1e-5 * sqrt(1000 / 3) = 1.8e-4 if the signs of the steps are
# independent, and 1e-5 * 1000 / 2 = 5e-3 if all agree. The toy's GRPO run (80 steps at 3e-4, 10 of them rising)
# ended at 2.9e-3; independent signs would give 2.6e-3, equal signs 2.2e-2. So 1.8e-4 is the likely size.
B_SIZES = (6e-5, 1.8e-4, 5.4e-4, 1.6e-3, 5e-3)
BITS = (8, 6, 5, 4, 3, 2)  # significant bits; bfloat16 has 8
TOKENS = 64  # random inputs of a layer
SCALE = 1 / 8  # of the toy's adapter, in table 3; with less than a tenth of it, names are no longer given


def layer_rows(
    sizes: Sequence[float] = B_SIZES, layers: Sequence[str] = tuple(LAYERS), seed: int = 0
) -> list[dict[str, Any]]:
    """Table 1, one row per layer and size of B.

    Each row has `merge.rounding` of the weights; ``equal``, the share of weights that are the same in *merged in
    bf16* and *fp32, then bf16*; and for each way, how much is left of the adapter's part p of the layer's output,
    <output - base's output, p> / ||p||^2: ``random`` for random inputs, ``aligned`` for inputs with half of their
    norm in the row space of A.
    """
    import torch

    rows = []
    for name in layers:
        torch.manual_seed(seed)
        base = torch.nn.Linear(LAYERS[name][1], LAYERS[name][0], bias=False).requires_grad_(False)
        base.weight.copy_((torch.randn_like(base.weight) * WEIGHT_STD).bfloat16())
        direction = torch.randn(LAYERS[name][0], RANK)
        for size in sizes:
            rows.append({"layer": name, "B": size, **_layer_row(base, direction * size)})
    return rows


def _layer_row(base: Any, b: Any) -> dict[str, float]:
    import torch

    adapted = _with_lora(copy.deepcopy(base), b)  # merging changes the layer
    half = _with_lora(copy.deepcopy(base).bfloat16(), b)  # PEFT keeps the adapter itself in float32
    lora = adapted.base_model.model[0]
    with torch.no_grad():
        delta = lora.get_delta_weight("default")
        row = rounding(base.weight, delta, torch.bfloat16)
        random = torch.nn.functional.normalize(torch.randn(TOKENS, base.in_features))
        inside = torch.nn.functional.normalize(torch.randn(TOKENS, RANK) @ lora.lora_A["default"].weight)
        inputs = {"random": random, "aligned": torch.nn.functional.normalize(random + inside)}
        inputs = {kind: (x * base.in_features**0.5).bfloat16() for kind, x in inputs.items()}
        unmerged = {kind: half(x) for kind, x in inputs.items()}
        in_bf16 = half.merge_and_unload()[0].weight
        then_bf16 = (base.weight + delta).bfloat16()
        row["equal"] = (in_bf16 == then_bf16).float().mean().item()
        for kind, x in inputs.items():
            part = torch.nn.functional.linear(x.float(), delta)
            without = torch.nn.functional.linear(x, base.weight.bfloat16())
            ways = {
                "adapter, bf16": unmerged[kind],
                "merged in bf16": torch.nn.functional.linear(x, in_bf16),
                "fp32, then bf16": torch.nn.functional.linear(x, then_bf16),
            }
            for way, y in ways.items():
                left = ((y.float() - without.float()) * part).sum() / part.pow(2).sum()
                row[f"{way}, {kind}"] = left.item()
        merged, exact = adapted.merge_and_unload()[0].weight, base.weight.double() + delta.double()
        row["error, fp32"] = ((merged - exact).norm() / delta.double().norm()).item()
    return row


def _with_lora(layer: Any, b: Any) -> Any:
    """PEFT's LoRA on one layer, with A as PEFT initialises it; A and B stay float32, as when they are loaded."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"])
    model = get_peft_model(torch.nn.Sequential(layer), config)
    lora = model.base_model.model[0]
    # PEFT made it in the layer's dtype.
    lora.lora_A["default"].weight.data = torch.empty(RANK, layer.in_features)
    torch.nn.init.kaiming_uniform_(lora.lora_A["default"].weight, a=5**0.5)
    lora.lora_B["default"].weight.data = b.clone()
    return model.eval()


def layer_table(rows: Sequence[dict[str, Any]]) -> str:
    """`layer_rows` as Markdown."""
    kept = [f"{way}, {kind}" for kind in ("aligned", "random") for way in ("adapter, bf16", "merged in bf16")]
    head = [
        "layer",
        "rms of B",
        "change / weight",
        "lost weights",
        "error",
        "error, fp32",
        "equal",
        "kept",
        *kept,
    ]
    body = []
    for row in rows:
        weights = [f"{row['relative']:.2%}", f"{row['lost']:.0%}"]
        errors = [
            f"{row['error']:.2f}",
            f"{row['error, fp32']:.0e}",
            f"{row['equal']:.1%}",
            f"{row['kept']:.0%}",
        ]
        outputs = [f"{row[name]:.0%}" for name in kept]
        body.append([row["layer"], f"{row['B']:.1e}", *weights, *errors, *outputs])
    return tables.markdown(head, body)


def round_bits(tensor: Any, bits: int) -> Any:
    """`tensor` (float32) rounded to `bits` significant bits; 8 are those of bfloat16 (except for ties).

    >>> import torch
    >>> round_bits(torch.tensor([1.0, 1.0625, 1.2, 100.0]), 3).tolist()
    [1.0, 1.0, 1.25, 96.0]
    """
    import torch

    mantissa, exponent = torch.frexp(tensor)
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)


def toy_rows(
    base: str | Path, adapter: str | Path, items: Sequence[CaptionItem], settings: QuerySettings
) -> list[dict[str, Any]]:
    """Table 2: F1 of names (`span`) of the toy, asked as `settings` say, one row per way of merging."""
    import torch

    rows = []

    def add(way: str, model: Any, processor: Any) -> None:
        rows.append({"way": way, "F1": _toy_f1(model, processor, items, settings)})

    add("base, fp32", *models.load_model(base, dtype="float32", device="cpu"))
    add("adapter, fp32", *models.load_model(base, adapter, dtype="float32", device="cpu"))
    add("adapter, bf16", *models.load_model(base, adapter, dtype="bfloat16", device="cpu"))
    model, processor = models.load_model(base, adapter, dtype="float32", device="cpu")
    add("fp32", model.merge_and_unload(), processor)
    model, processor = models.load_model(base, adapter, dtype="float32", device="cpu")
    add("fp32, then bf16", model.merge_and_unload().to(torch.bfloat16), processor)
    model, processor = models.load_model(base, adapter, dtype="bfloat16", device="cpu")
    add("merged in bf16", model.merge_and_unload(), processor)
    return rows


def grid_rows(
    base: str | Path,
    adapter: str | Path,
    items: Sequence[CaptionItem],
    settings: QuerySettings,
    bits: Sequence[int] = BITS,
) -> list[dict[str, Any]]:
    """Table 3: the toy with its adapted layers' weights rounded to so many significant `bits`, computed in float32.

    Each row has F1 of names of the base, of the adapter (`SCALE` of it) on the rounded base, and of the weights
    merged and then rounded; and how much of the changes is kept.
    """
    rows = []
    for count in bits:
        model, processor = models.load_model(base, adapter, dtype="float32", device="cpu")
        kept, relative = [], []
        layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "get_delta_weight")]
        merged = {}
        for layer in layers:
            layer.scaling["default"] *= SCALE
            weight, delta = layer.get_base_layer().weight, layer.get_delta_weight("default").detach()
            weight.data = round_bits(weight.data, count)
            merged[layer] = round_bits(weight.data + delta, count)
            kept.append((((merged[layer] - weight.data) * delta).sum() / delta.pow(2).sum()).item())
            relative.append((delta.norm() / weight.norm()).item())
        row = {"bits": count, "relative": sum(relative) / len(relative) * 2 ** (count - 8)}
        row["adapter"] = _toy_f1(model, processor, items, settings)
        with model.disable_adapter():
            row["base"] = _toy_f1(model, processor, items, settings)
        for layer in layers:
            layer.get_base_layer().weight.data = merged[layer]
        with model.disable_adapter():
            row["merged"] = _toy_f1(model, processor, items, settings)
        rows.append(row | {"kept": sum(kept) / len(kept)})
    return rows


def _toy_f1(model: Any, processor: Any, items: Sequence[CaptionItem], settings: QuerySettings) -> float:
    return names_f1(settings.captioner(model, processor, batch_size=50), items)


def report(
    base: str | Path = "assets/toy-base", adapter: str | Path | None = None, data: str | Path | None = None
) -> str:
    """The three tables as Markdown; without the toy's `adapter` and held-out `data` (a folder) only the first.

    Raises:
        ValueError: one of `adapter` and `data` without the other.
    """
    if bool(adapter) != bool(data):
        raise ValueError("the toy's tables need both an adapter and held-out data")
    parts = [layer_table(layer_rows())]
    if adapter:
        queries = load_query_set(data)
        asked = (queries.items("4"), queries.settings)
        rows = toy_rows(base, adapter, *asked)
        parts.append(tables.markdown(["toy", "F1"], [[r["way"], f"{100 * r['F1']:.1f}"] for r in rows]))
        parts.append(grid_table(grid_rows(base, adapter, *asked)))
    return "\n\n".join(parts)


def grid_table(rows: Sequence[dict[str, Any]]) -> str:
    """`grid_rows` as Markdown."""
    changes = ["significant bits", "change / weight, if 8 bits", "kept"]
    body = [
        [
            *(str(r["bits"]), f"{r['relative']:.2%}", f"{r['kept']:.0%}"),
            *(f"{100 * r[k]:.1f}" for k in ("base", "adapter", "merged")),
        ]
        for r in rows
    ]
    return tables.markdown([*changes, "F1 base", "F1 adapter", "F1 merged"], body)
