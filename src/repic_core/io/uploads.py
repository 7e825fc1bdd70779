"""Photos from strangers: checked by their content before anything decodes them, and stored without EXIF."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path
from typing import Any

from repic_core.io.files import replaced
from repic_core.io.images import MAX_ASPECT, open_image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000  # by the file's header, before it is decoded
MOST_SCANS = 100  # of a JPEG: a scan is a few bytes, and decoding it takes as long as the whole photo
STORED_PIXELS = 2048  # longest side of an uploaded photo; a larger one is shrunk
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's other decoders never see the file
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_decoding = threading.Semaphore(2)  # photos at a time: one may take half a gigabyte
KIND_HINT = "give a JPEG, PNG, WebP, BMP, TIFF or still GIF"


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
    from PIL import Image

    name = (name or ("the photo" if isinstance(file, bytes) else Path(file).name))[:80]
    content = _content(file, name)
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif"):
        raise UploadError(f"{name}: is a HEIC or AVIF photo: save it as JPEG")
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > MOST_SCANS:
        raise UploadError(f"{name}: has more than {MOST_SCANS} scans: save it again as JPEG")
    try:
        with _decoding, Image.open(io.BytesIO(content), formats=KINDS) as opened:
            _check(opened, name)
            photo = open_image(_shrunk(opened))
    except UploadError:
        raise
    except Image.DecompressionBombError:
        raise UploadError(f"{name}: has far more than {MAX_PIXELS:,} pixels: shrink it") from None
    except Image.UnidentifiedImageError:
        raise UploadError(f"{name}: is not a photo that can be read: {KIND_HINT}") from None
    except Exception as error:  # Pillow's decoders raise many kinds; `open_image` says what is wrong
        reason = str(error).rpartition("unreadable image (")[2].removesuffix("): replace the file")
        raise UploadError(
            f"{name}: can't be decoded ({reason}): upload it again, or save it as JPEG"
        ) from None
    photo.info.clear()
    return photo


def store_photo(photo: Any, folder: str | Path) -> Path:
    """Write a photo (path or PIL image) into `folder`, upright and without EXIF; returns its path.

    The file is named for its pixels, so the same photo is stored once. It is shrunk to `STORED_PIXELS`; small
    drawings stay exact (PNG), photos become JPEG.
    """
    photo = open_image(photo)
    photo.thumbnail((STORED_PIXELS, STORED_PIXELS))
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


def _shrunk(opened: Any) -> Any:
    """The image at most `STORED_PIXELS` large, before it is copied several times; JPEGs are decoded small."""
    if max(opened.size) <= STORED_PIXELS:
        return opened
    opened.draft("RGB", (STORED_PIXELS, STORED_PIXELS))
    if opened.mode in ("1", "P", "PA"):  # Pillow could only drop pixels of these
        opened = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
    opened.thumbnail((STORED_PIXELS, STORED_PIXELS))
    return opened


def _check(opened: Any, name: str) -> None:
    wide, high = opened.size
    if wide * high > MAX_PIXELS:
        raise UploadError(f"{name}: has {wide} x {high} pixels, more than {MAX_PIXELS:,} in all: shrink it")
    if max(wide, high) >= MAX_ASPECT * min(wide, high):
        raise UploadError(f"{name}: is too long for the model ({wide} x {high} pixels): crop it")
    if opened.format in ("GIF", "PNG", "WEBP", "TIFF") and getattr(opened, "n_frames", 1) > 1:
        raise UploadError(f"{name}: has {opened.n_frames} frames or pages: give a single still photo")
    if opened.mode not in MODES:
        raise UploadError(f"{name}: has more than 8 bits a channel ({opened.mode}): save it as JPEG")
