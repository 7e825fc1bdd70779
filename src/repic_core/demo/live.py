"""The live page: caption your own photos with your own concepts, and watch the names appear."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.captioner.endpoint import EndpointCaptioner
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.messages import handler, local_choices, message
from repic_core.demo.photo_input import photo_input
from repic_core.demo.shelf import Shelf, Shelves
from repic_core.demo.shelf_page import ShelfPage
from repic_core.display.caption_grid import concept_colors
from repic_core.display.html import SMALL_PIXELS, STYLE, caption_card, concept_cards, tag_choices
from repic_core.evaluation.task_scores import locate
from repic_core.prompts import CAPTION_QUESTIONS

if TYPE_CHECKING:
    import gradio as gr

    from repic_core.captioner.captioner import Captioner

QUESTIONS = tuple(dict.fromkeys(q for questions in CAPTION_QUESTIONS.values() for q in questions))
WAITING = '<div class="repic"><p class="muted">The caption appears here.</p></div>'
# Requests that may wait.
QUEUE = 64
# In a prompt, and in a question.
MOST_REFERENCES, MOST_LETTERS = 16, 1000
# Where the references of the prompt come from.
CHOSEN, FOUND, TRUTH = "those chosen below", "found in the photo", "what the example shows"
# A screen reader reads the caption as it grows.
LOAD_JS = """() => {
  const caption = document.getElementById("repic-caption");
  if (caption) caption.setAttribute("aria-live", "polite");
}"""
# On a phone, the caption is below the buttons.
SCROLL_JS = '() => document.getElementById("repic-caption").scrollIntoView({block: "nearest"})'


def build_live(
    captioner: Captioner | Mapping[str, Captioner],
    database: ConceptDatabase | None = None,
    examples: Sequence[tuple[str | Path, Sequence[str]]] = (),
    title: str = "Personalized captions",
    find: Callable[[Any, Shelf], Sequence[str]] | None = None,
    shelves: str | Path | None = None,
) -> gr.Blocks:
    """The page, ready for `repic_core.demo.launch`. One visitor is captioned at a time; the others wait in a queue.

    Args:
        captioner: its ``stream(query, references, question=...)`` yields the growing caption; or several by name to
            compare, such as two adapters.
        database: concepts that every visitor is given.
        examples: (path of a query photo, the tags of `database` that it shows), to be tried with a click.
        find: gives the tags of the concepts that a photo may show, such as `finder.Finder`; visitors then need not
            choose them.
        shelves: folder where visitors' own concepts are kept, in a folder each; by default they are lost when the
            browser's page is closed.

    Raises:
        ConceptError: an example has a tag that `database` lacks.
    """
    models = dict(captioner) if isinstance(captioner, Mapping) else {"Caption": captioner}
    return LivePage(models, Shelves(database or ConceptDatabase(), shelves), examples, title, find).build()


class LivePage:
    """The live page; the handlers of its events are methods. Arguments are those of `build_live`."""

    def __init__(
        self,
        models: Mapping[str, Captioner],
        shelves: Shelves,
        examples: Sequence[tuple[str | Path, Sequence[str]]],
        title: str,
        find: Callable[[Any, Shelf], Sequence[str]] | None,
    ) -> None:
        for _, names in examples:
            shelves.given.select(*names)
        self.models, self.shelves, self.examples, self.title = models, shelves, examples, title
        self.search = find
        # A stopped run may still be busy with its next word.
        self._busy = threading.Lock()

    def build(self) -> gr.Blocks:
        import gradio as gr

        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=(3600, 86400)) as app:
            self.layout()
            self.connect(app)
        return app.queue(max_size=QUEUE, default_concurrency_limit=8)

    def layout(self) -> None:
        """Build the components, within a ``gr.Blocks``."""
        import gradio as gr

        sources = [CHOSEN]
        if self.search:
            sources.append(FOUND)
        if self.examples:
            sources.append(TRUTH)
        models = list(self.models)
        known, several = tag_choices(self.shelves.given), {"value": [], "multiselect": True}
        gr.HTML(f'{STYLE}<div class="repic"><h1>{escape(self.title)}</h1></div>', apply_default_css=False)
        self.secret = gr.BrowserState("", storage_key="repic-shelf", secret="repic-core")
        with gr.Tab("Caption"):
            with gr.Row():
                with gr.Column():
                    self.query = photo_input(label="Photo to caption", height=240, elem_id="repic-query")
                    self.source = gr.Radio(
                        sources, value=CHOSEN, label="References", visible=len(sources) > 1
                    )
                    self.tags = local_choices(
                        gr.Dropdown(known, label="Concepts that it may show", **several)
                    )
                    self.question = gr.Dropdown(
                        list(QUESTIONS), value=QUESTIONS[0], label="Question", allow_custom_value=True
                    )
                    self.chosen = gr.CheckboxGroup(
                        models, value=models, label="Models", visible=len(models) > 1
                    )
                    self.shown = local_choices(gr.Dropdown(known, label="Shows", visible=False, **several))
                with gr.Column():
                    with gr.Row():
                        self.caption_button = gr.Button("Caption", variant="primary")
                        self.stop_button = gr.Button("Stop")
                    with gr.Row():
                        self.find_button = gr.Button("Find the concepts", visible=self.search is not None)
                        here = not any(isinstance(one, EndpointCaptioner) for one in self.models.values())
                        self.where_button = gr.Button("Where are they?", visible=here)
                    self.output = gr.HTML(WAITING, apply_default_css=False, elem_id="repic-caption")
                    self.boxes = gr.AnnotatedImage(
                        label="Where the model sees them", visible=False, height=400
                    )
                    self.cards = gr.HTML(apply_default_css=False)
            if self.examples:
                rows = [[str(path), list(names)] for path, names in self.examples]
                self.offered = gr.Examples(rows, [self.query, self.shown])
        with gr.Tab("Your concepts"):
            self.shelf_page = ShelfPage(self.shelves, self.tags)
            self.shelf_page.layout()

    def connect(self, app: gr.Blocks) -> None:
        """Connect events with their handlers.

        What runs a model waits in one queue. What doesn't is called directly, so that it never waits for other
        visitors' captions; but only an event with a queue can show the visitor an error.
        """
        queued: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
        direct: dict[str, Any] = {"show_progress": "hidden", "queue": False}
        hidden: dict[str, Any] = {"show_progress": "hidden"}
        query, tags, source, shown, boxes = self.query, self.tags, self.source, self.shown, self.boxes
        if self.examples:
            chosen_example = self.offered.load_input_event
            chosen_example.then(lambda names: (names, TRUTH), shown, [tags, source], api_name=False, **direct)
        filled = self.shelf_page.connect()
        tags.change(handler(self.show_concepts), tags, self.cards, api_name="concepts", **direct)
        settled = self.caption_button.click(
            handler(self.settle), [query, source, tags, shown], tags, api_name="references", **queued
        )
        asked = [query, tags, self.question, self.chosen]
        captioned = settled.success(handler(self.caption), asked, self.output, api_name="caption", **queued)
        self.caption_button.click(None, js=SCROLL_JS)
        found = self.find_button.click(
            handler(self.find), query, tags, api_name="find" if self.search else False, **queued
        )
        placed = self.where_button.click(
            handler(self.where), [query, tags, self.chosen], boxes, api_name="where", **queued
        )
        self.stop_button.click(None, cancels=[settled, captioned, found, placed])
        checked = query.upload(
            handler(self.own_photo), [query, source], [shown, source], api_name="photo", **hidden
        )
        # A photo that was refused is taken off the page.
        checked.failure(lambda: None, None, query, api_name=False, **direct)
        query.change(self.hide_boxes, None, boxes, api_name=False, **direct)
        entered = app.load(handler(self.enter), self.secret, [self.secret, tags], api_name="enter", **direct)
        entered.then(**filled)
        app.load(None, js=LOAD_JS)

    def enter(self, secret: Any, request: gr.Request) -> tuple[str, Any]:
        """Open the shelf of this browser, which it proves by a secret; a new browser gets one to keep."""
        import gradio as gr

        known = isinstance(secret, str) and re.fullmatch(r"[\w-]{43}", secret, re.ASCII)
        secret = secret if known else secrets.token_urlsafe(32)
        account = getattr(request, "username", None)
        self.shelves.enter(request.session_hash, f"account {account}" if account else secret)
        return secret, gr.Dropdown(tag_choices(self._shelf(request).concepts()))

    def show_concepts(self, tags: Sequence[str], request: gr.Request) -> str:
        chosen = self._references(tags, request)
        return f'<div class="repic">{concept_cards(chosen, concept_colors(tags))}</div>' if chosen else ""

    def settle(
        self, query: Any, source: str, tags: list[str], shown: list[str], request: gr.Request
    ) -> list[str]:
        """The tags of the references for the prompt, from the source that the visitor chose."""
        if source == FOUND:
            return self.find(query, request)
        if source == TRUTH and not shown:
            raise message("What your own photo shows is not known: choose its concepts.")
        return shown if source == TRUTH else tags

    def caption(
        self, query: Any, tags: Sequence[str], question: str, chosen: Sequence[str], request: gr.Request
    ) -> Iterator[str]:
        """The captions as HTML, a word longer each time, until they are whole."""
        if query is None:
            raise message("Add a photo to caption.")
        if not isinstance(question, str) or not question.strip():
            raise message("Ask something, or choose one of the questions.")
        if len(question) > MOST_LETTERS:
            raise message(f"A question may have at most {MOST_LETTERS} characters.")
        if not chosen:
            raise message("Choose a model.")
        tags = list(dict.fromkeys(tags))
        concepts, cards = self._references(tags, request), []
        with self._busy:
            for name in dict.fromkeys(chosen):
                for card in _growing_card(self.models[name], name, query, tags, concepts, question.strip()):
                    yield f'<div class="repic"><div class="captions">{"".join([*cards, card])}</div></div>'
                cards.append(card)

    def own_photo(self, query: Any, source: str) -> tuple[list[str], str]:
        """Forget what the example showed. That the upload is a photo was checked before."""
        return [], CHOSEN if source == TRUTH else source

    def find(self, query: Any, request: gr.Request) -> list[str]:
        """The tags of the concepts that are found in the photo."""
        import gradio as gr

        if query is None:
            raise message("Add a photo to look for concepts in.")
        with self._busy:
            found = list(self.search(query, self._shelf(request))) if self.search else []
        if not found:
            gr.Info("No known concept was found in this photo.")
        return found

    def where(self, query: Any, tags: Sequence[str], chosen: Sequence[str], request: gr.Request) -> Any:
        """The photo with a box for each concept that the first chosen model finds."""
        import gradio as gr

        if query is None or not tags:
            raise message("Add a photo, and choose concepts to look for.")
        model = self.models[chosen[0] if chosen else next(iter(self.models))]
        if isinstance(model, EndpointCaptioner):  # whose processor is not known here
            raise message("A model on a server is not asked for boxes.")
        with self._busy:
            boxes = locate(model.model, model.processor, query, self._references(tags, request))
        # A small photo is enlarged; otherwise the lines would hide what is in the box.
        larger = 4 if max(query.size) <= SMALL_PIXELS else 1
        query = query.resize([larger * side for side in query.size], resample=0)
        found, missing = [], []
        for tag, box in zip(tags, boxes, strict=True):
            if box:
                found.append((tuple(round(larger * side) for side in box), tag))
            else:
                missing.append(tag)
        if missing:
            # Gradio shows the text as HTML.
            gr.Info(escape(f"No box for {', '.join(missing)}: the model searches by the info alone."))
        return gr.AnnotatedImage((query, found), color_map=concept_colors(tags), visible=bool(found))

    def hide_boxes(self) -> Any:
        import gradio as gr

        return gr.AnnotatedImage(visible=False)

    def _shelf(self, request: gr.Request) -> Shelf:
        return self.shelves.of(request.session_hash)

    def _references(self, tags: Sequence[str], request: gr.Request) -> list[Concept]:
        if len(tags) > MOST_REFERENCES:
            raise message(f"Choose at most {MOST_REFERENCES} concepts.")
        return self._shelf(request).concepts().select(*tags)


def _growing_card(
    model: Captioner, name: str, query: Any, tags: Sequence[str], concepts: list[Concept], question: str
) -> Iterator[str]:
    """A model's card, a word longer each time until its caption is whole; at last with the time that it took."""
    colors, first, text = concept_colors(tags), 0.0, ""
    started = time.perf_counter()
    for text in model.stream(query, concepts, question=question):
        first = first or time.perf_counter() - started
        yield caption_card(name, text, tags, colors, concepts, "Not named")
    took = f"First word after {first:.2f} s, whole after {time.perf_counter() - started:.2f} s"
    if getattr(model, "reused", False):
        took += "; the references were read before"
    yield caption_card(name, text, tags, colors, concepts, "Not named", scores=f"{took}.")
