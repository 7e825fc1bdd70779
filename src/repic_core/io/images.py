"""Photos: opened as a model should see them, checked before use, put side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from repic_core.io.decode import PhotoFault, eight_bits, opened, orientation, rgb, scaled
from repic_core.io.files import replaced

MAX_ASPECT = 200  # longer side / shorter side: what the processors accept
# Of the processors here none leaves a photo more than 13 million, so that what a model sees is hardly changed.
MODEL_PIXELS = 20_000_000
COLLAGE_HEIGHT = 448  # pixels at most; the height of the authors' DreamBooth photos


def open_image(image: Any, longest: int | None = None, most: int | None = None) -> Any:
    """`image` (path, PIL image or array) as an RGB PIL image, turned upright by its EXIF orientation.

    Transparent parts become white, as in the processors. More than eight bits a channel are scaled to eight
    (`decode.scaled`).

    Args:
        longest: shrink a photo whose longer side has more pixels to this; large JPEGs are decoded small.
        most: shrink a photo of more pixels to about so many in all.

    Raises:
        ValueError: the file is missing or is not a readable image, it is too long for a model, or its values have
            no known scale; names the file.
    """
    name = image if isinstance(image, str | Path) else (getattr(image, "filename", "") or "the image")
    try:
        with _source(image) as found:
            return upright_rgb(found, longest, most)
    except FileNotFoundError:
        raise ValueError(f"{name}: no such image") from None
    except PhotoFault as fault:
        raise ValueError(f"{name}: {fault}") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{name}: unreadable image ({error}): replace the file") from None


def open_for_model(image: Any) -> Any:
    """`open_image` with at most about `MODEL_PIXELS`, so that photos of 50 megapixels take less memory."""
    return open_image(image, most=MODEL_PIXELS)


def _source(image: Any) -> Any:
    """Context manager that gives `image` as a PIL image, which is closed only if it was opened here."""
    from PIL import Image

    if isinstance(image, Image.Image):
        image.load()  # so that `draft` does not change it
        return nullcontext(image)
    if hasattr(image, "__array_interface__"):
        return nullcontext(Image.fromarray(scaled(image)))
    return opened(image)


def training_size(size: tuple[int, int], photos: int) -> tuple[int, int]:
    """(width, height) in pixels of a photo in the authors' training, before the processor's own resize.

    If a side is longer than 512 pixels (1024 in a row of one photo), the shorter side becomes 512 (1024), so that
    long photos are also enlarged (`grpo_trainer.py`, lines 516 to 540).

    Args:
        photos: how many photos the row shows. (Upstream takes a list of one photo as one of several.)

    >>> training_size((600, 300), 3), training_size((600, 300), 1), training_size((3000, 4000), 1)
    ((1024, 512), (600, 300), (1024, 1365))
    """
    side = 1024 if photos == 1 else 512
    width, height = size
    if max(size) <= side:
        return size
    if width < height:
        return side, int(height * (side / width))
    return int(width * (side / height)), side


def check_aspect(size: tuple[int, int]) -> None:
    """`PhotoFault` if a photo of this width and height is too long for the processors."""
    if max(size) >= MAX_ASPECT * min(size):
        raise PhotoFault(f"is too long for the model ({size[0]} x {size[1]} pixels): crop it")


def upright_rgb(image: Any, longest: int | None = None, most: int | None = None) -> Any:
    """`decode.rgb` of an open image, turned by its EXIF; `longest` and `most` as in `open_image`.

    It is shrunk before it is copied several times, so that 50 megapixels take little memory.

    Raises:
        PhotoFault: it is too long for a model, or its values have no known scale.
        Exception: whatever Pillow's decoders raise.
    """
    from PIL import ImageOps

    check_aspect(image.size)
    if most is not None and image.width * image.height > most:
        side = round(max(image.size) * (most / (image.width * image.height)) ** 0.5)
        longest = min(side, longest or side)
    large = longest is not None and max(image.size) > longest
    if large:
        image.draft("RGB", (longest, longest))
    image.load()  # before EXIF is looked for, which would hide that the photo is cut off
    turn = orientation(image)
    image = eight_bits(image)
    if large:
        if image.mode in ("1", "P", "PA"):  # Pillow could only drop pixels of these
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image = ImageOps.contain(image, (longest, longest))
    return rgb(image, turn)


def image_fault(photo: Path | bytes) -> str | None:
    """What is wrong with a photo (path or content), to be put after its name in a message; None if nothing is.

    The file is read to its end; JPEGs are decoded at a fraction of their size.
    """
    if isinstance(photo, Path) and not photo.exists():
        return f"does not exist under {photo.parent}"
    if isinstance(photo, Path) and not photo.is_file():
        return "is not a file: give a photo"
    try:
        with opened(photo) as image:
            check_aspect(image.size)
            image.draft(None, (64, 64))
            image.load()
            eight_bits(image)
    except PhotoFault as fault:
        return str(fault)
    except Exception as error:  # Pillow's decoders raise many kinds
        return f"is not a readable image ({error}): replace the file"
    return None


def image_hash(image: Any) -> str:
    """A hash that identifies a photo: of the file's bytes, or of the size and pixels of a PIL image.

    Raises:
        OSError: the file can't be read.
    """
    if isinstance(image, str | Path):
        return hashlib.sha256(Path(image).read_bytes()).hexdigest()
    found = open_image(image)
    return hashlib.sha256(f"{found.size}".encode() + found.tobytes()).hexdigest()


def equal_files(files: Sequence[Path]) -> list[list[Path]]:
    """The files that hold the same bytes, in groups of two and more, in the order of the first of each.

    Raises:
        OSError: a file can't be read.
    """
    sizes: dict[int, list[Path]] = {}
    for file in files:
        sizes.setdefault(file.stat().st_size, []).append(file)
    groups: dict[str, list[Path]] = {}
    for alike in sizes.values():
        for file in alike if len(alike) > 1 else ():
            groups.setdefault(image_hash(file), []).append(file)
    return [group for group in groups.values() if len(group) > 1]


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
