"""Photos: opened as a model is to see them, checked before use, put side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from repic_core.io.files import replaced

MAX_ASPECT = 200  # of the longer side to the shorter: what the processors take
COLLAGE_HEIGHT = 448  # pixels at most; that of the authors' DreamBooth photos


def open_image(image: Any) -> Any:
    """`image` (path or PIL image) as an RGB PIL image, upright by its EXIF orientation, on white where it is
    transparent (as the processors do it).

    Raises:
        ValueError: naming the file that is missing or that is no readable image.
    """
    from PIL import Image, ImageOps

    in_memory = isinstance(image, Image.Image)
    name = (getattr(image, "filename", "") or "the image") if in_memory else image
    try:
        with nullcontext(image) if in_memory else Image.open(image) as opened:
            upright = ImageOps.exif_transpose(opened)
            if max(upright.size) >= MAX_ASPECT * min(upright.size):
                raise ValueError(f"{upright.width} x {upright.height} is too long for the model; crop it")
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(white, upright).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{name}: no such image") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{name}: unreadable image ({error}): replace the file") from None


def image_fault(path: Path) -> str | None:
    """What is wrong with a photo, if something is; it is read to its end, JPEGs at a fraction of their size."""
    from PIL import Image

    if not path.is_file():
        return f"is no file under {path.parent}"
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft(None, (64, 64))
            image.load()
    except Exception as error:  # Pillow's decoders raise many kinds
        return f"is no readable image ({error}): replace the file"
    if max(size) >= MAX_ASPECT * min(size):
        return f"is too long for the model ({size[0]} x {size[1]} pixels): crop it"
    return None


def image_hash(image: Any) -> str:
    """What tells a photo from others: a hash of the file's bytes, or of an image's size and pixels.

    Raises:
        OSError: there is no such file.
    """
    if isinstance(image, str | Path):
        return hashlib.sha256(Path(image).read_bytes()).hexdigest()
    opened = open_image(image)
    return hashlib.sha256(f"{opened.size}".encode() + opened.tobytes()).hexdigest()


def write_collage(root: str | Path, files: Sequence[str], folder: str | Path) -> str:
    """Write photos side by side, at one height, as a JPEG named for its pixels; its path relative to `root`.

    Args:
        files: relative to `root`.
    """
    from PIL import Image

    root, folder = Path(root).resolve(), Path(folder).resolve()
    photos = [open_image(root / file) for file in files]
    height = min(COLLAGE_HEIGHT, *(photo.height for photo in photos))
    photos = [photo.resize((max(1, photo.width * height // photo.height), height)) for photo in photos]
    collage = Image.new("RGB", (sum(photo.width for photo in photos), height))
    for number, photo in enumerate(photos):
        collage.paste(photo, (sum(before.width for before in photos[:number]), 0))
    path = folder / f"{hashlib.sha256(collage.tobytes()).hexdigest()[:16]}.jpg"
    with replaced(path) as file:
        collage.save(file, "JPEG", quality=90)
    return Path(os.path.relpath(path, root)).as_posix()
