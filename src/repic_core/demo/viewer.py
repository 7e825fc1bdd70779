"""Browse captions that were made before: the photo, its concepts, and what each method says about them.

Reads caption files in the published row format and a concept database, such as the authors' repository
(``captioning/`` and ``data/``) or a run of this kit. Needs no torch and no model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from repic_core.caption_settings import SETTINGS_SUFFIX
from repic_core.concepts import Concept, ConceptDatabase
from repic_core.demo.page import STYLE, caption_card, concept_cards, photo
from repic_core.evaluation import CaptionRecord, load_captions, score
from repic_core.figures import GridRow, concept_colors, grid_rows

if TYPE_CHECKING:
    import gradio as gr

# The authors' repository: folder of caption files, database, and what the files' names mean.
PUBLISHED_FOLDERS = {
    2: ("captioning/double_concept", "data/database_tot/database_2_concepts/database_mod.json"),
    4: ("captioning/quad_concept", "data/database_tot/database_4_concepts/database_mod.json"),
}
PUBLISHED_METHODS = {
    "captioning-skip-retrieval-ours": "RePIC 7B",
    "captioning-skip-retrieval-zero_shot": "Qwen2.5-VL 7B zero-shot",
    "captioning-skip-retrieval-qwen_sft": "RAP-Qwen 7B 260K",
    "caption-rap-llava-skip-retreival_RAP-llava-skip-full": "RAP-LLaVA 13B 260K",
    "caption-rap-llava-skip-retreival_RAP-llava-2k-skip-full": "RAP-LLaVA 13B 2K",
}


def published_files(root: str | Path, concepts: int = 4) -> tuple[dict[str, Path], Path]:
    """Caption files (method -> path) and database of a folder laid out like the authors' repository.

    Args:
        concepts: 2 or 4, the concepts a photo shows.

    Raises:
        FileNotFoundError: naming the folder or the file that isn't there.
    """
    folder, database = (Path(root) / part for part in PUBLISHED_FOLDERS[concepts])
    found = {
        path.stem: path for path in sorted(folder.glob("*.json")) if not path.name.endswith(SETTINGS_SUFFIX)
    }
    if not found:
        raise FileNotFoundError(f"{folder}: no caption files (*.json); is {root} the authors' repository?")
    if not database.is_file():
        raise FileNotFoundError(f"{database}: there is no such database")
    order = [*(stem for stem in PUBLISHED_METHODS if stem in found), *found]
    return {PUBLISHED_METHODS.get(stem, stem): found[stem] for stem in dict.fromkeys(order)}, database


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
    rows = grid_rows(captions, concepts, root)
    if not rows:
        raise ValueError(f"no captions in {', '.join(map(str, caption_files.values())) or 'no files'}")

    shown = (concept for row in rows for concept in row.references)  # also those not in the database
    candidates = list({concept.tag: concept for concept in (*concepts, *shown)}.values())

    def show(number: float) -> tuple[int, str]:
        """Row `number` (from 1; beyond the last comes the first) and its HTML."""
        index = (int(number) - 1) % len(rows)
        return index + 1, row_html(rows[index], candidates)

    def back(number: float) -> tuple[int, str]:
        return show(number - 1)

    def forward(number: float) -> tuple[int, str]:
        return show(number + 1)

    def pick() -> tuple[int, str]:
        return show(random.randint(1, len(rows)))

    with gr.Blocks(title="RePIC captions", analytics_enabled=False, fill_width=True) as app:
        summary = summary_html(captions, concepts)
        gr.HTML(
            f'{STYLE}<div class="repic"><h1>Captions, method by method</h1>{summary}</div>',
            apply_default_css=False,
        )
        with gr.Row():
            previous = gr.Button("Previous", min_width=90)
            anywhere = gr.Button("Random", min_width=90)
            following = gr.Button("Next", min_width=90, variant="primary")
        last = max(len(rows), 2)  # a slider can't have a single place
        number = gr.Slider(1, last, 1, step=1, label=f"Photo (of {len(rows)})", visible=len(rows) > 1)
        page = gr.HTML(show(1)[1], apply_default_css=False)
        previous.click(back, number, [number, page], api_name="previous", show_progress="hidden")
        following.click(forward, number, [number, page], api_name="next", show_progress="hidden")
        anywhere.click(pick, None, [number, page], api_name="random", show_progress="hidden")
        number.release(show, number, [number, page], api_name="show", show_progress="hidden")
    return app


def row_html(row: GridRow, candidates: Sequence[Concept]) -> str:
    """One row of the viewer. Names of `candidates` that the photo doesn't show are struck out."""
    colors = concept_colors(row.tags)
    cards = [caption_card(m, text, row.tags, colors, candidates) for m, text in row.captions.items()]
    return (
        '<div class="repic"><div class="top">'
        f'<figure class="query">{photo(row.query, "The query photo")}'
        f"<figcaption>{escape(row.question)}</figcaption></figure>"
        f"{concept_cards(row.references, colors)}</div>"
        f'<div class="captions">{"".join(cards)}</div></div>'
    )


def summary_html(captions: Mapping[str, Sequence[CaptionRecord]], database: ConceptDatabase) -> str:
    """A table for each number of concepts: precision, recall and F1 (%) of every method, by the published
    protocol and by `span`; the best F1 is bold."""
    counts = sorted({len(record.tags) for records in captions.values() for record in records})
    return "".join(_summary_table(captions, database, count) for count in counts)


def _summary_table(
    captions: Mapping[str, Sequence[CaptionRecord]], database: ConceptDatabase, count: int
) -> str:
    published = {1: "repic-single", 2: "repic-2"}.get(count, "repic-4")
    protocols = (published, "span")
    chosen = {m: [r for r in records if len(r.tags) == count] for m, records in captions.items()}
    scores = {
        (method, protocol): score(records, protocol, database)
        for method, records in chosen.items()
        for protocol in protocols
        if records
    }
    best = {p: max(s.f1 for (_, protocol), s in scores.items() if protocol == p) for p in protocols}
    body = []
    for method, records in chosen.items():
        cells = []
        for protocol in protocols if records else ():
            result = scores[method, protocol]
            mark = ' class="best"' if result.f1 == best[protocol] else ""
            cells.append(f"<td>{100 * result.precision:.1f}</td><td>{100 * result.recall:.1f}</td>")
            cells.append(f"<td{mark}>{100 * result.f1:.1f}</td>")
        body.append(f'<tr><th scope="row">{escape(method)}</th>{"".join(cells)}</tr>')
    rows = max(map(len, chosen.values()))
    title = f"{count} concept{'s' * (count != 1)}, {rows} photo{'s' * (rows != 1)}"
    heads = "".join(f'<th colspan="3" scope="colgroup">{protocol} (%)</th>' for protocol in protocols)
    metrics = "<th>P</th><th>R</th><th>F1</th>" * len(protocols)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{heads}</tr>'
        f'<tr><th scope="col">{title}</th>{metrics}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )
