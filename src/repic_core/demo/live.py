"""Caption a photo of one's own with concepts from a database, and watch the names appear."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from repic_core.concepts import ConceptDatabase
from repic_core.demo.page import STYLE, caption_card, concept_cards
from repic_core.figures import concept_colors
from repic_core.images import open_image
from repic_core.prompts import CAPTION_QUESTIONS
from repic_core.task_scores import locate

if TYPE_CHECKING:
    import gradio as gr

    from repic_core.captioner import Captioner
    from repic_core.concept_index import Hit

logger = logging.getLogger(__name__)
QUESTIONS = tuple(dict.fromkeys(q for questions in CAPTION_QUESTIONS.values() for q in questions))
WAITING = '<div class="repic"><p class="muted">The caption appears here.</p></div>'
QUEUE = 20  # visitors that may wait for the model


def build_live(
    captioner: Captioner,
    database: ConceptDatabase,
    examples: Sequence[tuple[str, Sequence[str]]] = (),
    title: str = "Personalized captions",
    find: Callable[[Any], Sequence[Hit]] | None = None,
) -> gr.Blocks:
    """The page, ready for `repic_core.demo.launch`. One visitor is captioned at a time, the others queue.

    Args:
        captioner: its ``stream(query, references, question=...)`` yields the growing caption.
        database: the concepts to choose from.
        examples: (path of a query photo, tags) to try by a click.
        find: finds the concepts that a photo may show, such as `retrieval.find_concepts` with an index of
            `database` (`functools.partial`); then they need not be chosen.
    """
    import gradio as gr

    def show_concepts(tags: Sequence[str]) -> str:
        chosen = database.select(*tags)
        cards = concept_cards(chosen, concept_colors(tags))
        return f'<div class="repic">{cards}</div>' if chosen else ""

    def caption(query: Any, tags: Sequence[str], question: str) -> Iterator[str]:
        """The caption so far, as HTML, again and again until it is whole."""
        if query is None:
            raise gr.Error("Add a photo to caption.", print_exception=False)
        if not (question or "").strip():
            raise gr.Error("Ask something, or choose one of the questions.", print_exception=False)
        references = database.select(*tags)
        colors = concept_colors(tags)
        try:
            for text in captioner.stream(query, references, question=question.strip()):
                card = caption_card("Caption", text, tags, colors, references, "Not named")
                yield f'<div class="repic">{card}</div>'
        except ValueError as error:  # such as a control token in the question
            raise gr.Error(escape(str(error)), print_exception=False) from None
        except Exception:
            logger.exception("captioning failed")
            raise gr.Error("Captioning failed; the log says why.", print_exception=False) from None

    def retrieve(query: Any) -> list[str]:
        if query is None:
            raise gr.Error("Add a photo to look for concepts in.", print_exception=False)
        found = [hit.tag for hit in find(query)] if find else []
        if not found:
            gr.Info("No known concept was found in this photo.")
        return found

    def where(query: Any, tags: Sequence[str]) -> Any:
        """The photo with a box for each concept that the model finds."""
        if query is None or not tags:
            raise gr.Error("Add a photo, and choose concepts to look for.", print_exception=False)
        query = open_image(query)  # upright, as the boxes are
        query.info.clear()
        boxes = locate(captioner.model, captioner.processor, query, database.select(*tags))
        found = [(tuple(map(round, box)), tag) for tag, box in zip(tags, boxes, strict=True) if box]
        missing = [tag for tag, box in zip(tags, boxes, strict=True) if not box]
        if missing:  # a message is HTML
            gr.Info(escape(f"No box for {', '.join(missing)}: the model is asked by the info alone."))
        return gr.AnnotatedImage((query, found), color_map=concept_colors(tags), visible=bool(found))

    choices = [(c.tag if c.name == c.tag.strip("<>") else f"{c.name} {c.tag}", c.tag) for c in database]
    with gr.Blocks(title=title, analytics_enabled=False) as app:
        gr.HTML(f'{STYLE}<div class="repic"><h1>{escape(title)}</h1></div>', apply_default_css=False)
        with gr.Row():
            with gr.Column():
                query = gr.Image(
                    label="Photo to caption", type="pil", sources=["upload", "clipboard"], height=320
                )
                tags = gr.Dropdown(choices, value=[], multiselect=True, label="Concepts that it may show")
                question = gr.Dropdown(
                    list(QUESTIONS), value=QUESTIONS[0], label="Question", allow_custom_value=True
                )
                with gr.Row():
                    run = gr.Button("Caption", variant="primary")
                    stop = gr.Button("Stop")
                with gr.Row():
                    look = gr.Button("Find the concepts", visible=find is not None)
                    place = gr.Button("Where are they?")
            with gr.Column():
                output = gr.HTML(WAITING, apply_default_css=False)
                boxes = gr.AnnotatedImage(label="Where the model sees them", visible=False)
                shelf = gr.HTML(apply_default_css=False)
        if examples:
            gr.Examples([[str(path), list(names)] for path, names in examples], [query, tags])
        tags.change(show_concepts, tags, shelf, api_name="concepts", show_progress="hidden")
        one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
        event = run.click(caption, [query, tags, question], output, api_name="caption", **one)
        stop.click(None, cancels=[event])
        look.click(retrieve, query, tags, api_name="find" if find else False, **one)
        place.click(where, [query, tags], boxes, api_name="where", **one)
        query.change(
            lambda: gr.AnnotatedImage(visible=False), None, boxes, api_name=False, show_progress="hidden"
        )
    return app.queue(max_size=QUEUE)
