"""How long the prompts of a training set are, photos included, before anything is computed.

A prompt that is cut off would lose part of a photo's block of tokens, which no model can read; so one that is too
long is an error, and photos are made smaller by a stated budget (``max_pixels``), not by cutting.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

from repic_core.models.boxes import resized_size

NAMED = 5  # rows that a message names


def prompt_lengths(dataset: Any, processor: Any) -> list[int]:
    """Tokens of each row's prompt as the processor makes them; of photos only the size is read.

    Args:
        dataset: the columns of `rows.to_dataset`.
    """
    patches = processor.image_processor
    side = patches.patch_size * patches.merge_size

    def photo_tokens(image: Any) -> int:
        wide, high = resized_size(*_size(image), patches)
        return wide // side * (high // side)

    lengths = []
    for prompt, images in zip(dataset["prompt"], _undecoded(dataset), strict=True):
        text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        written = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        lengths.append(written - len(images) + sum(map(photo_tokens, images)))  # one placeholder a photo
    return lengths


def check_prompts(dataset: Any, processor: Any, limit: int) -> None:
    """ValueError if a prompt has more than `limit` tokens: which rows, and what ``max_pixels`` would do."""
    lengths = prompt_lengths(dataset, processor)
    long = [number for number, length in enumerate(lengths, 1) if length > limit]
    if not long:
        return
    more = f" and {len(long) - NAMED} more" if len(long) > NAMED else ""
    named = ", ".join(f"{number} ({lengths[number - 1]:,} tokens)" for number in long[:NAMED])
    raise ValueError(
        f"rows: prompts longer than {limit:,} tokens in row {named}{more}: {_mend(dataset, long, processor, limit)}"
    )


def _mend(dataset: Any, long: Sequence[int], processor: Any, limit: int) -> str:
    """What makes the rows fit: the largest ``max_pixels`` of halves of the present one, if any does."""
    size = processor.image_processor.size
    rows, before = dataset.select([number - 1 for number in long]), size["longest_edge"]
    try:
        while size["longest_edge"] // 2 >= size["shortest_edge"]:
            size["longest_edge"] //= 2
            if max(prompt_lengths(rows, processor)) <= limit:
                return f"with max_pixels {size['longest_edge']} they fit (now {before}), or give fewer references"
    finally:
        size["longest_edge"] = before
    return "smaller photos do not suffice: shorten their texts, or give fewer references"


def _undecoded(dataset: Any) -> list[list[Any]]:
    """Each row's photos as they are stored, ``{"bytes", "path"}``."""
    if "images" not in dataset.column_names:
        return [[] for _ in range(len(dataset))]
    return [row or [] for row in dataset.with_format("arrow")["images"].to_pylist()]


def _size(image: dict[str, Any]) -> tuple[int, int]:
    return _file_size(image["path"]) if not image["bytes"] else _header(io.BytesIO(image["bytes"]))


@cache
def _file_size(path: str) -> tuple[int, int]:
    try:
        return _header(path)
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error}): is the photo still there?") from None


def _header(file: Any) -> tuple[int, int]:
    from PIL import Image

    with Image.open(file) as image:
        return image.size
