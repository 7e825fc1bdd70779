"""A photo with the boxes in which a model sees concepts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.display.caption_grid import concept_colors
from repic_core.display.typeset import new_figure, save_figure
from repic_core.io.images import open_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def box_figure(
    photo: Any, boxes: Mapping[str, tuple[float, ...] | None], path: str | Path | None = None
) -> Figure:
    """The photo with a frame in each concept's colour, and its tag; a concept without a box is listed below.

    Args:
        photo: path or PIL image.
        boxes: tag -> (x1, y1, x2, y2) in the photo's pixels, as `evaluation.task_scores.locate` gives it, or None.
        path: where to write, as in `caption_grid.caption_grid`.
    """
    from matplotlib.patches import Rectangle

    opened, colors = open_image(photo), concept_colors(boxes)
    height = 4.0 * opened.height / opened.width
    figure = new_figure(figsize=(4.0, min(height, 6.0) + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(opened)
    axes.set_axis_off()
    for tag, box in boxes.items():
        if box is None:
            continue
        left, top, right, bottom = box
        frame = {"edgecolor": colors[tag], "linewidth": 2.5, "fill": False}
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **frame))
        label = {"facecolor": colors[tag], "edgecolor": "none", "pad": 2}
        axes.text(left, top, tag, color="white", fontsize=9, bbox=label, va="bottom", parse_math=False)
    without = [tag for tag, box in boxes.items() if box is None]
    if without:
        axes.set_title(f"no box: {', '.join(without)}", fontsize=9, loc="left", y=-0.08, parse_math=False)
    found = (
        f"{tag} at {[round(edge) for edge in box]}" if box else f"{tag} nowhere" for tag, box in boxes.items()
    )
    figure.alt = f"A photo of {opened.width} x {opened.height} pixels with boxes: {', '.join(found)}."
    if path is not None:
        save_figure(figure, path)
    return figure
