"""Each photo once: which photos are equal, and rows whose equal photos are opened, resized and patched only once.

Many rows of a training set show the same reference photos; `trainer` therefore opens them itself (`undecoded`,
`decoded_once`) and lets the image processor see each one once (`EachPhotoOnce`).
"""

from __future__ import annotations

import hashlib
from typing import Any

import datasets
import torch
from datasets.utils.file_utils import is_local_path
from PIL import ExifTags, Image

from repic_core.io.decode import eight_bits, opened, orientation, rgb, turned
from repic_core.io.images import check_aspect, training_size
from repic_core.training.shared_prefix import first_of_each, select_patches


def photo_key(image: Any) -> Any:
    """A key that photos share only if they look the same: all that decides a PIL image's look, or its path."""
    if not isinstance(image, Image.Image):
        return image if isinstance(image, str | None) else id(image)
    looks = (
        image.getpalette(),
        image.info.get("transparency"),
        image.getexif().get(ExifTags.Base.Orientation),
    )
    return image.mode, image.size, repr(looks), hashlib.sha256(image.tobytes()).digest()


class EachPhotoOnce:
    """An image processor that resizes and patches equal photos once.

    After a call, `index` gives for each photo its number among the different ones.
    """

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
    """A dataset, or a dict of datasets, that yields photos as ``{"bytes", "path"}``, for `decoded_once` to open.

    Only the columns ``images`` and ``image`` change, and only if `datasets` would open them in its default way; a
    dataset with another mode, format or transform stays as it is.
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


def decoded_once(inputs: list[dict[str, Any]], published_resize: bool = False) -> list[dict[str, Any]]:
    """The rows of `undecoded` with their photos as PIL images; the same photo is one object in all rows.

    They are what `datasets` would make of them, except that a photo of more than eight bits a channel is scaled and
    one with a broken EXIF tag is turned.

    Args:
        published_resize: resize each as in the authors' training (`images.training_size`), in RGB.

    Raises:
        OSError: a photo can't be opened, or is too long for a model; its `filename` names it, and its `photo` is
            what the row has.
    """
    opened_once: dict[Any, Any] = {}

    def photo(image: Any, photos: int) -> Any:
        if not isinstance(image, dict):  # the dataset opens its photos in its own way
            return _resized(image, photos) if published_resize else image
        source = image["path"] if image.get("bytes") is None else image["bytes"]
        key = source, published_resize and photos == 1
        if key not in opened_once:
            decoded = _decoded(image)
            opened_once[key] = _resized(decoded, photos) if published_resize else decoded
        return opened_once[key]

    rows = []
    for row in inputs:
        photos: dict[str, Any] = {}
        if row.get("images"):
            photos["images"] = [photo(image, len(row["images"])) for image in row["images"]]
        if row.get("image") is not None:
            photos["image"] = photo(row["image"], 1)
        rows.append({**row, **photos})
    return rows


def _resized(photo: Any, photos: int) -> Any:
    """`photo` in RGB, as one of so many of a row in the authors' training."""
    size = training_size(photo.size, photos)
    return photo if size == photo.size else rgb(photo, 1).resize(size, Image.Resampling.LANCZOS)


def _decoded(image: dict[str, Any]) -> Any:
    try:
        if image.get("bytes") is None and not is_local_path(image["path"]):
            return datasets.Image().decode_example(image)  # an address on the hub
        with opened(image["path"] if image.get("bytes") is None else image["bytes"]) as found:
            check_aspect(found.size)
            found.load()
            # Ordinary photos keep their mode, so that the processor sees what it sees in TRL.
            return turned(eight_bits(found), orientation(found))
    except Exception as error:  # missing, cut off, not an image; Pillow's decoders raise many kinds
        reason = getattr(error, "strerror", None) or str(error)
        failure = OSError(getattr(error, "errno", None), reason, image["path"] or "a photo in memory")
        failure.photo = image
        raise failure from None
