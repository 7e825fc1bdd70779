"""The photos of a GRPO step, each opened, resized and turned into patches once."""

from __future__ import annotations

import hashlib
from typing import Any

import datasets
import torch
from PIL import ExifTags, Image

from repic_core.training.shared_prefix import first_of_each, select_patches


def photo_key(image: Any) -> Any:
    """What is equal for equal photos, and for no others: all that decides how a PIL image looks; a path itself."""
    if not isinstance(image, Image.Image):
        return image if isinstance(image, str | None) else id(image)
    looks = (
        image.getpalette(),
        image.info.get("transparency"),
        image.getexif().get(ExifTags.Base.Orientation),
    )
    return image.mode, image.size, repr(looks), hashlib.sha256(image.tobytes()).digest()


class EachPhotoOnce:
    """An image processor that resizes and patches equal photos once; `index`: for each photo, which of them."""

    def __init__(self, image_processor: Any) -> None:
        self._own = image_processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        flat = [photo for row in images for photo in (row if isinstance(row, list | tuple) else [row])]
        known: dict[Any, int] = {}
        self.index = [known.setdefault(photo_key(photo), len(known)) for photo in flat]
        fields = self._own([flat[i] for i in first_of_each(self.index)], **kwargs)
        grids = torch.as_tensor(fields["image_grid_thw"])
        fields["image_grid_thw"] = grids[self.index]
        fields["pixel_values"] = select_patches(torch.as_tensor(fields["pixel_values"]), grids, self.index)
        return fields


def undecoded(dataset: Any) -> Any:
    """A dataset (or a dict of them) with its photos as files, which `decoded_once` opens: each once a step.

    Columns that are decoded in another way than `datasets` does by itself stay as they are.
    """
    if isinstance(dataset, dict):
        return {name: undecoded(one) for name, one in dataset.items()}
    features = getattr(dataset, "features", None) or {}
    own_format = (getattr(dataset, "format", None) or {}).get("type")
    for name, feature, closed in (
        ("images", datasets.List(datasets.Image()), datasets.List(datasets.Image(decode=False))),
        ("image", datasets.Image(), datasets.Image(decode=False)),
    ):
        if features.get(name) == feature and own_format is None:
            dataset = dataset.cast_column(name, closed)
    return dataset


def decoded_once(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with every photo opened once; rows with the same photo share the object."""
    opened: dict[Any, Any] = {}

    def photo(image: Any) -> Any:
        if not isinstance(image, dict):
            return image
        key = image["path"] if image.get("bytes") is None else image["bytes"]
        if key not in opened:
            try:
                opened[key] = datasets.Image().decode_example(image)
            except OSError as error:  # gone, cut off, no image; not all of these name the file
                reason = error.strerror or str(error)
                raise OSError(error.errno, reason, image["path"] or "a photo in memory") from None
        return opened[key]

    rows = []
    for row in inputs:
        photos: dict[str, Any] = {}
        if row.get("images"):
            photos["images"] = [photo(image) for image in row["images"]]
        if row.get("image") is not None:
            photos["image"] = photo(row["image"])
        rows.append({**row, **photos})
    return rows
