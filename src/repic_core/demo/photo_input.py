"""The component that takes visitors' photos: Gradio's image, with the kit's own checks before a file is opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.demo.messages import message
from repic_core.io.decode import has_exif, opened
from repic_core.io.files import replaced
from repic_core.io.uploads import UploadError, open_upload

if TYPE_CHECKING:
    import gradio as gr

# Fields that Pillow finds in a file that tells nothing about its photo.
PLAIN = {
    "background",
    "chromaticity",
    "compression",
    "dpi",
    "duration",
    "gamma",
    "interlace",
    "jfif",
    "jfif_density",
    "jfif_unit",
    "jfif_version",
    "loop",
    "progression",
    "progressive",
    "srgb",
    "transparency",
    "version",
}
# The last bytes of a file.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def photo_input(**options: Any) -> gr.Image:
    """``gr.Image`` (upload, clipboard, webcam) whose handlers get an RGB PIL image, upright and without metadata.

    Metadata is removed from the uploaded file, too. A file that `uploads.open_upload` refuses is deleted, and the
    visitor reads why. Addresses of other machines are not fetched.
    """
    import gradio as gr
    from gradio.utils import get_upload_folder

    settings: dict[str, Any] = {"type": "pil", "sources": ["upload", "clipboard", "webcam"], "buttons": []}
    image = gr.Image(**(settings | options))
    # Set on the instance, because Gradio writes a .pyi file beside the source of each subclass. Handlers return
    # values and never `gr.Image(...)`: such an update would replace this component with a plain one.
    image.preprocess = partial(_preprocess, Path(get_upload_folder()))
    return local_only(image)


def local_only(component: Any) -> Any:
    """`component`, which now takes only uploads. Gradio itself would fetch any address that a visitor sends."""
    component.async_move_resource_to_block_cache = partial(
        _move, component.async_move_resource_to_block_cache
    )
    return component


def _preprocess(uploads: Path, payload: Any) -> Any:
    if payload is None:
        return None
    file = Path(payload.path or "").resolve()
    if not file.is_relative_to(uploads.resolve()) or not file.is_file():
        raise message("The photo is no longer here: upload it again.")
    try:
        photo = open_upload(file, Path(payload.orig_name or file.name).name)
    except UploadError as error:
        file.unlink(missing_ok=True)
        raise message(str(error)) from None
    return _without_metadata(file, photo)


async def _move(move: Callable[[Any], Awaitable[str | None]], file: Any) -> str | None:
    if str(file).startswith(("http:", "https:")):
        raise message("Addresses are not fetched: upload the file itself.")
    return await move(file)


def _without_metadata(file: Path, photo: Any) -> Any:
    """`photo`, after `file` was written again if it held more than pixels: EXIF (with place and time), XMP,
    comments, profiles, thumbnails, or bytes after its end."""
    content = file.read_bytes()
    with opened(content) as found:
        kind, kept = found.format, set(found.info) - PLAIN
        segments = {name for name, _ in getattr(found, "applist", [])} - {"APP0"}
        more = bool(kept or segments or has_exif(found) or not content.endswith(ENDS.get(kind, b"")))
    if not more:
        return photo
    with replaced(file) as out:
        photo.save(out, "JPEG" if kind in ("MPO", "HEIF") else kind, quality=95)
    # Read again, so that every handler sees the same pixels.
    return open_upload(file)
