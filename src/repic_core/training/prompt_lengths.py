"""How many tokens the prompts of a training set have, photos included, before anything is computed.

A prompt that is cut off would lose part of a photo's block of tokens, and no model can read the rest. So a prompt
that is too long is an error: photos are made smaller by a stated limit (``max_pixels``), never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from repic_core.io.decode import PhotoFault, opened
from repic_core.io.images import training_size
from repic_core.models.boxes import resized_size

NAMED = 5  # at most so many rows are named in a message


def prompt_lengths(dataset: Any, processor: Any, published_resize: bool = False) -> list[int]:
    """The number of tokens of each row's prompt, as the processor makes them; of photos only the size is read.

    Args:
        dataset: has the columns of `rows.to_dataset`.
        published_resize: as in `photos.decoded_once`.

    Raises:
        ValueError: a photo can't be read; names its file.
    """
    patches = processor.image_processor
    side = patches.patch_size * patches.merge_size

    def photo_tokens(image: Any, photos: int) -> int:
        size = _size(image)
        width, height = resized_size(*(training_size(size, photos) if published_resize else size), patches)
        return (width // side) * (height // side)

    lengths = []
    for prompt, images in zip(dataset["prompt"], stored_photos(dataset), strict=True):
        text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        written = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        shown = sum(photo_tokens(image, len(images)) for image in images)
        lengths.append(written - len(images) + shown)  # a placeholder per photo
    return lengths


def check_prompts(dataset: Any, processor: Any, limit: int, published_resize: bool = False) -> None:
    """ValueError if a prompt has more than `limit` tokens: names the rows and the ``max_pixels`` that would fit."""
    lengths = prompt_lengths(dataset, processor, published_resize)
    long = [number for number, length in enumerate(lengths, 1) if length > limit]
    if not long:
        return
    more = f" and {len(long) - NAMED} more" if len(long) > NAMED else ""
    named = ", ".join(f"{number} ({lengths[number - 1]:,} tokens)" for number in long[:NAMED])
    fix = _how_to_fit(dataset, long, processor, limit, published_resize)
    raise ValueError(f"rows: prompts longer than {limit:,} tokens in row {named}{more}: {fix}")


def _how_to_fit(dataset: Any, long: Sequence[int], processor: Any, limit: int, published_resize: bool) -> str:
    """What makes the rows fit: ``max_pixels`` halved until they do, or else shorter texts."""
    size = processor.image_processor.size
    rows, before = dataset.select([number - 1 for number in long]), size["longest_edge"]
    try:
        while size["longest_edge"] // 2 >= size["shortest_edge"]:
            size["longest_edge"] //= 2
            if max(prompt_lengths(rows, processor, published_resize)) <= limit:
                return f"with max_pixels {size['longest_edge']} they fit (now {before}), or give fewer references"
    finally:
        size["longest_edge"] = before
    return "smaller photos are not enough: shorten their texts, or give fewer references"


def stored_photos(dataset: Any) -> list[list[Any]]:
    """Each row's photos as they are stored, ``{"bytes", "path"}``, whatever format or transform the dataset has."""
    if "images" not in dataset.column_names:
        return [[] for _ in range(len(dataset))]
    return [row or [] for row in dataset.with_format("arrow")["images"].to_pylist()]


def _size(image: dict[str, Any]) -> tuple[int, int]:
    """Width and height of a stored photo."""
    return _header_size(image["bytes"]) if image["bytes"] else _file_size(image["path"])


@cache
def _file_size(path: str) -> tuple[int, int]:
    try:
        return _header_size(path)
    except OSError as error:
        raise ValueError(
            f"{path}: can't be read ({error}): put the photo back, or leave its rows out"
        ) from None
    except PhotoFault as fault:
        raise ValueError(f"{path} {fault}") from None


def _header_size(file: Any) -> tuple[int, int]:
    with opened(file) as image:
        return image.size
