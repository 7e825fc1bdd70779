"""VLT rows from a COCO-style file of boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repic_core.data.builders import BuildError
from repic_core.data.rows import TrainingExample
from repic_core.io.files import read_json
from repic_core.io.images import image_fault
from repic_core.models.boxes import to_model_frame
from repic_core.prompts import VLT_QUESTION
from repic_core.tasks import VLT


def build_vlt(
    annotations: str | Path, image_root: str | Path, frame: str = "resized", image_processor: Any = None
) -> list[TrainingExample]:
    """VLT rows from a COCO-style file: `images` (id, file_name, width, height), `annotations` (image_id, bbox
    ``[x, y, width, height]`` in original pixels, category_id, optional `caption` and `iscrowd`), `categories`
    (id, name).

    The question describes a box by its caption, or by its category if the photo has only one of that kind. Boxes
    without such a description, and boxes of crowds, give no row. Original pixels are those of the photo after its
    EXIF rotation, as `datasets` decodes it. Boxes are converted to the model's frame (`repic_core.models.boxes`).

    Args:
        frame: the `frame` of the model's `models.families.Family`.
        image_processor: the model's, needed for ``resized``. It must have the same limit on pixels as in training,
            or the boxes are wrong. For the paper's recipe (at most 802816 pixels per image) use the processor that
            ``load_model(..., max_pixels=PAPER_MAX_PIXELS)`` returns.

    Raises:
        BuildError: a field or photo is missing, a photo's size is not what the file says, or a box is outside its
            photo; names the file and the entry.
    """
    path = Path(annotations)
    images, kinds, boxes, counts = _read_coco(path)
    sizes: dict[Any, tuple[int, int]] = {}
    rows = []
    for number, annotation in enumerate(boxes, 1):
        where = f"{path}, annotation {annotation.get('id', number)}"
        image_id, category = annotation["image_id"], annotation.get("category_id")
        if image_id not in images:
            raise BuildError(f"{where}: its image_id {image_id!r} is not among the images")
        if image_id not in sizes:
            sizes[image_id] = _photo_size(images[image_id], Path(image_root), where)
        unique = counts[image_id, category] == 1 and category in kinds
        description = annotation.get("caption") or (f"the {kinds[category]}" if unique else "")
        if annotation.get("iscrowd") or not description:
            continue
        try:
            x, y, wide, high = annotation["bbox"]
            box = to_model_frame([x, y, x + wide, y + high], sizes[image_id], frame, image_processor)
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{where}, bbox: {error}") from None
        question = VLT_QUESTION.format(description=description)
        rows.append(TrainingExample((images[image_id]["file_name"],), question, box, VLT))
    return rows


def _read_coco(path: Path) -> tuple[dict[Any, dict], dict[Any, str], list[dict], Counter]:
    """Images by id, category names by id, annotations, and how many of each category each photo has."""
    data = read_json(path, BuildError)
    try:
        images = {image["id"]: image for image in data["images"]}
        kinds = {category["id"]: category["name"] for category in data.get("categories", ())}
        boxes = list(data["annotations"])
        return images, kinds, boxes, Counter((box["image_id"], box.get("category_id")) for box in boxes)
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path}: not a COCO-style file (missing {error})") from None


def _photo_size(image: Mapping[str, Any], root: Path, where: str) -> tuple[int, int]:
    """(width, height) in pixels of a photo as `datasets` decodes it; `BuildError` if the file says otherwise."""
    from PIL import ExifTags, Image

    absent = [field for field in ("file_name", "width", "height") if not image.get(field)]
    if absent:
        raise BuildError(f"{where}: its image (id {image['id']!r}) has no {absent[0]}")
    fault = image_fault(root / image["file_name"])
    if fault:
        raise BuildError(f"{where}: its photo {image['file_name']!r} {fault}")
    with Image.open(root / image["file_name"]) as photo:
        size = photo.size
        if photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):  # rotated by 90 degrees
            size = size[::-1]
    said = (image["width"], image["height"])
    if said != size:
        raise BuildError(
            f"{where}: its photo {image['file_name']!r} has {size[0]} x {size[1]} pixels (after its EXIF "
            f"rotation), but the file says {said[0]} x {said[1]}: correct the size and the boxes"
        )
    return size
