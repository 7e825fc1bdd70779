"""The part of the live page where visitors keep their own concepts: add, edit, rename, delete, export, import."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.demo.messages import handler, local_choices, message
from repic_core.demo.photo_input import local_only, photo_input
from repic_core.demo.shelf import INFO_LENGTH, NAME_LENGTH, Shelf, Shelves
from repic_core.display.caption_grid import concept_colors
from repic_core.display.html import concept_cards, photo, tag_choices

if TYPE_CHECKING:
    import gradio as gr

NEW = ("a new concept", "")
MOST_CARDS = 60  # concepts that are shown; of more, the first


def shelf_page(shelves: Shelves, tags: gr.Dropdown) -> dict[str, Any]:
    """Builds the shelf within a ``gr.Blocks``; the event that fills it for the visitor who has come.

    Args:
        tags: where the visitor chooses concepts; its choices follow the shelf.
    """
    import gradio as gr

    def shelf_of(request: gr.Request) -> Shelf:
        return shelves.of(request.session_hash)

    def state(shelf: Shelf, chosen: Sequence[str]) -> tuple[str, Any, Any]:
        """The cards, what can be chosen for a caption, and what can be edited."""
        known = shelf.concepts()
        choices, kept = tag_choices(known), [tag for tag in chosen if tag in known]
        return _cards(shelf), gr.Dropdown(choices, value=kept), gr.Dropdown([NEW, *choices], value="")

    @handler
    def show(chosen: list[str], request: gr.Request) -> tuple[str, Any, Any]:
        return state(shelf_of(request), chosen)

    @handler
    def pick(edited: str, request: gr.Request) -> tuple[str, str, str, None]:
        """The form for a concept: its name, info and photo as they are."""
        if not edited:
            return "", "", "", None
        concept = shelf_of(request).concepts()[edited]
        return concept.name, concept.info, _preview(concept.images[0], "The photo as it is"), None

    @handler
    def preview(image: Any, *cuts: float) -> str:
        return "" if image is None else _preview(_cropped(image, *cuts), "The photo as it will be stored")

    @handler
    def save(
        edited: str,
        image: Any,
        name: str,
        info: str,
        chosen: list[str],
        left: float,
        top: float,
        right: float,
        bottom: float,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        shelf = shelf_of(request)
        image = None if image is None else _cropped(image, left, top, right, bottom)
        concept = shelf.put(image, name or "", info or "", edited or "")
        chosen = [concept.tag if tag == edited else tag for tag in chosen]
        chosen = chosen if edited or concept.tag in chosen else [*chosen, concept.tag]
        return (*state(shelf, chosen), None, "", "", "", 0, 0, 0, 0)

    @handler
    def delete(edited: str, chosen: list[str], request: gr.Request) -> tuple[Any, ...]:
        shelf = shelf_of(request)
        if not edited:
            raise message("Choose the concept to delete.")
        shelf.delete(edited)
        return (*state(shelf, chosen), None, "", "", "", 0, 0, 0, 0)

    @handler
    def take(
        file: str | None,
        chosen: list[str],
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        shelf = shelf_of(request)
        if file is None:
            raise message("Choose a zip file that was exported here.")
        try:
            count = shelf.take(file, lambda share: progress(share, "Checking photos"))
        finally:
            Path(file).unlink(missing_ok=True)
        gr.Info(f"{count} concept{'s' * (count != 1)} imported.")
        return state(shelf, chosen)

    @handler
    def export(request: gr.Request) -> Any:
        folder = Path(box.GRADIO_CACHE) / secrets.token_hex(16)  # nobody guesses its address
        return gr.File(str(shelf_of(request).export(folder / "concepts.zip")), visible=True)

    with gr.Row():
        with gr.Column():
            edited = local_choices(gr.Dropdown([NEW, *tag_choices(shelves.given)], value="", label="Edit"))
            image = photo_input(label="Reference photo", height=260)
            with gr.Accordion("Crop", open=False):
                gr.Markdown("How much of each side is cut off, in percent.")
                cuts = [
                    gr.Slider(0, 90, 0, step=1, label=side) for side in ("Left", "Top", "Right", "Bottom")
                ]
            seen = gr.HTML(apply_default_css=False)
            name = gr.Textbox(label="Name", max_length=NAME_LENGTH, placeholder="bo")
            info = gr.Textbox(
                label="Info", max_length=INFO_LENGTH, placeholder="a Shiba Inu with a black collar", lines=2
            )
            with gr.Row():
                put = gr.Button("Save", variant="primary")
                drop = gr.Button("Delete", variant="stop")
        with gr.Column():
            with gr.Row():
                out = gr.Button("Export")
                into = local_only(gr.UploadButton("Import", file_types=[".zip"], type="filepath"))
            box = gr.File(label="Your concepts, as a zip file", visible=False)
            cards = gr.HTML(_cards(Shelf(Path("nobody"), shelves.given)), apply_default_css=False)
    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "queue": False,
    }  # as on the page; errors need the queue
    told: dict[str, Any] = {"show_progress": "hidden"}
    shown, form = [cards, tags, edited], [image, name, info, seen, *cuts]
    edited.input(pick, edited, [name, info, seen, image], api_name="pick", **quiet)
    checked = image.change(preview, [image, *cuts], seen, api_name=False, **told)
    checked.failure(lambda: None, None, image, api_name=False, **quiet)  # a refused photo goes
    for cut in cuts:
        cut.release(preview, [image, *cuts], seen, api_name=False, **told)
    put.click(save, [edited, image, name, info, tags, *cuts], [*shown, *form], api_name="save")
    drop.click(delete, [edited, tags], [*shown, *form], api_name="delete")
    into.upload(take, [into, tags], shown, api_name="import")
    out.click(export, None, box, api_name="export")
    return {"fn": show, "inputs": tags, "outputs": shown, "api_name": "shelf", **quiet}


def _cards(shelf: Shelf) -> str:
    """The visitor's own concepts, then those that everybody is given."""
    own = shelf.own
    given = [concept for concept in shelf.given if concept.tag not in own]
    if not len(own) and not given:
        return '<div class="repic"><p class="muted">No concept yet: add the first.</p></div>'
    colors = concept_colors(concept.tag for concept in [*own, *given])
    sections = []
    for title, concepts in (("Yours", list(own)), ("Given to everybody", given)):
        if title != "Yours" and not concepts:
            continue
        more = f", {MOST_CARDS} shown" if len(concepts) > MOST_CARDS else ""
        sections.append(f'<p class="muted">{title}: {len(concepts)}{more}</p>')
        sections.append(concept_cards(concepts[:MOST_CARDS], colors))
    return f'<div class="repic">{"".join(sections)}</div>'


def _preview(image: Any, alt: str) -> str:
    return f'<div class="repic preview">{photo(image, alt)}</div>'


def _cropped(image: Any, left: float, top: float, right: float, bottom: float) -> Any:
    """`image` without so many percent of each side; at least a tenth of it stays."""
    wide, high = image.size
    if not (left + right <= 90 and top + bottom <= 90):  # also where one is not a number
        raise message("This crop leaves nothing: cut off less.")
    x, y = int(wide * left / 100), int(high * top / 100)
    end = round(wide * (1 - right / 100)), round(high * (1 - bottom / 100))
    return image.crop((x, y, max(x + 1, end[0]), max(y + 1, end[1])))
