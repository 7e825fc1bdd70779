"""Photos: opened as a model should see them, checked before use, put side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from repic_core.io.files import replaced

MAX_ASPECT = 200  # longer side / shorter side: what the processors accept
COLLAGE_HEIGHT = 448  # pixels at most; the height of the authors' DreamBooth photos


def open_image(image: Any) -> Any:
    """`image` (path or PIL image) as an RGB PIL image, turned upright by its EXIF orientation.

    Transparent parts become white, as in the processors.

    Raises:
        ValueError: the file is missing or is not a readable image, or it is too long for a model; names the file.
    """
    from PIL import Image, ImageOps

    in_memory = isinstance(image, Image.Image)
    name = (getattr(image, "filename", "") or "the image") if in_memory else image
    try:
        opening = nullcontext(image) if in_memory else Image.open(image)
        with opening as opened:
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
    """What is wrong with a photo, to be put after its name in a message; None if nothing is wrong.

    The file is read to its end; JPEGs are decoded at a fraction of their size.
    """
    from PIL import Image

    if not path.exists():
        return f"does not exist under {path.parent}"
    if not path.is_file():
        return "is not a file: give a photo"
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft(None, (64, 64))
            image.load()
    except Exception as error:  # Pillow's decoders raise many kinds
        return f"is not a readable image ({error}): replace the file"
    if max(size) >= MAX_ASPECT * min(size):
        return f"is too long for the model ({size[0]} x {size[1]} pixels): crop it"
    return None


def image_hash(image: Any) -> str:
    """A hash that identifies a photo: of the file's bytes, or of the size and pixels of a PIL image.

    Raises:
        OSError: the file can't be read.
    """
    if isinstance(image, str | Path):
        return hashlib.sha256(Path(image).read_bytes()).hexdigest()
    opened = open_image(image)
    return hashlib.sha256(f"{opened.size}".encode() + opened.tobytes()).hexdigest()


def write_collage(root: str | Path, files: Sequence[str], folder: str | Path) -> str:
    """Write photos side by side, at one height, as a JPEG that is named for its pixels.

    Args:
        files: the photos' paths relative to `root`.
        folder: where the JPEG is written.

    Returns:
        The JPEG's path relative to `root`.
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
