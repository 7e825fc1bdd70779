"""The part of the live page where visitors keep their own concepts: add, edit, rename, delete, export, import."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.concepts.concept import Concept
from repic_core.demo.messages import handler, local_choices, message
from repic_core.demo.photo_input import local_only, photo_input
from repic_core.demo.shelf import Shelf, Shelves
from repic_core.demo.shelf_zip import INFO_LENGTH, NAME_LENGTH
from repic_core.display.caption_grid import concept_colors
from repic_core.display.html import concept_cards, counted, photo, tag_choices

if TYPE_CHECKING:
    import gradio as gr

NEW = ("a new concept", "")
SIDES = ("Left", "Top", "Right", "Bottom")
# Concepts whose cards are shown; of more, the first ones are.
MOST_CARDS = 60


class ShelfPage:
    """The shelf as a part of the live page; the handlers of its events are methods.

    Args:
        shelves: of all visitors.
        tags: where the visitor chooses concepts; its choices follow the shelf.
    """

    def __init__(self, shelves: Shelves, tags: gr.Dropdown) -> None:
        self.shelves, self.tags = shelves, tags

    def layout(self) -> None:
        """Build the components, within a ``gr.Blocks``."""
        import gradio as gr

        with gr.Row():
            with gr.Column():
                choices = [NEW, *tag_choices(self.shelves.given)]
                self.edited = local_choices(gr.Dropdown(choices, value="", label="Edit"))
                self.image = photo_input(label="Reference photo", height=260)
                with gr.Accordion("Crop", open=False):
                    gr.Markdown("How much to cut off each side, in percent.")
                    self.cuts = [gr.Slider(0, 90, 0, step=1, label=side) for side in SIDES]
                self.seen = gr.HTML(apply_default_css=False)
                self.name = gr.Textbox(label="Name", max_length=NAME_LENGTH, placeholder="bo")
                example = "a Shiba Inu with a black collar"
                self.info = gr.Textbox(label="Info", max_length=INFO_LENGTH, placeholder=example, lines=2)
                with gr.Row():
                    self.save_button = gr.Button("Save", variant="primary")
                    self.delete_button = gr.Button("Delete", variant="stop")
            with gr.Column():
                with gr.Row():
                    self.export_button = gr.Button("Export")
                    self.import_button = local_only(
                        gr.UploadButton("Import", file_types=[".zip"], type="filepath")
                    )
                self.box = gr.File(label="Your concepts, as a zip file", visible=False)
                nobody = Shelf(Path("nobody"), self.shelves.given)
                self.cards = gr.HTML(_cards(nobody), apply_default_css=False)

    def connect(self) -> dict[str, Any]:
        """Connect events with their handlers; returns the event that fills the shelf of a visitor who has come."""
        direct: dict[str, Any] = {"show_progress": "hidden", "queue": False}
        hidden: dict[str, Any] = {"show_progress": "hidden"}
        shown = [self.cards, self.tags, self.edited]
        form = [self.image, self.name, self.info, self.seen, *self.cuts]
        cropped = [self.image, *self.cuts]
        preview = handler(self.preview)
        self.edited.input(
            handler(self.pick),
            self.edited,
            [self.name, self.info, self.seen, self.image],
            api_name="pick",
            **direct,
        )
        checked = self.image.change(preview, cropped, self.seen, api_name=False, **hidden)
        # A photo that was refused is taken out of the form.
        checked.failure(lambda: None, None, self.image, api_name=False, **direct)
        for cut in self.cuts:
            cut.release(preview, cropped, self.seen, api_name=False, **hidden)
        asked = [self.edited, self.image, self.name, self.info, self.tags, *self.cuts]
        self.save_button.click(handler(self.save), asked, [*shown, *form], api_name="save")
        self.delete_button.click(
            handler(self.delete), [self.edited, self.tags], [*shown, *form], api_name="delete"
        )
        self.import_button.upload(
            handler(self.take), [self.import_button, self.tags], shown, api_name="import"
        )
        self.export_button.click(handler(self.export), None, self.box, api_name="export")
        return {
            "fn": handler(self.show),
            "inputs": self.tags,
            "outputs": shown,
            "api_name": "shelf",
            **direct,
        }

    def show(self, chosen: list[str], request: gr.Request) -> tuple[str, Any, Any]:
        return self._state(self._shelf(request), chosen)

    def pick(self, edited: str, request: gr.Request) -> tuple[str, str, str, None]:
        """The form for a concept: its present name, info and photo."""
        if not edited:
            return "", "", "", None
        concept = self._shelf(request).concepts()[edited]
        return concept.name, concept.info, _preview(concept.images[0], "The photo as it is"), None

    def preview(self, image: Any, *cuts: float) -> str:
        return "" if image is None else _preview(_cropped(image, *cuts), "The photo as it will be stored")

    def save(
        self,
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
        """Store what the form holds. A new concept is also chosen for the next caption."""
        shelf = self._shelf(request)
        image = None if image is None else _cropped(image, left, top, right, bottom)
        concept = shelf.put(image, name or "", info or "", edited or "")
        chosen = [concept.tag if tag == edited else tag for tag in chosen]
        if not edited and concept.tag not in chosen:
            chosen.append(concept.tag)
        return self._state_and_empty_form(shelf, chosen)

    def delete(self, edited: str, chosen: list[str], request: gr.Request) -> tuple[Any, ...]:
        shelf = self._shelf(request)
        if not edited:
            raise message("Choose the concept to delete.")
        shelf.delete(edited)
        return self._state_and_empty_form(shelf, chosen)

    def take(
        self, file: str | None, chosen: list[str], request: gr.Request, progress: Any
    ) -> tuple[str, Any, Any]:
        """Add the concepts of an exported zip file."""
        import gradio as gr

        shelf = self._shelf(request)
        if file is None:
            raise message("Choose a zip file that was exported here.")
        try:
            count = shelf.take(file, lambda share: progress(share, "Checking photos"))
        finally:
            Path(file).unlink(missing_ok=True)
        gr.Info(f"{counted(count, 'concept')} imported.")
        return self._state(shelf, chosen)

    def export(self, request: gr.Request) -> Any:
        import gradio as gr

        # Nobody can guess the address of this folder.
        folder = Path(self.box.GRADIO_CACHE) / secrets.token_hex(16)
        return gr.File(str(self._shelf(request).export(folder / "concepts.zip")), visible=True)

    def _shelf(self, request: gr.Request) -> Shelf:
        return self.shelves.of(request.session_hash)

    def _state(self, shelf: Shelf, chosen: Sequence[str]) -> tuple[str, Any, Any]:
        """The cards, what can be chosen for a caption, and what can be edited."""
        import gradio as gr

        known = shelf.concepts()
        choices, kept = tag_choices(known), [tag for tag in chosen if tag in known]
        return _cards(shelf), gr.Dropdown(choices, value=kept), gr.Dropdown([NEW, *choices], value="")

    def _state_and_empty_form(self, shelf: Shelf, chosen: Sequence[str]) -> tuple[Any, ...]:
        return (*self._state(shelf, chosen), None, "", "", "", 0, 0, 0, 0)


def _cards(shelf: Shelf) -> str:
    """The visitor's own concepts, then those that everybody is given."""
    own = shelf.own
    given = [concept for concept in shelf.given if concept.tag not in own]
    if not len(own) and not given:
        return '<div class="repic"><p class="muted">No concepts yet: add the first one.</p></div>'
    colors = concept_colors(concept.tag for concept in [*own, *given])
    sections = [_section("Yours", list(own), colors)]
    if given:
        sections.append(_section("Given to everybody", given, colors))
    return f'<div class="repic">{"".join(sections)}</div>'


def _section(title: str, concepts: Sequence[Concept], colors: Mapping[str, str]) -> str:
    more = f", {MOST_CARDS} shown" if len(concepts) > MOST_CARDS else ""
    heading = f'<p class="muted">{title}: {len(concepts)}{more}</p>'
    return heading + concept_cards(concepts[:MOST_CARDS], colors)


def _preview(image: Any, alt: str) -> str:
    return f'<div class="repic preview">{photo(image, alt)}</div>'


def _cropped(image: Any, left: float, top: float, right: float, bottom: float) -> Any:
    """`image` without this many percent of each side; at least a tenth of it stays."""
    wide, high = image.size
    # Written so that it also refuses what is not a number.
    if not (left + right <= 90 and top + bottom <= 90):
        raise message("This crop leaves nothing: cut off less.")
    x, y = int(wide * left / 100), int(high * top / 100)
    end = round(wide * (1 - right / 100)), round(high * (1 - bottom / 100))
    return image.crop((x, y, max(x + 1, end[0]), max(y + 1, end[1])))
