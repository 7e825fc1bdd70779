"""What merging an adapter loses, and to what: ``repic benchmark merge-drift`` prints three tables.

1. Layers of Qwen2.5-VL 7B's shapes with random weights and a LoRA of r 64 and alpha 128 (`paper`), for several
   sizes of B: how much of the adapter is left in the weights, and in the layer's output.
2. The toy model with its adapter: F1 of names on held-out scenes of four references, merged in several ways.
3. The toy with an eighth of its adapter and weights on ever coarser grids, which brings its large changes down to
   the grid's step, where a 7B adapter's are in bfloat16.

The ways: *merged in bf16* (base loaded in bfloat16, PEFT's `merge_and_unload`), *fp32, then bf16* (merged in
float32, then rounded), *fp32* (saved in float32), *adapter, bf16* (base in bfloat16, not merged).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem, CaptionRecord
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.scores import score
from repic_core.io import tables
from repic_core.models import loading as models
from repic_core.publish.merge import rounding

# (out, in) of Qwen2.5-VL-7B's language model: hidden 3584, 4 key/value heads of 128, inner 18944.
LAYERS = {"q_proj": (3584, 3584), "k_proj": (512, 3584), "up_proj": (18944, 3584), "down_proj": (3584, 18944)}
WEIGHT_STD = 0.02  # `initializer_range` of that config.json
RANK, ALPHA = 64, 128  # recipes/paper.yaml
# Adam moves a parameter by about the learning rate a step. Over 1,000 steps of a rate that falls linearly from 1e-5
# (recipes/paper.yaml), B's root mean square is 1e-5 * sqrt(1000 / 3) = 1.8e-4 if the signs of the steps are
# independent, and 1e-5 * 1000 / 2 = 5e-3 if all agree. The toy's GRPO run (80 steps at 1e-3) ended at 8.4e-3, where
# independent signs give 8.8e-3 and equal ones 7.5e-2: so 1.8e-4 is the likely size.
B_SIZES = (6e-5, 1.8e-4, 5.4e-4, 1.6e-3, 5e-3)
BITS = (8, 6, 5, 4, 3, 2)  # significant bits; bfloat16 has 8
TOKENS = 64
SCALE = 1 / 8  # of the toy's adapter, in table 3: with a tenth of it names are just still given


def layer_rows(
    sizes: Sequence[float] = B_SIZES, layers: Sequence[str] = tuple(LAYERS), seed: int = 0
) -> list:
    """A row a layer and size of B.

    `merge.rounding` of the weights; ``equal``: share of weights alike in *merged in bf16* and *fp32, then bf16*;
    and for each way, how much is left of the adapter's part p of the output: <output - base's output, p> / ||p||^2,
    ``random`` for random inputs, ``aligned`` for inputs half of whose norm lies in A's row space.
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
                row[f"{way}, {kind}"] = (
                    ((y.float() - without.float()) * part).sum() / part.pow(2).sum()
                ).item()
        merged, exact = adapted.merge_and_unload()[0].weight, base.weight.double() + delta.double()
        row["error, fp32"] = ((merged - exact).norm() / delta.double().norm()).item()
    return row


def _with_lora(layer: Any, b: Any) -> Any:
    """PEFT's LoRA on one layer, A as PEFT initialises it; both stay float32, as when they are loaded."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(
        torch.nn.Sequential(layer), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"])
    )
    lora = model.base_model.model[0]
    lora.lora_A["default"].weight.data = torch.empty(
        RANK, layer.in_features
    )  # else rounded to the layer's dtype
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
    body = [
        [
            *(row["layer"], f"{row['B']:.1e}", f"{row['relative']:.2%}", f"{row['lost']:.0%}"),
            *(
                f"{row['error']:.2f}",
                f"{row['error, fp32']:.0e}",
                f"{row['equal']:.1%}",
                f"{row['kept']:.0%}",
            ),
            *(f"{row[name]:.0%}" for name in kept),
        ]
        for row in rows
    ]
    return tables.markdown(head, body)


def round_bits(tensor: Any, bits: int) -> Any:
    """`tensor` (float32) with `bits` significant bits, to nearest; 8 are bfloat16's (ties apart).

    >>> import torch
    >>> round_bits(torch.tensor([1.0, 1.0625, 1.2, 100.0]), 3).tolist()
    [1.0, 1.0, 1.25, 96.0]
    """
    import torch

    mantissa, exponent = torch.frexp(tensor)
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)


def toy_rows(base: str | Path, adapter: str | Path, items: Sequence[CaptionItem]) -> list[dict[str, Any]]:
    """F1 of names (`span`) of the toy, by way of merging."""
    import torch

    rows = []

    def add(way: str, model: Any, processor: Any) -> None:
        rows.append({"way": way, "F1": names_f1(model, processor, items)})

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
    base: str | Path, adapter: str | Path, items: Sequence[CaptionItem], bits: Sequence[int] = BITS
) -> list[dict[str, Any]]:
    """The toy with the adapted layers' weights on grids of so many significant bits, computed in float32: F1 of the
    base, of the adapter (`SCALE` of it) on the rounded base, and of weights merged and then rounded; what is kept
    of the changes."""
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
        row["adapter"] = names_f1(model, processor, items)
        with model.disable_adapter():
            row["base"] = names_f1(model, processor, items)
        for layer in layers:
            layer.get_base_layer().weight.data = merged[layer]
        with model.disable_adapter():
            row["merged"] = names_f1(model, processor, items)
        rows.append(row | {"kept": sum(kept) / len(kept)})
    return rows


def names_f1(model: Any, processor: Any, items: Sequence[CaptionItem]) -> float:
    """F1 of names of the toy's captions of `items`."""
    captioner = Captioner(model, processor, system=None, batch_size=50, max_new_tokens=64)
    rows = captioner.caption_many(items, progress=False)
    concepts = {concept.tag: concept for item in items for concept in item.references}
    records = [CaptionRecord(row[0], tuple(row[1]), row[2]) for row in rows]
    return score(records, "span", concepts.values(), unknown_tags=True).f1


def toy_items(
    folder: str | Path, sets: Sequence[str] = ("4",), limit: int | None = None
) -> list[CaptionItem]:
    """The queries of a held-out split of the toy world (`toyworld.dataset.write_heldout`)."""
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json", root=folder)
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    rows = [row for name in sets for row in queries[name][:limit]]
    return [
        CaptionItem(
            folder / row["query"], database.select(*row["references"]), tags=row["shown"], label=row["query"]
        )
        for row in rows
    ]


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
        items = toy_items(data)
        rows = toy_rows(base, adapter, items)
        parts.append(tables.markdown(["toy", "F1"], [[r["way"], f"{100 * r['F1']:.1f}"] for r in rows]))
        parts.append(grid_table(grid_rows(base, adapter, items)))
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
