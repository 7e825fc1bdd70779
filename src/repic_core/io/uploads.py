"""Photos from strangers: checked by their content before anything decodes them, and stored without EXIF."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from repic_core.io.decode import PhotoFault, opened
from repic_core.io.files import replaced
from repic_core.io.images import check_aspect, open_image, upright_rgb

MAX_BYTES = 40 * 2**20  # a phone's 50 megapixels in good quality
MAX_PIXELS = (
    60_000_000  # by the file's header, before it is decoded; phones of "50 megapixels" have up to 50.4
)
MOST_SCANS = 100  # of a JPEG: a scan is a few bytes, and decoding it takes as long as the whole photo
STORED_PIXELS = 2048  # longest side of an uploaded photo; a larger one is shrunk
# Pillow's other decoders never see the file. HEIF needs pillow-heif.
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
MOVING = ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")  # kinds that may have several frames or pages
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_decoding = threading.Semaphore(2)  # photos at a time: one may take half a gigabyte
KIND_HINT = "give a JPEG, PNG, WebP, AVIF, BMP, TIFF or still GIF"


class UploadError(ValueError):
    """A photo that is refused; the message names the file, what is wrong with it and how to fix it."""


def open_upload(file: str | Path | bytes, name: str = "") -> Any:
    """An uploaded photo as an RGB PIL image: upright, without metadata, shrunk to `STORED_PIXELS`.

    Args:
        file: path or content.
        name: what messages call it; by default the path's last part.

    Raises:
        UploadError: more than `MAX_BYTES` or `MAX_PIXELS`, a kind of file that is not in `KINDS`, several
            frames, more than 8 bits a channel, too long for a model, or cut off.
    """
    from PIL import UnidentifiedImageError

    name = (name or ("the photo" if isinstance(file, bytes) else Path(file).name))[:80]
    content = _content(file, name)
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > MOST_SCANS:
        raise UploadError(f"{name}: has more than {MOST_SCANS} scans: save it again as JPEG")
    try:
        with _decoding, opened(content, KINDS) as found:
            _check(found)
            photo = upright_rgb(found, STORED_PIXELS)
    except PhotoFault as fault:
        raise UploadError(f"{name}: {fault}") from None
    except UnidentifiedImageError:
        raise UploadError(f"{name}: is not a photo that can be read: {KIND_HINT}") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UploadError(
            f"{name}: can't be decoded ({error}): upload it again, or save it as JPEG"
        ) from None
    photo.info.clear()
    return photo


def store_photo(photo: Any, folder: str | Path) -> Path:
    """Write a photo (path or PIL image) into `folder`, upright and without EXIF; returns its path.

    The file is named for its pixels, so the same photo is stored once. It is shrunk to `STORED_PIXELS`; small
    drawings stay exact (PNG), photos become JPEG.
    """
    photo = open_image(photo, STORED_PIXELS)
    photo.info.clear()
    kind = "PNG" if max(photo.size) <= 200 else "JPEG"
    number = hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest()[:24]
    path = Path(folder) / f"{number}.{'png' if kind == 'PNG' else 'jpg'}"
    with replaced(path) as file:
        photo.save(file, kind, quality=92)
    return path


def _content(file: str | Path | bytes, name: str) -> bytes:
    """The bytes of an upload of at most `MAX_BYTES`; a larger file is not read."""
    try:
        size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
        if not size:
            raise UploadError(f"{name}: is empty: upload it again")
        if size > MAX_BYTES:
            raise UploadError(f"{name}: has {size / 2**20:.0f} MB, more than {MAX_BYTES >> 20}: shrink it")
        return file if isinstance(file, bytes) else Path(file).read_bytes()
    except OSError as error:
        raise UploadError(f"{name}: can't be read ({error.strerror}): upload it again") from None


def _check(found: Any) -> None:
    wide, high = found.size
    if wide * high > MAX_PIXELS:
        raise PhotoFault(f"has {wide} x {high} pixels, more than {MAX_PIXELS:,} in all: shrink it")
    check_aspect(found.size)
    if found.format in MOVING and getattr(found, "n_frames", 1) > 1:
        raise PhotoFault(f"has {found.n_frames} frames or pages: give a single still photo")
    if found.mode not in MODES:
        raise PhotoFault(f"has more than 8 bits a channel ({found.mode}): save it as JPEG")
