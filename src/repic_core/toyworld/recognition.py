"""First phase of a base for the drawn world: its vision tower learns who is who.

The tower is trained alone, with linear heads that are dropped afterwards, except for `embed`, by which recognition
is measured. A drawing's embedding is read from the mean of a reference's tokens and from the token at the centre of
its box in a scene; both views of one identity have to be nearer than those of all others in the batch, siblings
among them (InfoNCE). The other heads read kind, subgroup and colour there, and from a scene's tokens where drawings
are, how far their boxes reach, each token's row and column, and the background.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.io.files import replaced
from repic_core.models.vision import use_batched_vision
from repic_core.toyworld.atlas import COLORS
from repic_core.toyworld.drawings import Drawing, all_drawings, pick, siblings
from repic_core.toyworld.photos import (
    BACKGROUNDS,
    MOST_SHOWN,
    REFERENCE_SIDE,
    SCENE_SIDE,
    Box,
    draw_reference,
    draw_scene,
)

HIDDEN = 128
PATCH, TOKEN = 8, 16  # pixels; 2 x 2 patches make one visual token
GRID, REFERENCE_GRID = SCENE_SIDE // TOKEN, REFERENCE_SIDE // TOKEN  # visual tokens per side
TEMPERATURE = 0.07
# Shares of scenes with 1 to 7 drawings, and of scenes whose drawings are mostly siblings.
SHOWN_WEIGHTS = (0.04, 0.10, 0.16, 0.20, 0.20, 0.16, 0.14)
HARD = 0.35
# Steps between checkpoints and lines of the log.
SAVED_EVERY = 100


def make_tower(seed: int = 0) -> Any:
    """A new vision tower of Qwen2.5-VL, about 1.1M parameters."""
    import torch
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    torch.manual_seed(seed)
    tower = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**vision_config()))
    return use_batched_vision(tower)


def vision_config() -> dict[str, Any]:
    """The tower's configuration: full attention in every layer."""
    depth = 4
    return {
        "depth": depth,
        "hidden_size": HIDDEN,
        "intermediate_size": 320,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 224,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": list(range(depth)),
        "initializer_range": 0.04,
    }


def make_heads() -> Any:
    """The heads that are trained with the tower, by name."""
    from torch import nn

    facts = [len(values) for values in fact_values()]
    return nn.ModuleDict(
        {
            "embed": nn.Linear(HIDDEN, 64),
            "facts": nn.Linear(HIDDEN, sum(facts)),
            "centre": nn.Linear(HIDDEN, 1),
            "box": nn.Linear(HIDDEN, 4),
            "cell": nn.Linear(HIDDEN, 2 * GRID),
            "background": nn.Linear(HIDDEN, len(BACKGROUNDS)),
        }
    )


@cache
def fact_values() -> tuple[tuple[str, ...], ...]:
    """The kinds, subgroups and colours that drawings have."""
    found = all_drawings()
    kinds, subgroups = ({getattr(one, key) for one in found} for key in ("kind", "subgroup"))
    return tuple(sorted(kinds)), tuple(sorted(subgroups)), tuple(COLORS)


def facts_of(drawing: Drawing) -> list[int]:
    """The place of a drawing's kind, subgroup and colour among `fact_values`."""
    own = (drawing.kind, drawing.subgroup, drawing.color)
    return [values.index(value) for values, value in zip(fact_values(), own, strict=True)]


def pixel_values(image_processor: Any, images: list[np.ndarray]) -> dict[str, Any]:
    """`pixel_values` and `image_grid_thw` of uint8 (height, width, 3) arrays."""
    import torch

    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return dict(image_processor(images=tensors, return_tensors="pt"))


def patches(images: list[np.ndarray]) -> dict[str, Any]:
    """`pixel_values` with the drawn world's own image processor, which leaves its photos as they are."""
    return pixel_values(_image_processor(), images)


@cache
def _image_processor() -> Any:
    from transformers import Qwen2VLImageProcessor

    size = {"shortest_edge": REFERENCE_SIDE**2, "longest_edge": SCENE_SIDE**2}
    return Qwen2VLImageProcessor(size=size, patch_size=PATCH, merge_size=2, temporal_patch_size=2)


def centre_token(box: Box) -> tuple[int, int]:
    """The row and column of the scene's visual token at the centre of a box.

    >>> centre_token((0, 0, 40, 70))
    (2, 1)
    """
    return (box[1] + box[3]) // 2 // TOKEN, (box[0] + box[2]) // 2 // TOKEN


def make_batch(split: str, rng: np.random.Generator, scenes: int, hard: float = HARD) -> dict[str, Any]:
    """Scenes and, for each drawing in them, one reference photo.

    `where` (n,) is the token at the centre of each drawing's box, counted through all scenes' tokens; `facts`
    (n, 3) as in `facts_of`; `reach` (n, 4) how far the box's sides are from the token's centre, in tokens.
    """
    import torch

    shown: list[Drawing] = []
    images, where, reach, backgrounds = [], [], [], []
    for number in range(scenes):
        present = pick(int(rng.choice(MOST_SHOWN, p=SHOWN_WEIGHTS)) + 1, rng, split, hard)
        scene = draw_scene(present, rng)
        images.append(scene.image)
        backgrounds.append(list(BACKGROUNDS).index(scene.background))
        for x1, y1, x2, y2 in scene.boxes:
            row, column = centre_token((x1, y1, x2, y2))
            where.append((number * GRID + row) * GRID + column)
            x, y = (column + 0.5) * TOKEN, (row + 0.5) * TOKEN
            reach.append([(x - x1) / TOKEN, (y - y1) / TOKEN, (x2 - x) / TOKEN, (y2 - y) / TOKEN])
        shown += present
    references = [draw_reference(one, rng) for one in shown]
    return {
        **patches([*references, *images]),
        "identities": torch.tensor([one.number for one in shown]),
        "facts": torch.tensor([facts_of(one) for one in shown]),
        "where": torch.tensor(where),
        "reach": torch.tensor(reach, dtype=torch.float32),
        "backgrounds": torch.tensor(backgrounds),
    }


def _batch_of_step(step: int, seed: int, scenes: int) -> dict[str, Any]:
    return make_batch("train", np.random.default_rng([seed, step]), scenes)


def prepared(make: Callable[[int], Any], first: int, last: int) -> Iterator[Any]:
    """``make(step)`` for `first` up to `last` (exclusive), in order, drawn by a process beside the training's.

    Args:
        make: a function that can be pickled.
    """
    from torch.utils.data import DataLoader

    return iter(DataLoader(range(first, last), batch_size=None, collate_fn=make, num_workers=1))


def read_batch(tower: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Tokens of references (n, HIDDEN, their mean), of drawings in scenes (n, HIDDEN), of scenes (all, HIDDEN)."""
    tokens = tower(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
    n = len(batch["where"])
    split = n * REFERENCE_GRID**2
    references = tokens[:split].view(n, REFERENCE_GRID**2, HIDDEN).mean(1)
    scenes = tokens[split:]
    return references, scenes[batch["where"]], scenes


def batch_loss(tower: Any, heads: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, float]]:
    """The loss of a batch, and the shares of right answers to log (of boxes, the mean error in pixels)."""
    import torch
    from torch.nn.functional import (
        binary_cross_entropy_with_logits,
        cross_entropy,
        normalize,
        smooth_l1_loss,
    )

    references, shown, scenes = read_batch(tower, batch)
    one, two = (normalize(heads["embed"](x), dim=-1) for x in (references, shown))
    alike = one @ two.T / TEMPERATURE
    same = batch["identities"][:, None] == batch["identities"]
    # Other views of the same identity are neither right nor wrong.
    alike = alike.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool), -torch.inf)
    target = torch.arange(len(alike))
    loss = (cross_entropy(alike, target) + cross_entropy(alike.T, target)) / 2
    log = {"match": (alike.T.argmax(-1) == target).float().mean().item()}
    sizes = [len(values) for values in fact_values()]
    for name, tokens in (("reference", references), ("scene", shown)):
        for i, logits in enumerate(heads["facts"](tokens).split(sizes, -1)):
            loss = loss + 0.15 * cross_entropy(logits, batch["facts"][:, i])
            right = (logits.argmax(-1) == batch["facts"][:, i]).float().mean().item()
            log[f"{name}_{('kind', 'subgroup', 'color')[i]}"] = right
    centre = torch.zeros(len(scenes))
    centre[batch["where"]] = 1
    logits = heads["centre"](scenes)[:, 0]
    loss = loss + binary_cross_entropy_with_logits(logits, centre, pos_weight=torch.tensor(8.0))
    # Rows and columns are told from the tokens only if the tower learns to: its own positions are relative.
    rows, columns = heads["cell"](scenes).split(GRID, -1)
    row = torch.arange(GRID).repeat_interleave(GRID).repeat(len(scenes) // GRID**2)
    column = torch.arange(GRID).repeat(len(scenes) // GRID)
    loss = loss + 0.3 * (cross_entropy(rows, row) + cross_entropy(columns, column))
    log["cell"] = ((rows.argmax(-1) == row) & (columns.argmax(-1) == column)).float().mean().item()
    reach = heads["box"](shown)
    loss = loss + smooth_l1_loss(reach, batch["reach"])
    log["box_error"] = (reach - batch["reach"]).abs().mean().item() * TOKEN
    whole = heads["background"](scenes.view(-1, GRID * GRID, HIDDEN).mean(1))
    loss = loss + 0.3 * cross_entropy(whole, batch["backgrounds"])
    log["background"] = (whole.argmax(-1) == batch["backgrounds"]).float().mean().item()
    return loss, log


def train_tower(
    tower: Any, heads: Any, steps: int, out: Path, seed: int = 0, scenes: int = 16, lr: float = 1.2e-3
) -> None:
    """Train in place; logs to ``out/recognition.jsonl`` and resumes from ``out/recognition.pt``.

    Raises:
        ValueError: the checkpoint is of a training of another number of steps.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    parts = {"tower": tower, "heads": heads, "optimizer": optimizer, "schedule": schedule}
    checkpoint, first = out / "recognition.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        if schedule.total_steps != steps:
            raise ValueError(
                f"{checkpoint} is of a training of {schedule.total_steps} steps, not {steps}; "
                "use another folder or remove it"
            )
        first = state["step"]
    started, records = time.time(), []
    batches = prepared(partial(_batch_of_step, seed=seed, scenes=scenes), first, steps)
    for step, batch in enumerate(batches, first):
        loss, log = batch_loss(tower, heads, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        records.append({"loss": loss.item(), **log})
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            mean = {key: round(float(np.mean([one[key] for one in records])), 3) for key in records[0]}
            line = {"step": step + 1, "minutes": round((time.time() - started) / 60, 1), **mean}
            print("recognition", json.dumps(line), flush=True)
            with open(out / "recognition.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            records = []
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}
            with replaced(checkpoint) as file:
                torch.save(state, file)


def measure_recognition(tower: Any, heads: Any, split: str, n: int = 300, seed: int = 0) -> dict[str, float]:
    """How often a drawing of a held-out scene is nearest to its own reference, in percent.

    "<k> random" and "<k> siblings": among the references of `k` identities, drawn at random or from one subgroup.
    """
    import torch
    from torch.nn.functional import normalize

    groups = siblings(split)
    found: dict[str, float] = {}
    for k in (2, 4, 7):
        for kind in ("random", "siblings"):
            rng = np.random.default_rng([seed, k, len(kind)])
            large = [name for name, members in groups.items() if len(members) >= k]
            right = total = 0
            while total < n:
                if kind == "random":
                    shown = pick(k, rng, split, 0.0)
                else:
                    members = groups[large[rng.integers(len(large))]]
                    shown = [members[i] for i in rng.permutation(len(members))[:k]]
                one, two = embed_scene(tower, heads, shown, rng)
                nearest = (normalize(two, dim=-1) @ normalize(one, dim=-1).T).argmax(-1)
                right += int((nearest == torch.arange(k)).sum())
                total += k
            found[f"{k} {kind}"] = round(100 * right / total, 1)
    return found


def embed_scene(tower: Any, heads: Any, shown: list[Drawing], rng: np.random.Generator) -> tuple[Any, Any]:
    """Embeddings (k, 64) of new references of `shown` and of the same drawings in a new scene."""
    import torch

    scene = draw_scene(shown, rng)
    photos = patches([*(draw_reference(one, rng) for one in shown), scene.image])
    where = [row * GRID + column for row, column in map(centre_token, scene.boxes)]
    with torch.no_grad():
        references, there, _ = read_batch(tower, {**photos, "where": torch.tensor(where)})
        return heads["embed"](references), heads["embed"](there)
