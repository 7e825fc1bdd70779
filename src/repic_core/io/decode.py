"""A photo file as eight bits a channel, upright, in RGB; also where Pillow alone clips or gives no reason."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

ORIENTATION = 0x0112  # EXIF
# What says how to turn a photo, or where it was taken; a photo that is upright must not keep it.
METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# Brands of ISO base media files (ISO/IEC 23008-12, AVIF 1.1).
BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"},
}


class PhotoFault(ValueError):
    """What is wrong with a photo, as it is put after the photo's name: ``is a HEIC photo ...``."""


def opened(file: Any, formats: tuple[str, ...] | None = None) -> Any:
    """``Image.open``, also for HEIC if the package pillow-heif is installed; nothing is decoded yet.

    Args:
        file: path, or bytes.
        formats: Pillow's names of those that may be read; by default all.

    Raises:
        PhotoFault: a HEIC or AVIF photo that can't be read here, or far too many pixels.
        OSError: the file is missing or is no image (``UnidentifiedImageError``).
    """
    from PIL import Image, UnidentifiedImageError

    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    if formats is not None:
        Image.init()
        formats = tuple(name for name in formats if name in Image.OPEN)  # HEIF is there only by pillow-heif
    try:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats)
    except UnidentifiedImageError:
        kind = media_kind(file if isinstance(file, bytes) else _head(file))
        if kind == "HEIC":
            raise PhotoFault("is a HEIC photo (iPhone): save it as JPEG, or install pillow-heif") from None
        if kind == "AVIF":
            raise PhotoFault(
                "is an AVIF photo that this Pillow can't read: save it as JPEG, or upgrade Pillow"
            ) from None
        raise
    except Image.DecompressionBombError:
        raise PhotoFault(f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: shrink it") from None


def media_kind(head: bytes) -> str | None:
    """``HEIC`` or ``AVIF`` by the brands in the first box of a file, whatever its name; else None.

    >>> media_kind(b"\\0\\0\\0\\x18ftypmif1\\0\\0\\0\\0mif1avif")
    'AVIF'
    """
    if head[4:8] != b"ftyp":
        return None
    box = head[8 : min(int.from_bytes(head[:4], "big"), 256)]
    brands = {box[:4], *(box[place : place + 4] for place in range(8, len(box), 4))}
    return next((kind for kind, known in BRANDS.items() if brands & known), None)


def orientation(image: Any) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 (upright) where it has none or one that can't be read.

    No other tag is looked at, so that a malformed one does no harm.
    """
    try:
        turn = image.getexif().get(ORIENTATION)
    except Exception:  # Pillow's reader of EXIF raises many kinds
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def has_exif(image: Any) -> bool:
    """Whether an image has EXIF, also such as can't be read."""
    try:
        return bool(image.getexif())
    except Exception:  # as in `orientation`
        return True


def has_broken_exif(image: Any) -> bool:
    """Whether Pillow, and with it `datasets`, can't turn an open image by its EXIF, since some tag is malformed."""
    if "exif" not in image.info:  # TIFFs are turned when they are decoded, which needs no other tag
        return False
    try:
        exif = image.getexif()
        if ORIENTATION in exif:
            exif.tobytes()
    except Exception:  # as in `orientation`
        return True
    return False


def turned(image: Any, turn: int) -> Any:
    """`image` as one of EXIF orientation `turn` is to be seen; `image` itself if that is 1."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return without_metadata(image.transpose(turns[turn])) if turn in turns else image


def upright_size(image: Any) -> tuple[int, int]:
    """(width, height) in pixels of an image once it is upright; nothing is decoded."""
    swapped = orientation(image) >= 5 and image.format != "TIFF"  # of a TIFF Pillow gives it so already
    return image.size[::-1] if swapped else image.size


def without_metadata(image: Any) -> Any:
    """`image` itself, without EXIF and XMP."""
    for name in METADATA:
        image.info.pop(name, None)
    return image


def rgb(image: Any, turn: int) -> Any:
    """A copy of an image of `eight_bits` in RGB, `turned`, without EXIF; transparent parts become white, as in the
    processors."""
    from PIL import Image

    found = turned(image, turn)
    if found.has_transparency_data:
        found = found.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", found.size, "white"), found)
    return without_metadata(found.convert("RGB"))


def is_deep(image: Any) -> bool:
    """Whether an image has more than eight bits a channel, or floats, which Pillow's own conversion clips."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def eight_bits(image: Any) -> Any:
    """A grey image of more than eight bits (`is_deep`) as ``L``; any other image itself.

    Raises:
        PhotoFault: values whose range tells no scale (`scaled`).
    """
    if not is_deep(image):
        return image
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})  # TIFF's
    bits = tags.get(258, (16,))[0]  # BitsPerSample; Pillow leaves 12 bits in the lower ones of 16
    white = 2 ** min(bits, 16) - 1 if image.mode.startswith("I;16") else None
    grey = scaled(values, white)
    if tags.get(262) == 0:  # PhotometricInterpretation: white is zero; Pillow heeds it in 8 bits only
        grey = 255 - grey
    key = image.info.get("transparency")  # PNG's one transparent value
    if isinstance(key, int):
        grey = np.where(values == key, np.uint8(255), grey)
    return Image.fromarray(grey)


def scaled(values: Any, white: float | None = None) -> Any:
    """Pixel values of any type as whole numbers from 0 to 255.

    Args:
        values: array of any shape.
        white: the value that is white; by default 65535 for 16 bits without a sign, else by the range: whole
            numbers reach from 0 to 255 or to 65535, floats to 1, 255 or 65535, and a hundredth beyond (rounding).

    Raises:
        PhotoFault: values that are no numbers, or a range that fits none of these.
    """
    import numpy as np

    values = np.asarray(values)
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if white is None and values.dtype.kind == "u" and values.dtype.itemsize == 2:
        white = 65535
    if not values.size or not np.isfinite(values).all():
        raise PhotoFault("has pixels that are no numbers (NaN or infinite): save it again in 8 bits")
    white = white or _white(float(values.min()), float(values.max()), values.dtype.kind == "f")
    shares = np.clip(values.astype(np.float32) / np.float32(white), 0, 1)
    return np.rint(shares * np.float32(255)).astype(np.uint8)


def _white(low: float, high: float, floats: bool) -> int:
    """The white that a range of pixel values tells."""
    for white in (1, 255, 65535) if floats else (255, 65535):
        if high <= 1.01 * white and low >= (-0.01 * white if floats else 0):
            # Floats whose lightest pixel is far from this white are rather of another scale (HDR, say).
            if not floats or white == 1 or high > white / 8:
                return white
            break
    raise PhotoFault(
        f"has values from {low:g} to {high:g}, so what is white is unknown: save it again in 8 bits"
    )


def _head(file: Any) -> bytes:
    if isinstance(file, str | Path):
        with open(file, "rb") as content:
            return content.read(256)
    file.seek(0)
    return file.read(256)
