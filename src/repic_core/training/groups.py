"""The rows of a GRPO step: which of them share a prompt, and how a batch of them is split.

A batch is a dict of TRL's fields, in which `prompt_index` says for each row which prompt it has; fields of images
(`IMAGE_FIELDS`, ``features``) hold each prompt's once, in the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from repic_core.training.photos import photo_key
from repic_core.training.shared_prefix import select_features, select_patches

IMAGE_FIELDS = ("pixel_values", "image_grid_thw")


def split_by_group(batch: dict[str, Any], parts: int, shuffle: bool = True) -> list[dict[str, Any]]:
    """Split the rows of a batch into `parts` of equal size that hold whole groups, groups in random order.

    Where groups can't stay whole, the rows stay in order and a group is spread over neighbouring parts.
    """
    index = batch["prompt_index"]
    size = -(-len(index) // parts)
    members: dict[int, list[int]] = {}
    for row, prompt in enumerate(index):
        members.setdefault(prompt, []).append(row)
    lengths = {len(rows) for rows in members.values()}
    rows = list(range(len(index)))
    if shuffle:
        drawn = torch.randperm(len(index)).tolist()  # as TRL draws: all later random numbers are the same
        if len(lengths) == 1 and size % lengths.pop() == 0:
            rows = [row for prompt in dict.fromkeys(index[i] for i in drawn) for row in members[prompt]]
    return [_take(batch, rows[start : start + size]) for start in range(0, len(rows), size)]


def _take(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some rows of a batch, with the image fields of their prompts."""
    prompts = list(dict.fromkeys(batch["prompt_index"][row] for row in rows))
    taken: dict[str, Any] = {"prompt_index": [prompts.index(batch["prompt_index"][row]) for row in rows]}
    counts = batch.get("num_images")
    if counts is not None:
        all_prompts = {prompt: counts[row] for row, prompt in enumerate(batch["prompt_index"])}
        starts = {p: sum(all_prompts[q] for q in range(p)) for p in prompts}
        images = [i for p in prompts for i in range(starts[p], starts[p] + all_prompts[p])]
    for name, value in batch.items():
        if name == "prompt_index":
            continue
        if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
            taken[name] = value
        elif name == "features":
            taken[name] = select_features(value, images)
        elif name == "image_grid_thw":
            taken[name] = value[images]
        elif name == "pixel_values":
            taken[name] = select_patches(value, batch["image_grid_thw"], images)
        else:
            taken[name] = value[rows] if isinstance(value, torch.Tensor) else [value[row] for row in rows]
    return taken


def groups(prompts: Sequence[Any]) -> tuple[list[int], list[int]]:
    """For each of a batch's prompts the number of its group, and the first row of each group.

    Rows are one group if they say the same and show the same photos (`photo_key`).
    """
    keys: dict[int, Any] = {}  # of each photo object

    def photo(image: Any) -> Any:
        if id(image) not in keys:
            keys[id(image)] = photo_key(image)
        return keys[id(image)]

    known: dict[Any, int] = {}
    first, index = [], []
    for row, messages in enumerate(prompts):
        said: Any = messages  # a text
        if not isinstance(messages, str):
            said = tuple(
                (m["role"], *((b["type"], b.get("text"), photo(b.get("image"))) for b in m["content"]))
                if isinstance(m["content"], list)
                else (m["role"], m["content"])
                for m in messages
            )
        if said not in known:
            known[said] = len(first)
            first.append(row)
        index.append(known[said])
    return index, first
