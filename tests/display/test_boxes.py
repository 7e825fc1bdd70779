"""Boxes are drawn where they are, in the colour of their concept; who has none is named."""

from matplotlib.colors import to_hex
from PIL import Image

from repic_core.display.boxes import box_figure
from repic_core.display.caption_grid import concept_colors


def test_boxes_are_where_they_are_said_to_be(tmp_path):
    boxes = {"<bo>": (10.0, 20.0, 60.0, 80.0), "<$mia$>": None}
    figure = box_figure(Image.new("RGB", (200, 100), "white"), boxes, tmp_path / "boxes")
    (axes,) = figure.axes
    (frame,) = axes.patches
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (10, 20, 50, 60)
    assert to_hex(frame.get_edgecolor()) == concept_colors(boxes)["<bo>"]
    assert [text.get_text() for text in axes.texts] == ["<bo>"]
    assert axes.get_title("left") == "no box: <$mia$>"
    assert repr(figure) == (
        "A photo of 200 x 100 pixels with boxes: <bo> at [10, 20, 60, 80], <$mia$> nowhere."
    )
    assert (tmp_path / "boxes.png").is_file() and (tmp_path / "boxes.pdf").is_file()
