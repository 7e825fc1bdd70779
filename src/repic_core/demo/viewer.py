"""Browse captions that were made before: the photo, its concepts, and what each method says about them.

Reads caption files in the published row format and a concept database, such as the authors' repository
(``captioning/`` and ``data/``) or a run of this kit. Needs no torch and no model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.captioner.caption_files import load_captions
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.filters import ANY, KINDS, JudgedRow, judge, matching
from repic_core.demo.messages import handler
from repic_core.demo.summary import Summary
from repic_core.display.caption_grid import concept_colors, grid_rows
from repic_core.display.html import STYLE, caption_card, concept_cards, photo

if TYPE_CHECKING:
    import gradio as gr

# The arrows press the buttons, unless somebody types or moves a slider; and the address opens the same row again.
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
LINK_JS = """(row) => {
  const address = new URL(window.location);
  address.searchParams.set("row", row);
  history.replaceState(null, "", address);
}"""


def build_viewer(
    caption_files: Mapping[str, str | Path], database: str | Path, root: str | Path
) -> gr.Blocks:
    """The page, ready for `repic_core.demo.launch`.

    Args:
        caption_files: method -> JSON of rows ``[query path, tags, caption, question]``; shown in this order.
        database: ``database.json`` with the concepts of those tags.
        root: what the paths in both are relative to.

    Raises:
        ValueError, FileNotFoundError: a file that is missing, cut off or malformed, by name. Missing photos
            are no error: a placeholder stands in their place.
    """
    import gradio as gr

    concepts = ConceptDatabase.load(database, root, check_images=False)
    captions = {method: load_captions(path) for method, path in caption_files.items()}
    lined_up = grid_rows(captions, concepts, root)
    if not lined_up:
        raise ValueError(f"no captions in {', '.join(map(str, caption_files.values())) or 'no files'}")
    rows = judge(lined_up, captions, concepts)
    table = Summary(captions, concepts, rows)
    shown = (concept for row in lined_up for concept in row.references)  # also those not in the database
    candidates = list({concept.tag: concept for concept in (*concepts, *shown)}.values())

    def show(number: float) -> tuple[int, str, str]:
        """Row `number` (from 1; beyond the last comes the first), its HTML, and the table with its place."""
        place = (int(number) - 1) % len(rows)
        return place + 1, row_html(rows[place], candidates), table.html(place)

    def step(number: float, by: int, *chosen: Any) -> tuple[int, str, str]:
        places = _matching(rows, chosen)
        later = [place for place in places if (place - number + 1) * by > 0][::by]
        return show((later or places[::by] or [int(number) - 1])[0] + 1)

    def back(number: float, *chosen: Any) -> tuple[int, str, str]:
        return step(number, -1, *chosen)

    def forward(number: float, *chosen: Any) -> tuple[int, str, str]:
        return step(number, 1, *chosen)

    def pick(number: float, *chosen: Any) -> tuple[int, str, str]:
        places = _matching(rows, chosen)
        return show(random.choice(places) + 1 if places else number)

    def narrow(number: float, *chosen: Any) -> tuple[str, int, str, str]:
        """How many rows fit, and the first of them where this one doesn't."""
        places = _matching(rows, chosen)
        if places and int(number) - 1 not in places:
            number = places[0] + 1
        count = f"{len(places)} of {len(rows)} rows fit." if places else "No row fits; all are as they were."
        return count, *show(number)

    @handler
    def open_link(request: gr.Request) -> tuple[int, str, str]:
        asked = str(request.query_params.get("row", ""))
        return show(int(asked) if asked.isdecimal() and 0 < int(asked) <= len(rows) else 1)

    with gr.Blocks(title="RePIC captions", analytics_enabled=False, fill_width=True) as app:
        gr.HTML(
            f'{STYLE}<div class="repic"><h1>Captions, method by method</h1></div>', apply_default_css=False
        )
        summary = gr.HTML(table.html(0), apply_default_css=False)
        filters, count = _filter_row(rows)
        with gr.Row():
            previous = gr.Button("Previous", min_width=90, elem_id="repic-previous")
            anywhere = gr.Button("Random", min_width=90)
            following = gr.Button("Next", min_width=90, variant="primary", elem_id="repic-next")
        last = max(len(rows), 2)  # a slider can't have a single place
        number = gr.Slider(1, last, 1, step=1, label=f"Row (of {len(rows)})", visible=len(rows) > 1)
        page = gr.HTML(show(1)[1], apply_default_css=False)
        row, chosen = [number, page, summary], [number, *filters]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        previous.click(back, chosen, row, api_name="previous", **quiet)
        following.click(forward, chosen, row, api_name="next", **quiet)
        anywhere.click(pick, chosen, row, api_name="random", **quiet)
        number.release(show, number, row, api_name="show", **quiet)
        for one in filters:
            one.input(
                narrow, chosen, [count, *row], api_name="filter" if one is filters[0] else False, **quiet
            )
        number.change(None, number, js=LINK_JS)
        app.load(open_link, None, row, api_name=False, **quiet)
        app.load(None, js=KEYS_JS)
    return app


def _filter_row(rows: Sequence[JudgedRow]) -> tuple[list[Any], Any]:
    """Concepts, scene, method and kind to choose, and where it is said how many rows fit."""
    import gradio as gr

    counts = sorted({row.concepts for row in rows})
    scenes = list(dict.fromkeys(row.scene for row in rows))
    methods = list(dict.fromkeys(method for row in rows for method in row.scores))
    with gr.Row():
        concepts = gr.Dropdown(
            [(ANY, ANY), *((str(n), n) for n in counts)], value=ANY, label="Concepts", min_width=90
        )
        scene = gr.Dropdown([ANY, *scenes], value=ANY, label="Scene", min_width=140)
        method = gr.Dropdown([ANY, *methods], value=ANY, label="Method", min_width=140)
        kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="Rows that it ...", min_width=160)
    return [concepts, scene, method, kind], gr.Markdown(f"{len(rows)} of {len(rows)} rows fit.")


def _matching(rows: Sequence[JudgedRow], chosen: Sequence[Any]) -> list[int]:
    concepts, scene, method, kind = chosen or (ANY, ANY, ANY, KINDS[0])
    return matching(rows, concepts, scene, method, kind)


def row_html(judged: JudgedRow, candidates: Sequence[Concept]) -> str:
    """One row of the viewer. Names of `candidates` that the photo doesn't show are struck out."""
    row = judged.row
    colors = concept_colors(row.tags)
    cards = []
    for method, text in row.captions.items():
        scores = ", ".join(
            f"{protocol} F1 {100 * found.score(protocol).f1:.0f}"
            for protocol, found in judged.scores.get(method, {}).items()
        )
        cards.append(caption_card(method, text, row.tags, colors, candidates, scores=scores))
    return (
        '<div class="repic"><div class="top">'
        f'<figure class="query">{photo(row.query, "The query photo")}'
        f"<figcaption>{escape(row.question)}</figcaption></figure>"
        f"{concept_cards(row.references, colors)}</div>"
        f'<div class="captions">{"".join(cards)}</div></div>'
    )
