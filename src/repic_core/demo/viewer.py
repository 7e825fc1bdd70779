"""The viewer: browse finished captions, with the photo, its concepts, and what each method says about them.

Reads caption files in the published row format and a concept database, such as those of the authors' repository
(``captioning/`` and ``data/``) or of a run of this kit. Needs no torch and no model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.captioner.caption_files import load_captions, whole
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.filters import ALL, ANY, KINDS, JudgedRow, judge, matching
from repic_core.demo.messages import handler
from repic_core.demo.summary import Summary
from repic_core.display.caption_grid import concept_colors, grid_rows
from repic_core.display.html import STYLE, caption_card, concept_cards, photo

if TYPE_CHECKING:
    import gradio as gr

# The arrow keys press the buttons, unless somebody types or moves a slider.
KEYS_JS = """() => {
  if (window.repicKeys) return;
  window.repicKeys = true;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [role=listbox], [contenteditable]");
    if (typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const id = {ArrowLeft: "repic-previous", ArrowRight: "repic-next"}[event.key];
    if (id) document.getElementById(id).click();
  });
}"""
# The address then opens the same row again.
LINK_JS = """(row) => {
  const address = new URL(window.location);
  address.searchParams.set("row", row);
  history.replaceState(null, "", address);
}"""


def build_viewer(
    caption_files: Mapping[str, str | Path], database: str | Path, root: str | Path, note: str = ""
) -> gr.Blocks:
    """The page, ready for `repic_core.demo.launch`.

    Args:
        caption_files: method -> JSON of rows ``[query path, tags, caption, question]``; shown in this order.
        database: ``database.json`` with the concepts of those tags.
        root: what the paths in both are relative to.
        note: a text below the table, such as `published.SETS[...].note`.

    Raises:
        ValueError, FileNotFoundError: a file is missing, cut off or malformed; the message names it. A missing
            photo is not an error: the page shows a placeholder.
    """
    concepts = ConceptDatabase.load(database, root, check_images=False)
    captions = {whole(method): load_captions(path) for method, path in caption_files.items()}
    lined_up = grid_rows(captions, concepts, root)
    if not lined_up:
        raise ValueError(f"no captions in {', '.join(map(str, caption_files.values())) or 'no files'}")
    rows = judge(lined_up, captions, concepts)
    return ViewerPage(rows, Summary(captions, concepts, rows), note).build()


class ViewerPage:
    """The viewer; the handlers of its events are methods.

    Args:
        rows: one for each photo and its concepts.
        table: of all methods.
        note: shown below it, if there is one.
    """

    def __init__(self, rows: Sequence[JudgedRow], table: Summary, note: str = "") -> None:
        self.rows, self.table, self.note = rows, table, note

    def build(self) -> gr.Blocks:
        import gradio as gr

        with gr.Blocks(title="RePIC captions", analytics_enabled=False, fill_width=True) as app:
            self.layout()
            self.connect(app)
        return app

    def layout(self) -> None:
        """Build the components, within a ``gr.Blocks``."""
        import gradio as gr

        count = len(self.rows)
        title = "Captions, method by method"
        gr.HTML(f'{STYLE}<div class="repic"><h1>{title}</h1></div>', apply_default_css=False)
        self.summary = gr.HTML(self.table.html(0), apply_default_css=False)
        if self.note:
            note = f'<div class="repic"><p class="muted">{escape(self.note)}</p></div>'
            gr.HTML(note, apply_default_css=False)
        self.filters = self._filters()
        self.count = gr.Markdown(f"{count} of {count} rows fit.")
        with gr.Row():
            self.previous_button = gr.Button("Previous", min_width=90, elem_id="repic-previous")
            self.random_button = gr.Button("Random", min_width=90)
            self.next_button = gr.Button("Next", min_width=90, variant="primary", elem_id="repic-next")
        # A slider needs at least two places.
        last = max(count, 2)
        self.number = gr.Slider(1, last, 1, step=1, label=f"Row (of {count})", visible=count > 1)
        self.page = gr.HTML(self.show(1)[1], apply_default_css=False)

    def _filters(self) -> list[gr.Dropdown]:
        """Dropdowns for concepts, scene, method and kind, side by side."""
        import gradio as gr

        counts = sorted({row.concepts for row in self.rows})
        scenes = list(dict.fromkeys(row.scene for row in self.rows))
        methods = list(dict.fromkeys(method for row in self.rows for method in row.scores))
        numbers = [(ANY, ANY), *((str(n), n) for n in counts)]
        with gr.Row():
            return [
                gr.Dropdown(numbers, value=ANY, label="Concepts", min_width=90),
                gr.Dropdown([ANY, *scenes], value=ANY, label="Scene", min_width=140),
                gr.Dropdown([ANY, *methods], value=ANY, label="Method", min_width=140),
                gr.Dropdown(list(KINDS), value=ALL, label="Rows where it ...", min_width=160),
            ]

    def connect(self, app: gr.Blocks) -> None:
        """Connect events with their handlers."""
        row, chosen = [self.number, self.page, self.summary], [self.number, *self.filters]
        # By default Gradio drops a click that comes before the last one's answer is complete.
        hidden: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        self.previous_button.click(self.back, chosen, row, api_name="previous", **hidden)
        self.next_button.click(self.forward, chosen, row, api_name="next", **hidden)
        self.random_button.click(self.pick, chosen, row, api_name="random", **hidden)
        # Not `release`: Gradio sends that for a click anywhere, with the row that was shown before.
        self.number.input(self.show, self.number, row, api_name="show", **hidden)
        for one in self.filters:
            name = "filter" if one is self.filters[0] else False
            one.input(self.narrow, chosen, [self.count, *row], api_name=name, **hidden)
        self.number.change(None, self.number, js=LINK_JS)
        app.load(handler(self.open_link), None, row, api_name=False, show_progress="hidden")
        app.load(None, js=KEYS_JS)

    def show(self, number: float) -> tuple[int, str, str]:
        """Row `number` (from 1; after the last comes the first), its HTML, and the table with its place."""
        place = (int(number) - 1) % len(self.rows)
        return place + 1, row_html(self.rows[place]), self.table.html(place)

    def back(self, number: float, *chosen: Any) -> tuple[int, str, str]:
        places = self._matching(chosen)
        before = [place for place in places if place < number - 1]
        return self._show_first(before[::-1] or places[::-1], number)

    def forward(self, number: float, *chosen: Any) -> tuple[int, str, str]:
        places = self._matching(chosen)
        after = [place for place in places if place > number - 1]
        return self._show_first(after or places, number)

    def _show_first(self, places: Sequence[int], number: float) -> tuple[int, str, str]:
        """The row at the first of `places`; row `number` if there is none."""
        return self.show(places[0] + 1 if places else number)

    def pick(self, number: float, *chosen: Any) -> tuple[int, str, str]:
        """A random row of those that fit."""
        places = self._matching(chosen)
        return self.show(random.choice(places) + 1 if places else number)

    def narrow(self, number: float, *chosen: Any) -> tuple[str, int, str, str]:
        """How many rows fit, and the first of them if the present row doesn't."""
        places = self._matching(chosen)
        if places and int(number) - 1 not in places:
            number = places[0] + 1
        count = (
            f"{len(places)} of {len(self.rows)} rows fit." if places else "No row fits; nothing has changed."
        )
        return count, *self.show(number)

    def open_link(self, request: gr.Request) -> tuple[int, str, str]:
        """The row that the address asks for with ``?row=``, else the first."""
        asked = str(request.query_params.get("row", ""))
        known = asked.isdecimal() and 0 < int(asked) <= len(self.rows)
        return self.show(int(asked) if known else 1)

    def _matching(self, chosen: Sequence[Any]) -> list[int]:
        """The places of the rows that pass the filters; all rows if there are no filters."""
        return matching(self.rows, *chosen)


def row_html(judged: JudgedRow) -> str:
    """A row of the viewer as HTML. Wrong names are struck out, those that are in no database, too."""
    row = judged.row
    colors = concept_colors(row.tags)
    cards = []
    for method, text in row.captions.items():
        scores = ", ".join(
            f"{protocol} F1 {100 * found.score(protocol).f1:.0f}"
            for protocol, found in judged.scores.get(method, {}).items()
        )
        cards.append(caption_card(method, text, row.tags, colors, row.candidates, scores=scores))
    return (
        '<div class="repic"><div class="top">'
        f'<figure class="query">{photo(row.query, "The query photo")}'
        f"<figcaption>{escape(row.question)}</figcaption></figure>"
        f"{concept_cards(row.references, colors)}</div>"
        f'<div class="captions">{"".join(cards)}</div></div>'
    )
