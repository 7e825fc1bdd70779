"""Find which concepts of a large database a photo shows: regions -> vectors -> nearest in a `ConceptIndex`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from repic_core.captioner.caption_files import CaptionItem
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.io.images import MAX_ASPECT, open_image
from repic_core.retrieval.index import Changes, ConceptIndex, Hit
from repic_core.retrieval.regions import Box, whole
from repic_core.retrieval.upstream import UPSTREAM

__all__ = ["Changes", "ConceptIndex", "Found", "Hit", "find_concepts", "with_retrieved"]

# A hit, and the part of the photo (PIL image) that it is nearest to.
Found = tuple[Hit, Any]


def find_concepts(
    photo: Any,
    index: ConceptIndex,
    embedder: Any,
    regions: Callable[[Any], list[Box]] = whole,
    k: int = 4,
    threshold: float | None = None,
    published: bool = False,
    confirm: Callable[[list[Found]], list[Hit]] | None = None,
) -> list[Hit]:
    """The up to `k` concepts of `index` that are nearest to regions of `photo` (path or PIL image).

    First come the nearest of each region, by similarity, then the second of each region, and so on. Upstream sorts
    the neighbours of all regions by similarity alone; lookalikes of one thing then crowd out the others.

    Args:
        regions: gives a photo's boxes: `regions.whole`, what `regions.regions_for` chooses, a `regions.Detector`
            or a `yolo_world.YoloWorld`. Without any box it is the whole photo.
        threshold: as in `ConceptIndex.search`; the list is empty if no hit is similar enough.
        published: as in upstream's `retriever.py` (lines 99-113): by similarity alone, and no concept where there
            is no box.
        confirm: is given what was found, best first, and says what of it stays, such as `verify.Verifier`.

    Raises:
        ValueError: the photo can't be read (the message names it), or the index is of another embedder.
    """
    _check_embedder(index, embedder)
    photo = open_image(photo)
    boxes = [box for box in regions(photo) if _has_area(box)]
    if not boxes:
        if published:
            return []
        boxes = whole(photo)
    crops = [photo.crop(box) for box in boxes]
    # Of each concept: rank in its region, negative similarity, tag, number of the region.
    best: dict[str, tuple[int, float, str, int]] = {}
    for number, hits in enumerate(index.search(embedder.images(crops), k, threshold)):
        for rank, hit in enumerate(hits):
            place = 0 if published else rank, -hit.similarity, hit.tag, number
            best[key(hit.tag)] = min(best.get(key(hit.tag), place), place)
    found = [(Hit(tag, -negative), crops[number]) for _, negative, tag, number in sorted(best.values())[:k]]
    return confirm(found) if confirm else [hit for hit, _ in found]


def _check_embedder(index: ConceptIndex, embedder: Any) -> None:
    """ValueError if the index is of another embedder: similarities would mean nothing."""
    if index.embedder_name == embedder.name:
        return
    if index.embedder_name == UPSTREAM:
        raise ValueError(
            "the authors' index does not say what made its vectors: give read_upstream the embedder "
            f"{embedder.name}, to check that they are its own"
        )
    raise ValueError(f"the index is of {index.embedder_name}, not of {embedder.name}: update it")


def _has_area(box: Box) -> bool:
    """Whether a processor accepts a crop of this box."""
    wide, high = box[2] - box[0], box[3] - box[1]
    return min(wide, high) > 0 and max(wide, high) < MAX_ASPECT * min(wide, high)


def with_retrieved(
    items: Sequence[CaptionItem],
    database: ConceptDatabase,
    index: ConceptIndex,
    embedder: Any,
    regions: Callable[[Any], list[Box]] = whole,
    k: int = 4,
    threshold: float | None = None,
    published: bool = False,
    confirm: Callable[[list[Found]], list[Hit]] | None = None,
) -> list[CaptionItem]:
    """Each item with the concepts that `find_concepts` finds in its query as references; its tags are kept."""
    changed = []
    for item in items:
        found = find_concepts(item.query, index, embedder, regions, k, threshold, published, confirm)
        references = database.select(*(hit.tag for hit in found))
        changed.append(replace(item, references=references, tags=item.shown))
    return changed
