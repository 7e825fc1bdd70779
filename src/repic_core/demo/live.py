"""Caption photos of one's own with concepts of one's own, and watch the names appear."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.demo.messages import handler, local_choices, message
from repic_core.demo.photo_input import photo_input
from repic_core.demo.shelf import Shelf, Shelves
from repic_core.demo.shelf_page import shelf_page
from repic_core.display.caption_grid import concept_colors
from repic_core.display.html import SMALL_PIXELS, STYLE, caption_card, concept_cards, tag_choices
from repic_core.evaluation.task_scores import locate
from repic_core.prompts import CAPTION_QUESTIONS

if TYPE_CHECKING:
    import gradio as gr

    from repic_core.captioner.captioner import Captioner

QUESTIONS = tuple(dict.fromkeys(q for questions in CAPTION_QUESTIONS.values() for q in questions))
WAITING = '<div class="repic"><p class="muted">The caption appears here.</p></div>'
QUEUE = 64  # requests that may wait
MOST_REFERENCES, MOST_LETTERS = 16, 1000  # of a prompt; of a question
CHOSEN, FOUND, TRUTH = "those chosen below", "found in the photo", "what the example shows"
# A screen reader reads the caption as it grows.
LOAD_JS = """() => {
  const caption = document.getElementById("repic-caption");
  if (caption) caption.setAttribute("aria-live", "polite");
}"""

SCROLL_JS = '() => document.getElementById("repic-caption").scrollIntoView({block: "nearest"})'  # on a phone


def build_live(
    captioner: Captioner | Mapping[str, Captioner],
    database: ConceptDatabase | None = None,
    examples: Sequence[tuple[str | Path, Sequence[str]]] = (),
    title: str = "Personalized captions",
    find: Callable[[Any, Shelf], Sequence[str]] | None = None,
    shelves: str | Path | None = None,
) -> gr.Blocks:
    """The page, ready for `repic_core.demo.launch`. One visitor is captioned at a time, the others queue.

    Args:
        captioner: its ``stream(query, references, question=...)`` yields the growing caption; or several by name,
            such as two adapters, to compare.
        database: concepts that every visitor is given.
        examples: (path of a query photo, the tags of `database` that it shows) to try by a click.
        find: the tags of the concepts that a photo may show, such as `finder.Finder`; then they need not be chosen.
        shelves: folder where visitors' own concepts are kept, a folder a visitor; by default they go with the
            browser's page.

    Raises:
        ConceptError: an example's tag that `database` doesn't have.
    """
    import gradio as gr

    models = dict(captioner) if isinstance(captioner, Mapping) else {"Caption": captioner}
    shelves_of = Shelves(database or ConceptDatabase(), shelves)
    for _, names in examples:
        shelves_of.given.select(*names)
    sources = [CHOSEN, *([FOUND] if find else []), *([TRUTH] if examples else [])]

    busy = threading.Lock()  # a stopped run may still be on its way to its next word

    def references(tags: Sequence[str], request: gr.Request) -> list[Concept]:
        if len(tags) > MOST_REFERENCES:
            raise message(f"Choose at most {MOST_REFERENCES} concepts.")
        return shelves_of.of(request.session_hash).concepts().select(*tags)

    @handler
    def enter(secret: Any, request: gr.Request) -> tuple[str, Any]:
        """Which shelf this browser's is; the secret stays in the browser."""
        known = isinstance(secret, str) and re.fullmatch(r"[\w-]{43}", secret, re.ASCII)
        secret = secret if known else secrets.token_urlsafe(32)
        account = getattr(request, "username", None)
        shelves_of.enter(request.session_hash, f"account {account}" if account else secret)
        return secret, gr.Dropdown(tag_choices(shelves_of.of(request.session_hash).concepts()))

    @handler
    def show_concepts(tags: Sequence[str], request: gr.Request) -> str:
        chosen = references(tags, request)
        return f'<div class="repic">{concept_cards(chosen, concept_colors(tags))}</div>' if chosen else ""

    @handler
    def settle(query: Any, source: str, tags: list[str], shown: list[str], request: gr.Request) -> list[str]:
        """The tags of the references that are asked for."""
        if source == FOUND:
            return retrieve(query, request)
        if source == TRUTH and not shown:
            raise message("What a photo of your own shows is not known: choose its concepts.")
        return shown if source == TRUTH else tags

    @handler
    def caption(
        query: Any, tags: Sequence[str], question: str, chosen: Sequence[str], request: gr.Request
    ) -> Iterator[str]:
        """The captions so far, as HTML, again and again until they are whole."""
        if query is None:
            raise message("Add a photo to caption.")
        if not isinstance(question, str) or not question.strip():
            raise message("Ask something, or choose one of the questions.")
        if len(question) > MOST_LETTERS:
            raise message(f"Ask in at most {MOST_LETTERS} characters.")
        if not chosen:
            raise message("Choose a model.")
        tags = list(dict.fromkeys(tags))
        concepts, cards = references(tags, request), []
        with busy:
            for name in dict.fromkeys(chosen):
                for card in _cards(models[name], name, query, tags, concepts, question.strip()):
                    yield f'<div class="repic"><div class="captions">{"".join([*cards, card])}</div></div>'
                cards.append(card)

    @handler
    def own_photo(query: Any, source: str) -> tuple[list[str], str]:
        """What a visitor's own photo shows is not known; that it is a photo was checked before."""
        return [], CHOSEN if source == TRUTH else source

    @handler
    def retrieve(query: Any, request: gr.Request) -> list[str]:
        if query is None:
            raise message("Add a photo to look for concepts in.")
        with busy:
            found = list(find(query, shelves_of.of(request.session_hash))) if find else []
        if not found:
            gr.Info("No known concept was found in this photo.")
        return found

    @handler
    def where(query: Any, tags: Sequence[str], chosen: Sequence[str], request: gr.Request) -> Any:
        """The photo with a box for each concept that the first chosen model finds."""
        if query is None or not tags:
            raise message("Add a photo, and choose concepts to look for.")
        model = models[chosen[0] if chosen else next(iter(models))]
        with busy:
            boxes = locate(model.model, model.processor, query, references(tags, request))
        larger = 4 if max(query.size) <= SMALL_PIXELS else 1  # else lines hide what is in the box
        query = query.resize([larger * side for side in query.size], resample=0)
        found = [
            (tuple(round(larger * side) for side in box), tag)
            for tag, box in zip(tags, boxes, strict=True)
            if box
        ]
        missing = [tag for tag, box in zip(tags, boxes, strict=True) if not box]
        if missing:  # a message is HTML
            gr.Info(escape(f"No box for {', '.join(missing)}: the model is asked by the info alone."))
        return gr.AnnotatedImage((query, found), color_map=concept_colors(tags), visible=bool(found))

    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    # Never behind other visitors' captions; but only what is queued can tell the visitor an error.
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    told: dict[str, Any] = {"show_progress": "hidden"}
    known, several = tag_choices(shelves_of.given), {"value": [], "multiselect": True}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        gr.HTML(f'{STYLE}<div class="repic"><h1>{escape(title)}</h1></div>', apply_default_css=False)
        secret = gr.BrowserState("", storage_key="repic-shelf", secret="repic-core")
        with gr.Tab("Caption"):
            with gr.Row():
                with gr.Column():
                    query = photo_input(label="Photo to caption", height=320, elem_id="repic-query")
                    source = gr.Radio(sources, value=CHOSEN, label="References", visible=len(sources) > 1)
                    tags = local_choices(gr.Dropdown(known, label="Concepts that it may show", **several))
                    question = gr.Dropdown(
                        list(QUESTIONS), value=QUESTIONS[0], label="Question", allow_custom_value=True
                    )
                    chosen = gr.CheckboxGroup(
                        list(models), value=list(models), label="Models", visible=len(models) > 1
                    )
                    with gr.Row():
                        run = gr.Button("Caption", variant="primary")
                        stop = gr.Button("Stop")
                    with gr.Row():
                        look = gr.Button("Find the concepts", visible=find is not None)
                        place = gr.Button("Where are they?")
                    shown = local_choices(gr.Dropdown(known, label="Shows", visible=False, **several))
                with gr.Column():
                    output = gr.HTML(WAITING, apply_default_css=False, elem_id="repic-caption")
                    boxes = gr.AnnotatedImage(label="Where the model sees them", visible=False, height=400)
                    cards = gr.HTML(apply_default_css=False)
            if examples:
                offered = gr.Examples([[str(path), list(names)] for path, names in examples], [query, shown])
                offered.load_input_event.then(
                    lambda names: (names, TRUTH), shown, [tags, source], api_name=False, **quiet
                )
        with gr.Tab("Your concepts"):
            entered = shelf_page(shelves_of, tags)
        tags.change(show_concepts, tags, cards, api_name="concepts", **quiet)
        settled = run.click(settle, [query, source, tags, shown], tags, api_name="references", **one)
        asked = [query, tags, question, chosen]
        captioned = settled.success(caption, asked, output, api_name="caption", **one)
        run.click(None, js=SCROLL_JS)
        looked = look.click(retrieve, query, tags, api_name="find" if find else False, **one)
        placed = place.click(where, [query, tags, chosen], boxes, api_name="where", **one)
        stop.click(None, cancels=[settled, captioned, looked, placed])
        checked = query.upload(own_photo, [query, source], [shown, source], api_name="photo", **told)
        checked.failure(lambda: None, None, query, api_name=False, **quiet)  # a refused photo goes
        query.change(lambda: gr.AnnotatedImage(visible=False), None, boxes, api_name=False, **quiet)
        app.load(enter, secret, [secret, tags], api_name="enter", **quiet).then(**entered)
        app.load(None, js=LOAD_JS)
    return app.queue(max_size=QUEUE, default_concurrency_limit=8)


def _cards(
    model: Captioner, name: str, query: Any, tags: Sequence[str], concepts: list[Concept], question: str
) -> Iterator[str]:
    """A model's card, again and again until its caption is whole; then with the time that it took."""
    colors, first, text = concept_colors(tags), 0.0, ""
    started = time.perf_counter()
    for text in model.stream(query, concepts, question=question):
        first = first or time.perf_counter() - started
        yield caption_card(name, text, tags, colors, concepts, "Not named")
    took = f"First word after {first:.2f} s, whole after {time.perf_counter() - started:.2f} s"
    if getattr(model, "reused", False):
        took += "; the references were read before"
    yield caption_card(name, text, tags, colors, concepts, "Not named", scores=f"{took}.")
