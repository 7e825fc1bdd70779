"""The groups of a GRPO batch: which rows share a prompt, and how rows are split so that groups stay whole.

A batch is a dict of TRL's fields. Its `prompt_index` gives the number of each row's prompt; fields of images
(`IMAGE_FIELDS`, ``features``) hold the images of each prompt once, in the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from repic_core.models.vision import select_features
from repic_core.training.photos import photo_key
from repic_core.training.shared_prefix import select_patches

IMAGE_FIELDS = ("pixel_values", "image_grid_thw")


def find_groups(prompts: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The number of each prompt's group, and the first row of each group.

    Rows are one group if their messages have the same texts and the same photos (`photo_key`).
    """
    photo_keys: dict[int, Any] = {}  # by the photo object's id

    def key_of(image: Any) -> Any:
        if id(image) not in photo_keys:
            photo_keys[id(image)] = photo_key(image)
        return photo_keys[id(image)]

    def message_key(message: dict[str, Any]) -> tuple[Any, ...]:
        content = message["content"]
        if not isinstance(content, list):
            return message["role"], content
        blocks = [(block["type"], block.get("text"), key_of(block.get("image"))) for block in content]
        return message["role"], *blocks

    known: dict[Any, int] = {}
    first, index = [], []
    for row, messages in enumerate(prompts):
        key = messages if isinstance(messages, str) else tuple(map(message_key, messages))
        if key not in known:
            known[key] = len(first)
            first.append(row)
        index.append(known[key])
    return index, first


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
        drawn = torch.randperm(
            len(index)
        ).tolist()  # drawn as TRL does, so that later random numbers are the same
        if len(lengths) == 1 and size % lengths.pop() == 0:
            rows = [row for prompt in dict.fromkeys(index[i] for i in drawn) for row in members[prompt]]
    return [_take(batch, rows[start : start + size]) for start in range(0, len(rows), size)]


def _take(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some rows of a batch, with the image fields of their prompts; None if these show no images."""
    index = batch["prompt_index"]
    prompts = list(dict.fromkeys(index[row] for row in rows))
    images = _images_of(batch, prompts)
    taken: dict[str, Any] = {"prompt_index": [prompts.index(index[row]) for row in rows]}
    for name, value in batch.items():
        if name == "prompt_index":
            continue
        if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
            taken[name] = value
        elif name in (*IMAGE_FIELDS, "features") and not images:
            taken[name] = None
        elif name == "features":
            taken[name] = select_features(value, images)
        elif name == "image_grid_thw":
            taken[name] = value[images]
        elif name == "pixel_values":
            taken[name] = select_patches(value, batch["image_grid_thw"], images)
        elif isinstance(value, torch.Tensor):
            taken[name] = value[rows]
        else:
            taken[name] = [value[row] for row in rows]
    return taken


def _images_of(batch: dict[str, Any], prompts: list[int]) -> list[int]:
    """The numbers of the images that these prompts show."""
    counts = batch.get("num_images")
    if counts is None:
        return []
    count_of = {prompt: counts[row] for row, prompt in enumerate(batch["prompt_index"])}
    start_of = {prompt: sum(count_of[earlier] for earlier in range(prompt)) for prompt in prompts}
    return [
        image for prompt in prompts for image in range(start_of[prompt], start_of[prompt] + count_of[prompt])
    ]
