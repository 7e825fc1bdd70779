"""Paths of a database's photos: read, made absolute, and written relative to the root."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import ConceptError
from repic_core.io.images import image_fault
from repic_core.io.paths import find_file


def resolver(root: Path, check: bool, read: bool) -> Callable[[Any, str], str]:
    """A function that resolves an image path under `root`; its second argument says where, for messages."""
    real_root = os.path.realpath(root)
    # Most photos share a few folders: to resolve each path by itself would take most of the time.
    folders: dict[str, str] = {}

    def resolve(image: Any, where: str) -> str:
        if not isinstance(image, str) or not image or "\0" in image:
            raise ConceptError(f"{where}: image must be a path or a list of paths, not {image!r}")
        written = os.path.join(root, image)
        folder, name = os.path.split(written if os.path.lexists(written) else find_file(root, image))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        resolved = os.path.join(folders[folder], name)
        if name in ("", ".", "..") or os.path.islink(resolved):
            resolved = os.path.realpath(resolved)
        if os.path.commonpath((real_root, resolved)) != real_root:
            raise ConceptError(f"{where}: the image {image!r} lies outside the root {root}")
        if check:
            if not os.path.isfile(resolved):
                raise ConceptError(
                    f"{where}: missing image {image!r} under {root}: give the folder that paths are relative to "
                    "as root= (check_images=False skips this check)"
                )
            fault = image_fault(Path(resolved)) if read else None
            if fault:
                raise ConceptError(f"{where}: the image {image!r} {fault}")
        return resolved

    return resolve


def absolute(image: Any, root: Path | None) -> Any:
    """A relative path of a file under `root`, or else in the working directory, as an absolute one."""
    if not isinstance(image, str | Path) or os.path.isabs(image):
        return image
    places = [find_file(place, str(image)) for place in (root, Path.cwd()) if place is not None]
    return next((str(place) for place in places if place.is_file()), image)


def relative(image: Any, root: Path, tag: str, check: bool) -> str:
    """The path of a photo relative to `root`, with slashes, as a database file has it.

    Raises:
        ConceptError: the photo is in memory, outside the root or (if `check`) not there; names `tag`.
    """
    if not isinstance(image, str | Path):
        raise ConceptError(f"{tag}: its image is in memory; save it to a file under {root} first")
    # Looked for again: when it was added, there may have been no root, or no file.
    resolved = (root / absolute(image, root)).resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise ConceptError(f"{tag}: the image {image} lies outside the root {root}: copy it there first")
    if check and not resolved.is_file():
        raise ConceptError(f"{tag}: there is no image {image} under {root}: put it there first")
    return resolved.relative_to(root.resolve()).as_posix()
