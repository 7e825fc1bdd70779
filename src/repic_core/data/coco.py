"""VLT rows from a COCO-style file of boxes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import ConceptError, check_no_control_tokens
from repic_core.concepts.tags import fold
from repic_core.data.builders import BuildError
from repic_core.data.rows import RowError, TrainingExample
from repic_core.io.decode import opened, upright_size
from repic_core.io.files import read_json
from repic_core.io.images import image_fault, training_size
from repic_core.io.paths import find_file, plain
from repic_core.models.boxes import to_model_frame
from repic_core.prompts import VLT_QUESTION
from repic_core.tasks import VLT

BORDER = 3  # pixels by which a box may lie outside its photo: tools round
TURNS = ("rotation", "angle", "theta")  # fields in which tools keep a box's angle


def build_vlt(
    annotations: str | Path,
    image_root: str | Path,
    frame: str = "resized",
    image_processor: Any = None,
    published_resize: bool = False,
) -> list[TrainingExample]:
    """VLT rows from a COCO-style file: `images` (id, file_name, width, height), `annotations` (image_id, bbox
    ``[x, y, width, height]`` in original pixels, category_id, optional `caption` and `iscrowd`), `categories`
    (id, name).

    The question describes a box by its caption, or by its category if the photo has only one of that kind. Boxes
    without such a description, and boxes of crowds, give no row. Original pixels are those of the photo after its
    EXIF rotation, as `datasets` decodes it. Boxes are converted to the model's frame (`repic_core.models.boxes`).
    A box that reaches up to `BORDER` pixels outside its photo is clipped. One that CVAT turned about its centre
    (``attributes.rotation``, degrees) becomes the upright box around it.

    Args:
        frame: the `frame` of the model's `models.families.Family`.
        image_processor: the model's, needed for ``resized``. It must have the same limit on pixels as in training,
            or the boxes are wrong. For most recipes (at most 802816 pixels per image) use the processor that
            ``load_model(..., max_pixels=PAPER_MAX_PIXELS)`` returns.
        published_resize: for a training with this setting, as in the recipe ``paper`` (at most 12845056 pixels): it
            resizes photos before the processor does (`images.training_size`).

    Raises:
        BuildError: a field or photo is missing; an id, a file or the name of a category is there twice; a photo's
            size is not what the file says; a box is empty, outside its photo, or turned in another way; a caption
            holds a control token. Names the file and the entry.
    """
    path = Path(annotations)
    images, kinds, boxes, counts = _read_coco(path)
    found: dict[Any, tuple[str, tuple[int, int]]] = {}
    rows = []
    for number, annotation in enumerate(boxes, 1):
        where = f"{path}, annotation {annotation.get('id', number)}"
        image_id, category = annotation["image_id"], annotation.get("category_id")
        if image_id not in images:
            raise BuildError(f"{where}: its image_id {image_id!r} is not among the images")
        if image_id not in found:
            found[image_id] = _photo(images[image_id], Path(image_root), where)
        file, size = found[image_id]
        description = annotation.get("caption")
        if annotation.get("iscrowd"):
            continue
        if not description and category is not None:
            if category not in kinds:
                raise BuildError(f"{where}: its category_id {category!r} is not among the categories")
            description = f"the {kinds[category]}" if counts[image_id, category] == 1 else ""
        if not description:
            continue
        try:
            corners, framed = _corners(annotation, size), training_size(size, 1) if published_resize else size
            box = to_model_frame(_scaled(corners, size, framed), framed, frame, image_processor)
        except ValueError as error:
            raise BuildError(f"{where}, bbox: {error}") from None
        try:
            check_no_control_tokens(description, "it")
            question = VLT_QUESTION.format(description=" ".join(description.split()))
            rows.append(TrainingExample((file,), question, box, VLT))
        except (ConceptError, RowError, TypeError) as error:
            raise BuildError(f"{where}, caption {description!a:.80}: {error}") from None
    return rows


def _scaled(box: Sequence[float], size: tuple[int, int], to: tuple[int, int]) -> list[float]:
    """A box in a photo of `size` as it lies in the photo resized to `to`, both (width, height) in pixels."""
    return [min(edge * to[i % 2] / size[i % 2], to[i % 2]) for i, edge in enumerate(box)]


def _read_coco(path: Path) -> tuple[dict[Any, dict], dict[Any, str], list[dict], Counter]:
    """Images by id, category names by id, annotations, and how many of each category each photo has."""
    data = read_json(path, BuildError)
    try:
        images, categories = list(data["images"]), list(data.get("categories") or ())
        _check_once(path, "image id", [image["id"] for image in images])
        _check_once(
            path, "file_name", [plain(str(one["file_name"])) for one in images if one.get("file_name")]
        )
        _check_once(path, "category id", [category["id"] for category in categories])
        _check_once(path, "category", [fold(str(category["name"])) for category in categories])
        boxes = list(data["annotations"])
        counts = Counter((box["image_id"], box.get("category_id")) for box in boxes)
        kinds = {category["id"]: category["name"] for category in categories}
        return {image["id"]: image for image in images}, kinds, boxes, counts
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path}: not a COCO-style file (missing {error})") from None


def _check_once(path: Path, what: str, values: Sequence[Any]) -> None:
    """`BuildError` if a value is there twice: merged files give a box to the wrong photo, or two cats one name."""
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise BuildError(
            f"{path}: the {what} {twice!r} is there twice: give each its own (were files merged?)"
        )


def _corners(annotation: Mapping[str, Any], size: tuple[int, int]) -> list[float]:
    """``[x1, y1, x2, y2]`` in pixels of an annotation's box, turned upright and clipped to a photo of this size.

    Raises:
        ValueError: no box, an empty one, one that reaches outside by more than `BORDER`, or one that is turned in
            a way that the file does not explain.
    """
    bbox = annotation.get("bbox")
    if not bbox:
        raise ValueError("there is none (perhaps only a segmentation): export it with boxes")
    numbers = isinstance(bbox, list) and all(type(one) in (int, float) and math.isfinite(one) for one in bbox)
    if not numbers or len(bbox) != 4:
        raise ValueError(f"the box must be four numbers, x, y, width and height, not {bbox!r:.80}")
    x, y, wide, high = bbox
    if wide <= 0 or high <= 0:
        raise ValueError(f"the box {bbox} is empty: leave it out, or draw it again")
    for field in TURNS:
        if annotation.get(field):
            raise ValueError(f"the box is turned ({field} {annotation[field]!r:.40}): export upright boxes")
    turn = _cvat_turn(annotation)
    if turn:
        # The hull of a turned box may reach further than what it holds.
        x, y, wide, high = _hull(x, y, wide, high, turn)
    over = max(-x, -y, x + wide - size[0], y + high - size[1])
    if over > BORDER and not turn:
        raise ValueError(
            f"the box {bbox} reaches {over:g} pixels outside its photo of {size[0]} x {size[1]}: draw it again"
        )
    return [max(x, 0), max(y, 0), min(x + wide, size[0]), min(y + high, size[1])]


def _cvat_turn(annotation: Mapping[str, Any]) -> float:
    """The degrees, clockwise, by which CVAT turned a box about its centre; 0 if it did not."""
    attributes = annotation.get("attributes")
    turn = attributes.get("rotation") if isinstance(attributes, dict) else None
    try:
        degrees = float(turn or 0) % 360
    except (TypeError, ValueError):
        degrees = math.nan
    if not math.isfinite(degrees):
        raise ValueError(
            f"the box is turned by {turn!r:.40}, which is no number of degrees: export upright boxes"
        )
    return degrees


def _hull(x: float, y: float, wide: float, high: float, degrees: float) -> tuple[float, float, float, float]:
    """The upright box (x, y, width, height) around a box that is turned about its centre."""
    sine, cosine = (abs(function(math.radians(degrees))) for function in (math.sin, math.cos))
    across, down = wide * cosine + high * sine, wide * sine + high * cosine
    return x + (wide - across) / 2, y + (high - down) / 2, across, down


def _photo(image: Mapping[str, Any], root: Path, where: str) -> tuple[str, tuple[int, int]]:
    """The path under `root` of a photo, and its (width, height) in pixels as `datasets` decodes it.

    `BuildError` if it is missing, can't be read, or has another size than the file says.
    """
    absent = [field for field in ("file_name", "width", "height") if not image.get(field)]
    if absent:
        raise BuildError(f"{where}: its image (id {image['id']!r}) has no {absent[0]}")
    file = find_file(root, str(image["file_name"]))
    fault = image_fault(file)
    if fault:
        raise BuildError(f"{where}: its photo {image['file_name']!r} {fault}")
    with opened(file) as photo:
        size = upright_size(photo)
    said = (image["width"], image["height"])
    if said != size:
        raise BuildError(
            f"{where}: its photo {image['file_name']!r} has {size[0]} x {size[1]} pixels (after its EXIF "
            f"rotation), but the file says {said[0]} x {said[1]}: correct the size and the boxes"
        )
    return os.path.relpath(file, root) if file.is_relative_to(root) else str(file), size
