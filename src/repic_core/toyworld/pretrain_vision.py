"""First phase of the toy base: the vision tower learns what a visual token shows.

In a training of the whole model, shape and pattern stay at chance level for a long time. So the tower is first
trained alone, with linear heads that are dropped afterwards. They read the attributes (shape, colour, pattern) of
a reference from its mean token, and those of a scene's toys from the tokens at their centres. They also read the
quarter that a token is in, whether it shows a toy, and the background.

In a second stage half of the scenes' toys are repainted in two random colours that no identity has. With this
stage the shape of held-out identities is read correctly in 93% of scenes, without it in 57%.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.io.files import replaced
from repic_core.toyworld.draw import (
    BACKGROUNDS,
    COLORS,
    PATTERNS,
    PLACES,
    SCENE_SIZE,
    SHAPES,
    Toy,
    draw_reference,
    draw_scene,
)
from repic_core.toyworld.model import HIDDEN, TOKEN
from repic_core.toyworld.recognition import pixel_values
from repic_core.toyworld.world import identities

ATTRIBUTES = (SHAPES, tuple(COLORS), PATTERNS)
IGNORED = -100  # cross_entropy's ignore_index
GRID = SCENE_SIZE // TOKEN  # visual tokens per side


def attribute_indices(toy: Toy) -> list[int]:
    """Class indices of the three attributes, in the order of `ATTRIBUTES`."""
    return [SHAPES.index(toy.shape), list(COLORS).index(toy.color), PATTERNS.index(toy.pattern)]


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to a file, whole or not at all, however the run ends."""
    import torch

    with replaced(path) as file:
        torch.save(state, file)


def _batch(
    processor: Any, split: str, rng: np.random.Generator, references: int, scenes: int, repaint: float
) -> dict[str, Any]:
    import torch

    pool = identities(split)
    toys = [pool[i] for i in rng.integers(len(pool), size=references)]
    images = [draw_reference(toy, rng) for toy in toys]
    occupied = np.zeros((scenes, GRID, GRID), np.int64)
    where, shown, backgrounds = [], [], []
    for s in range(scenes):
        present = [pool[i] for i in rng.integers(len(pool), size=rng.integers(2, 5))]
        colors = [rng.uniform(20, 250, (2, 3)) if rng.random() < repaint else None for _ in present]
        image, background, _, boxes = draw_scene(present, rng, [c if c is None else tuple(c) for c in colors])
        images.append(image)
        backgrounds.append(list(BACKGROUNDS).index(background))
        for toy, painted, (x1, y1, x2, y2) in zip(present, colors, boxes, strict=True):
            row, column = (y1 + y2) // 2 // TOKEN, (x1 + x2) // 2 // TOKEN
            occupied[s, row, column] = 1
            where.append((s * GRID + row) * GRID + column)
            shape, color, pattern = attribute_indices(toy)
            shown.append([shape, color if painted is None else IGNORED, pattern])
    return {
        **pixel_values(processor.image_processor, images),
        "references": torch.tensor([attribute_indices(toy) for toy in toys]),
        "where": torch.tensor(where),
        "shown": torch.tensor(shown),
        "occupied": torch.from_numpy(occupied).reshape(-1),
        "backgrounds": torch.tensor(backgrounds),
    }


def pretrain_vision(
    model: Any,
    processor: Any,
    steps: int,
    out: Path,
    seed: int = 0,
    stage: int = 1,
    references: int = 64,
    scenes: int = 40,
    lr: float = 2e-3,
) -> dict[str, float]:
    """Train the vision tower of `model` in place for `steps`; returns held-out (val) accuracies.

    Stage 2 starts from stage 1, with repainted toys. Logs to ``out/vision<stage>.jsonl`` and resumes from
    ``out/vision<stage>.pt`` (state dicts and the step).
    """
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    tower = model.model.visual
    sizes = [len(a) for a in ATTRIBUTES]
    torch.manual_seed(seed)
    heads = nn.ModuleDict(
        {
            "reference": nn.Linear(HIDDEN, sum(sizes)),
            "shown": nn.Linear(HIDDEN, sum(sizes)),
            "occupied": nn.Linear(HIDDEN, 2),
            "place": nn.Linear(HIDDEN, len(PLACES)),
            "background": nn.Linear(HIDDEN, len(BACKGROUNDS)),
        }
    )
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    rows, columns = torch.arange(GRID).repeat_interleave(GRID), torch.arange(GRID).repeat(GRID)
    quarter = ((rows >= GRID // 2) * 2 + (columns >= GRID // 2)).repeat(scenes)
    checkpoint, first = out / f"vision{stage}.pt", 0
    if stage == 2 and not checkpoint.exists():
        state = torch.load(out / "vision1.pt", weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]

    def losses(batch: dict[str, Any]) -> tuple[Any, dict[str, float]]:
        tokens = tower(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
        split = references * 4
        seen = heads["reference"](tokens[:split].view(references, 4, HIDDEN).mean(1)).split(sizes, -1)
        scene = tokens[split:]
        shown = heads["shown"](scene[batch["where"]]).split(sizes, -1)
        names = ("shape", "color", "pattern")
        parts = {f"ref_{name}": (seen[i], batch["references"][:, i]) for i, name in enumerate(names)}
        parts |= {f"scene_{name}": (shown[i], batch["shown"][:, i]) for i, name in enumerate(names)}
        parts["occupied"] = (heads["occupied"](scene), batch["occupied"])
        parts["place"] = (heads["place"](scene), quarter)
        whole = scene.view(scenes, -1, HIDDEN).mean(1)
        parts["background"] = (heads["background"](whole), batch["backgrounds"])
        loss = sum(cross_entropy(logits, target) for logits, target in parts.values())
        accuracy = {}
        for name, (logits, target) in parts.items():
            right = (logits.argmax(-1) == target)[target != IGNORED]
            accuracy[name] = right.float().mean().item()
        return loss, accuracy

    repaint = 0.5 if stage == 2 else 0.0

    def mean(records: list[dict[str, float]]) -> dict[str, float]:
        return {k: round(float(np.mean([r[k] for r in records])), 3) for k in records[0]}

    started, records = time.time(), []
    for step in range(first, steps):
        rng = np.random.default_rng([seed, stage, step])
        loss, accuracy = losses(_batch(processor, "train", rng, references, scenes, repaint))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        records.append(accuracy)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            line = {"step": step + 1, "minutes": round((time.time() - started) / 60, 1), **mean(records)}
            print(f"vision {stage}", json.dumps(line), flush=True)
            with open(out / f"vision{stage}.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            records = []
            save_checkpoint(
                {
                    "tower": tower.state_dict(),
                    "heads": heads.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                checkpoint,
            )
    with torch.no_grad():
        rng = np.random.default_rng([seed, 9])
        return mean([losses(_batch(processor, "val", rng, references, scenes, 0.0))[1] for _ in range(20)])
