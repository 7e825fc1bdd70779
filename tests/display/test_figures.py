"""Figures hold what they are given: nothing overlaps or leaves the page, names are coloured, fonts embedded."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.display import typeset
from repic_core.display.caption_grid import (
    CONCEPT_COLORS,
    ERROR_COLOR,
    GridRow,
    caption_grid,
    concept_colors,
    grid_rows,
)
from repic_core.display.charts import SERIES, cost_figure, reward_curves, score_chart
from repic_core.display.typeset import Piece, line_width, save_figure, wrap
from repic_core.io.images import open_image

PHOTO = Image.new("RGB", (160, 120), "#7799bb")
BO, MIA = Concept("<bo>", "bo", PHOTO, "a dog"), Concept("<mia>", "Mia Rose", PHOTO, "a cat")


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.1) of ``#rrggbb``."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [*CONCEPT_COLORS, ERROR_COLOR])
def test_colors_can_be_read(color):
    assert contrast(color, "#ffffff") >= 4.5  # as text on paper, and below white text
    if color != ERROR_COLOR:
        assert contrast(color, "#18181b") >= 3  # as a frame on a dark page


def test_every_tag_has_one_color():
    tags = [f"<c{i}>" for i in range(10)]
    colors = concept_colors([*tags, "<c0>"])
    assert list(colors) == tags
    assert len(set(list(colors.values())[:8])) == 8
    assert colors["<c8>"] == colors["<c0>"]


def texts(figure) -> dict[str, str]:
    """Text -> colour of every piece on a figure."""
    return {text.get_text(): to_hex(text.get_color()) for text in figure.texts}


def test_names_have_the_color_of_their_frame():
    caption = "A <bo> and mia rose."
    figure = caption_grid([GridRow(PHOTO, [BO, MIA], {"ours": caption})])
    colors, drawn = concept_colors(["<bo>", "<mia>"]), texts(figure)
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert frames[:2] == list(colors.values())
    assert drawn["<bo>"] == colors["<bo>"]
    assert drawn["mia"] == drawn["rose"] == drawn["<mia>"] == colors["<mia>"]
    assert drawn["and"] == typeset.BLACK
    assert "Missing:" not in drawn


def test_wrong_names_are_struck_and_missing_ones_listed():
    rows = [GridRow(PHOTO, [BO, MIA], {"ours": "Only Mia Rose."}, tags=["<bo>"])]
    figure = caption_grid(rows)
    drawn = texts(figure)
    assert drawn["Mia"] == ERROR_COLOR
    assert drawn["Missing:"] == ERROR_COLOR
    struck = [line for line in figure.artists + figure.lines if to_hex(line.get_color()) == ERROR_COLOR]
    assert len(struck) == 2  # "Mia" and "Rose"


def test_names_of_no_reference_and_of_no_database_are_struck_too():
    said = "<bo> < Mia Rose, <Wanda Maximoff> > <bowa>."
    database = ConceptDatabase([BO, MIA])
    (row,) = grid_rows({"ours": [CaptionRecord("q.png", ("<bo>",), said)]}, database, "/photos")
    figure = caption_grid([replace(row, query=PHOTO)])
    drawn = texts(figure)
    for word in ("Mia", "Rose", "<Wanda", "Maximoff>", "<bowa>"):
        assert drawn[word] == ERROR_COLOR
    assert drawn["<"] == drawn[">"] == typeset.BLACK and drawn["<bo>"] == CONCEPT_COLORS[0]
    struck = [line for line in figure.artists + figure.lines if to_hex(line.get_color()) == ERROR_COLOR]
    assert len(struck) == 5


def test_absent_and_empty_captions_are_told_apart():
    figure = caption_grid([GridRow(PHOTO, [BO], {"a": None, "b": "</s>", "c": "bo</s>"})])
    drawn = [text.get_text() for text in figure.texts]
    assert drawn.count("(empty)") == 1 and drawn.count("caption") == 1
    assert not any("</s>" in text for text in drawn)
    assert drawn.count("Missing:") == 1


AWKWARD = {
    "dollars": "It costs $5, not $6_x^2$ or $\\frac$, " + "w" * 300,
    "markup": "<script>alert(1)</script> & <img src=x onerror=alert(1)> <bo>",
    "a method with a rather long name that takes more than a line of the column": "bo and Mia Rose, " * 40,
}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 10])
def test_nothing_overlaps_or_leaves_the_page(count):
    """Boxes of all texts and images, measured by the renderer and not by `typeset`."""
    shapes = [(160, 120), (90, 400), (500, 80)]
    references = [
        Concept(f"<concept number {i} Ünïcode_with_a_long_name>", image=Image.new("RGB", shapes[i % 3]))
        for i in range(count)
    ]
    figure = caption_grid([GridRow(Image.new("RGB", s), references, AWKWARD, "Why? " * 30) for s in shapes])
    renderer = FigureCanvasAgg(figure).get_renderer()  # one for all: by default each text keeps its own
    figure.draw(renderer)
    page = figure.bbox
    texts_at = [text.get_window_extent(renderer) for text in figure.texts]
    images_at = [axes.get_window_extent(renderer) for axes in figure.axes]
    assert len(images_at) == 3 * (count + 1)
    for box in (*texts_at, *images_at):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
    for i, image in enumerate(images_at):
        for other in (*texts_at, *images_at[i + 1 :]):
            apart = (
                image.x1 <= other.x0 or other.x1 <= image.x0 or image.y1 <= other.y0 or other.y1 <= image.y0
            )
            assert apart, (image, other)


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        caption_grid([])


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="latin-1")), st.floats(20, 300), st.booleans())
def test_wrap_keeps_the_text_and_the_width(text, width, bold):
    lines = wrap([Piece(text[: len(text) // 2]), Piece(text[len(text) // 2 :], bold=bold)], width, 8)
    assert "".join(piece.text for line in lines for _, piece in line) == "".join(text.split())
    for line in lines:
        single = len(line) == 1 and len(line[0][1].text) == 1
        assert line_width(line, 8) <= width + 1e-6 or single


def test_words_stay_whole_where_they_fit():
    lines = wrap([Piece("one two "), Piece("<three>", bold=True), Piece(", four")], 45, 8)
    joined = ["".join(piece.text for _, piece in line) for line in lines]
    assert joined == ["onetwo", "<three>,", "four"]


def test_png_and_pdf_with_embedded_truetype(tmp_path):
    caption_grid([GridRow(PHOTO, [BO], {"ours": "<bo> naps"})], tmp_path / "new" / "grid.v1.png")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["grid.v1.pdf", "grid.v1.png"]
    pdf = (tmp_path / "new" / "grid.v1.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    with Image.open(tmp_path / "new" / "grid.v1.png") as png:
        assert png.width == pytest.approx(7.2 * 200, abs=1)


def test_same_figure_same_bytes_and_no_half_files(tmp_path, monkeypatch):
    figure, same = (caption_grid([GridRow(PHOTO, [BO], {"ours": "<bo> naps"})]) for _ in range(2))
    first = [path.read_bytes() for path in save_figure(figure, tmp_path / "a")]
    assert [path.read_bytes() for path in save_figure(same, tmp_path / "a.pdf")] == first

    def fail(file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png"]
    assert (tmp_path / "a.png").read_bytes() == first[0]


def test_notebooks_show_figures():
    """With a text for who can't see them, which is also their plain text (no address in memory)."""
    from IPython.core.formatters import DisplayFormatter

    figure = score_chart([{"arm": "a", "k": 1, "precision": 1, "recall": 1, "f1": 0.5}])
    shown, described = DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
    said = described["image/png"]["alt"]
    assert (
        said
        == shown["text/plain"]
        == ("Precision, recall and F1 by references in the prompt; mean F1: a 50.0.")
    )
    row = GridRow(PHOTO, [BO], {"base": "A dog.", "grpo": None})
    assert repr(caption_grid([row])) == "Photo 1: references <bo>. base: A dog. grpo: no caption"


def test_series_are_told_apart_whatever_the_colour_vision():
    """The least distance (CIE 1976) of two of the colours, also as people with either red-green blindness see them.

    Matrices: Viénot, Brettel and Mollon (1999), on linear RGB.
    """
    views = {
        "full": np.eye(3),
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    for view, matrix in views.items():
        seen = [_lab(np.asarray(matrix) @ _linear(color)) for color in SERIES]
        least = min(np.linalg.norm(a - b) for a, b in combinations(seen[:4], 2))
        assert least > 15, view  # 2.3 is just noticeable
    assert all(contrast(color, "#ffffff") >= 2.3 for color in SERIES)


def _linear(color: str) -> np.ndarray:
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.clip(np.asarray(to_xyz) @ linear / [0.9505, 1, 1.089], 1e-6, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_images_are_turned_upright_and_named_when_bad(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    PHOTO.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (120, 160)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png: unreadable"):
        open_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"none\.png"):
        caption_grid([GridRow(tmp_path / "none.png", [], {"a": "b"})])


def metrics(tmp_path, text: str):
    (tmp_path / "metrics.csv").write_text(text)
    return tmp_path / "metrics.csv"


def test_reward_curves_draw_the_running_mean_over_gaps(tmp_path):
    path = metrics(
        tmp_path,
        "step,loss,reward,reward_std,reward/yes_no,completions/mean_length,completions/max_length,kl\n"
        "1,0,0.0,9,,10,99,0.1\n2,0,1.0,9,1,20,99,0.2\n3,0,,9,,30,99,0.3\n4,0,0.5,9,0,40,99,0.4\n4,0,0.",
    )
    figure = reward_curves(path, tmp_path / "curves", smooth=2)
    reward, length, kl = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == [
        "Reward",
        "Completion length (tokens)",
        "KL to the base",
    ]
    lines = {line.get_label(): line for line in reward.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["all", "OCT"]
    assert list(lines["all"].get_xdata()) == [1, 2, 4, 4]
    assert list(lines["all"].get_ydata()) == [0.0, 0.5, 0.75, 0.25]
    assert list(lines["OCT"].get_xdata()) == [2, 4]
    assert len(length.get_lines()) == 1 and list(length.get_lines()[0].get_ydata()) == [10, 15, 25, 35]
    assert list(kl.get_lines()[0].get_ydata()) == pytest.approx([0.1, 0.15, 0.25, 0.35])
    (band,) = length.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(2, 10), (2, 20), (4, 30), (4, 40)}
    assert repr(figure) == (
        "Training curves over 5 logged steps: Reward goes from 0 to 0, Completion length (tokens) goes from 10 "
        "to 40, KL to the base goes from 0.1 to 0.4."
    )
    assert (tmp_path / "curves.png").exists() and (tmp_path / "curves.pdf").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "column 'step' is needed"), ("a,b\n1,2\n", "column 'step'"), ("step,loss\n1,2\n", "no column for")],
)
def test_metrics_without_curves_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        reward_curves(metrics(tmp_path, text))
    assert "metrics.csv" in str(error.value)


def test_score_chart_goes_through_the_mean_of_seeds():
    def row(arm, k, f1, precision):
        return {"arm": arm, "k": k, "precision": precision, "recall": 0.5, "f1": f1}

    figure = score_chart([row("base", 1, 0.9, 1), row("base", 4, 0.0, None), row("base", 4, 0.2, None)])
    precision, _, f1 = (axes.containers[0] for axes in figure.axes)
    assert list(precision[0].get_xdata()) == [0]  # nothing named, no precision
    assert list(f1[0].get_ydata()) == pytest.approx([90, 10])
    spans = [segment[:, 1].tolist() for segment in f1[2][0].get_segments()]
    assert spans == [pytest.approx([90, 90]), pytest.approx([0, 20])]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "4"]


def test_grid_rows_line_up_methods(tmp_path):
    database = ConceptDatabase([Concept("<bo>", image="bo.jpg")])
    a = [CaptionRecord("1.jpg", ("<bo>",), "one", "Q?"), CaptionRecord("1.jpg", ("<bo>",), "again", "Q?")]
    b = [CaptionRecord("2.jpg", ("<bo>", "<zoe>"), "two"), CaptionRecord("1.jpg", ("<bo>",), "uno")]
    rows = grid_rows({"a": a, "b": b}, database, tmp_path)
    assert [row.captions for row in rows] == [
        {"a": "one", "b": "uno"},
        {"a": "again", "b": None},
        {"a": None, "b": "two"},
    ]
    assert rows[0].question == "Q?" and rows[0].query == (tmp_path / "1.jpg").resolve()
    assert [(c.tag, c.info) for c in rows[2].references] == [("<bo>", ""), ("<zoe>", "not in the database")]
    assert rows[2].tags == ("<bo>", "<zoe>")


@pytest.mark.parametrize("query", ["../secret.jpg", "/etc/passwd"])
def test_grid_rows_stay_under_the_root(tmp_path, query):
    with pytest.raises(ValueError, match=re.escape(repr(query))):
        grid_rows({"a": [CaptionRecord(query, ("<bo>",), "x")]}, ConceptDatabase(), tmp_path)


def test_cost_figure_shows_all_that_was_measured(tmp_path):
    points = [
        {
            "sweep": sweep,
            "settings": {sweep: value},
            "minimum_tokens": 100 * value,
            "contenders": {
                name: {"policy_tokens": factor * 100 * value, "seconds": {"step": factor * value}}
                for name, factor in (("stock", 4), ("shared", 1))
            },
        }
        for sweep, values in (("references", (1, 4)), ("generations", (2, 32)))
        for value in values
    ]
    figure = cost_figure(points, tmp_path / "cost")
    tokens, _, seconds, _ = figure.axes
    assert [list(line.get_ydata()) for line in tokens.lines] == [[400, 1600], [100, 400], [100, 400]]
    assert [list(line.get_ydata()) for line in seconds.lines] == [[4, 16], [1, 4]]
    assert (tmp_path / "cost.png").is_file() and (tmp_path / "cost.pdf").is_file()


@pytest.mark.parametrize("query", ["in\\Zo\u00eb.png", "in/Zo\u00eb.png", "in\\Zoe\u0308.png"])
def test_queries_are_found_as_another_system_writes_them(tmp_path, query):
    (tmp_path / "in").mkdir()
    PHOTO.save(tmp_path / "in" / "Zoe\u0308.png")
    row = grid_rows({"a": [CaptionRecord(query, ("<bo>",), "x")]}, ConceptDatabase(), tmp_path)[0]
    assert row.query == tmp_path / "in" / "Zoe\u0308.png"
    PHOTO.save(tmp_path / "outside.png")
    with pytest.raises(ValueError, match="is outside the root"):
        grid_rows(
            {"a": [CaptionRecord("..\\outside.png", ("<bo>",), "x")]}, ConceptDatabase(), tmp_path / "in"
        )


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_metrics_that_a_spreadsheet_saved(tmp_path, coding):
    path = metrics(tmp_path, "")
    path.write_bytes("step,reward\r\n1,0.5\r\n2,1\r\n".encode(coding))
    assert reward_curves(path).axes[0].get_title("left") == "Reward"
