"""How far a model is from a base with its adapter: logits and greedy tokens on the same prompts, F1 of names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner import Captioner, CaptionItem
from repic_core.concepts import Concept, ConceptDatabase
from repic_core.evaluation import CaptionRecord, load_captions, score

COMPARED_PROMPTS = 16  # whose logits are compared: of a 7B model 64 tokens are 39 MB a prompt


def items_of(rows: str | Path, database: str | Path, root: str | Path | None = None) -> list[CaptionItem]:
    """The photos of a caption file with its rows' concepts and questions; paths are relative to `root` (by default
    the database's folder). `ValueError` for a file or a tag that can't be used."""
    concepts = ConceptDatabase.load(database, root)
    folder = Path(root) if root is not None else Path(database).parent
    return [
        CaptionItem(folder / r.query, concepts.select(*r.tags), r.question, list(r.tags), r.query)
        for r in load_captions(rows)
    ]


def drawn_items() -> list[CaptionItem]:
    """Four prompts of one to three made-up concepts, drawn with Pillow: coloured shapes on a plain ground."""
    from PIL import Image, ImageDraw

    def photo(shapes: Sequence[tuple[str, str]], side: int) -> Any:
        image = Image.new("RGB", (side * len(shapes), side), "#d8e4f0")
        draw = ImageDraw.Draw(image)
        for place, (shape, color) in enumerate(shapes):
            corners = (side * (place + 0.2), side * 0.2, side * (place + 0.8), side * 0.8)
            getattr(draw, shape)(corners, fill=color)
        return image

    toys = {"<bo>": ("ellipse", "red"), "<mira>": ("rectangle", "blue"), "<tomo>": ("ellipse", "green")}
    concepts = [Concept(tag, image=photo([toy], 112), info="a little toy") for tag, toy in toys.items()]
    shapes = list(toys.values())
    wanted = ([0], [1, 2], [2, 0], [0, 1, 2])
    return [CaptionItem(photo([shapes[i] for i in one], 112), [concepts[i] for i in one]) for one in wanted]


class AdapterComparison:
    """The adapter's greedy continuations in float32, and how far other models' logits along them are off."""

    def __init__(
        self, items: list[CaptionItem], system: str | None, max_new_tokens: int, with_f1: bool
    ) -> None:
        self.items, self.system, self.max_new_tokens, self.with_f1 = items, system, max_new_tokens, with_f1
        self.rows: list[dict[str, Any]] = []
        self.f1: dict[str, float] = {}

    def start(self, model: Any, processor: Any) -> None:
        import torch

        captioner = self._captioner(model, processor)
        self.completions = []
        for item in self.items[:COMPARED_PROMPTS]:
            inputs = captioner.inputs([item])
            with torch.inference_mode():
                ids = model.generate(**inputs, **captioner._options({}))
            self.completions.append(ids[:, inputs["input_ids"].shape[1] :].cpu())
        self.n_tokens = sum(ids.shape[1] for ids in self.completions)
        self.adapter = {"float32": self._logits(captioner)}
        with model.disable_adapter():
            self.effect = difference(self._logits(captioner), self.adapter["float32"])["mean"]
        self._score("adapter, float32", captioner)

    def add(self, what: str, model: Any, processor: Any) -> None:
        """A row: `model` against the adapter in float32, and in its own precision."""
        precision = str(model.dtype).removeprefix("torch.")
        captioner = self._captioner(model, processor)
        logits = self._logits(captioner)
        row = {"model": what, "precision": precision, **difference(logits, self.adapter["float32"])}
        row["drift"] = row["mean"] / self.effect if self.effect else math.inf if row["mean"] else 0.0
        if what == "adapter":
            self.adapter[precision] = logits
        elif precision in self.adapter:
            row |= {f"own_{key}": value for key, value in difference(logits, self.adapter[precision]).items()}
        self.rows.append(row)
        if what == "merged" or precision != "float32":
            self._score(f"{what}, {precision}", captioner)

    def _captioner(self, model: Any, processor: Any) -> Captioner:
        return Captioner(model, processor, self.system, max_new_tokens=self.max_new_tokens)

    def _logits(self, captioner: Captioner) -> list[Any]:
        pairs = zip(self.items, self.completions, strict=False)
        return [forced_logits(captioner.model, captioner.inputs([item]), ids) for item, ids in pairs]

    def _score(self, name: str, captioner: Captioner) -> None:
        if self.with_f1:
            rows = captioner.caption_many(self.items, progress=False)
            records = [CaptionRecord(row[0], tuple(row[1]), row[2]) for row in rows]
            concepts = {concept.tag: concept for item in self.items for concept in item.references}
            self.f1[name] = score(records, "span", concepts.values(), unknown_tags=True).f1


def forced_logits(model: Any, inputs: Any, completion: Any) -> Any:
    """Logits (tokens, vocabulary), on the CPU, with which `model` would give each token of `completion`."""
    import torch

    completion = completion.to(inputs["input_ids"].device)
    batch, more = dict(inputs), completion.shape[1]
    for key, tail in (("input_ids", completion), ("attention_mask", torch.ones_like(completion))):
        batch[key] = torch.cat([batch[key], tail], 1)
    if "mm_token_type_ids" in batch:
        kinds = batch["mm_token_type_ids"]
        batch["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, more)], 1)
    with torch.inference_mode():
        return model(**batch, logits_to_keep=more + 1, use_cache=False).logits[0, :-1].float().cpu()


def difference(logits: Sequence[Any], others: Sequence[Any]) -> dict[str, float]:
    """Maximum and mean absolute difference of two models' logits, and the share of greedy tokens that differ.

    Not a number counts as infinitely far off.
    """
    import torch

    gaps = [(a - b).abs().nan_to_num(math.inf) for a, b in zip(logits, others, strict=True)]
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(logits, others, strict=True)])
    return {
        "max": max(gap.max().item() for gap in gaps),
        "mean": sum(gap.double().sum().item() for gap in gaps) / sum(gap.numel() for gap in gaps),
        "tokens": 1 - same.double().mean().item(),
    }
