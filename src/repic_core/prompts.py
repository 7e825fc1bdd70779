"""Chat messages for captioning and for the three tuning tasks.

Messages follow ``processor.apply_chat_template`` and ``qwen_vl_utils.process_vision_info``:
a list of ``{"role", "content"}`` in which user content is a list of
``{"type": "image", "image": path or PIL.Image}`` and ``{"type": "text", "text": str}``.

The wording is upstream's (RePIC, ``inference_example.ipynb``, ``caption_eval_*.py`` and
``grpo_multitask_multi_img_no_format.py``). Of the line of a reference it has several forms. ``tag`` is that of its
notebook, ``Name: <bo>, Info: ...`` (before September 2025 ``Name : <bo>, ...``). ``numbered`` is that of its
evaluation, with the reference's number and the database's name: ``1. Name: <Bo>, Info: ...``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from repic_core.concepts.concept import Concept, check_no_control_tokens
from repic_core.tasks import ICT, OCT, TASKS, VLT

# The published system prompts: of `inference_example.ipynb` before and since September 2025 (upstream's commits
# 0f64f69 and 4232d96), and of `caption_eval_{single,multi_2,multi_4}.py`.
SYSTEM_PROMPTS = {
    "inference": (
        "You are a captioning assistant. Your task is to generate an accurate caption for the query image "
        "while referencing the given reference images without duplication. \n "
        "Below is additional information about the reference images."
    ),
    "inference-2025": (
        "You are a captioning assistant. Your task is to generate an accurate caption for the query image "
        "while referencing the given reference images without duplication.\n"
        "Below is additional information about the reference images."
    ),
    "evaluation": (
        "You are a captioning assistant. Your task is to generate an accurate caption for the query image.\n"
        "Below is additional information about the reference images."
    ),
}

# How the line of a reference is written (`reference_text`).
REFERENCE_STYLES = ("tag", "numbered")
# The style that upstream uses with each published system prompt.
PUBLISHED_STYLES = {"inference": "tag", "inference-2025": "tag", "evaluation": "numbered"}

NO_SYSTEM = "none"  # names the absence of a system prompt where a name is asked for
# One or two plain words are a name: a prompt has more, or a mark at its end.
_NAME = re.compile(r"\s*[A-Za-z0-9_-]+([ _-]+[A-Za-z0-9_-]+)?\s*")

# `caption_eval_single.py` cycles through the first list (and so do the published 4-concept captions),
# `caption_eval_multi_2.py` and `caption_eval_multi_4.py` through the second, the inference notebook uses the third.
CAPTION_QUESTIONS = {
    "single": (
        "Give a personalized caption of this image.",
        "Give a caption of the image.",
        "Can you provide a personalized caption of this photo?",
        "Provide a caption of the given image.",
    ),
    "multi": (
        "Give a personalized caption of this image.",
        "Give a personal caption of the image.",
        "Provide a personalized caption of the given image.",
    ),
    "inference": (
        "Give a detailed personalized caption of the image.",
        "Give a personalized caption for the image.",
        "Give a personalized caption of the image.",
        "Give a rich caption of the image.",
    ),
}

QUERY_PREFIX = "This is the query image."
# Upstream asks an untuned model for the name outright (`caption_eval_*.py`, model `zero_shot`).
ZERO_SHOT_SUFFIX = "Output the final answer including its name."
# What can follow each question of an evaluation. The questions of the published 2-concept captions of zero-shot and
# SFT (`captioning/double_concept/captioning-skip-retrieval-{zero_shot,qwen_sft}.json`) have no space before theirs.
QUESTION_SUFFIXES = {
    "none": "",
    "name": f" {ZERO_SHOT_SUFFIX}",
    "given-names": "Output the final answer using its given names.",
}
NAMES_PLACE = "{name}"  # in a question: the place of the references' names

# Questions of the rows that the kit builds itself (upstream's rows have their own in `problem`).
OCT_QUESTION = "Do these two images show the same object?"
VLT_QUESTION = "Give the bounding box of {description}."

OCT_SUFFIX = "The final answer must be either 'yes' or 'no' with no additional output."
VLT_SUFFIX = "For bounding box coordinates, return the final answer in JSON format."
# (suffix, weight): upstream draws randint(0, 4) and uses 0, 1 and the rest.
ICT_SUFFIXES = (
    ("Output the final answer including its name.", 1),
    ("Output the final answer without duplicating the given information.", 1),
    ("", 3),
)

IMAGE_PLACEHOLDER = "<image>"  # marks the place of an image in a row's `problem`


def system_text(system: str | None) -> str | None:
    """The system prompt that `system` stands for: a key of `SYSTEM_PROMPTS`, `NO_SYSTEM` or None for none, or the
    text itself.

    >>> system_text("none") is None, system_text("Say who it is.")
    (True, 'Say who it is.')

    Raises:
        ValueError: one or two words that are no key: a typo must not become a prompt.
    """
    if system is None or system == NO_SYSTEM:
        return None
    if system in SYSTEM_PROMPTS:
        return SYSTEM_PROMPTS[system]
    if _NAME.fullmatch(system):
        raise ValueError(
            f"the system prompt {system!r}: there is none of this name; use {', '.join(SYSTEM_PROMPTS)} or "
            f"{NO_SYSTEM}, or write a prompt of your own as a sentence"
        )
    return system


def check_reference_style(style: str) -> None:
    """Raise `ValueError` if `style` is none of `REFERENCE_STYLES`."""
    if style not in REFERENCE_STYLES:
        raise ValueError(f"reference style {style!r}: use {' or '.join(REFERENCE_STYLES)}")


def reference_text(concept: Concept, number: int | None = None) -> str:
    """The line that follows a concept's reference image(s).

    Args:
        number: the concept's place among the references, from 1, for the style ``numbered``: as `retrieve` in
            upstream's `retriever.py`, line 120, writes it. None for the style ``tag``.

    >>> bo = Concept("<bo>", "Bo", "bo.jpg", "a Shiba Inu")
    >>> reference_text(bo), reference_text(bo, 1)
    ('Name: <bo>, Info: a Shiba Inu', '1. Name: <Bo>, Info: a Shiba Inu')
    """
    if number is None:
        return f"Name: {concept.tag}, Info: {concept.info}"
    return f"{number}. Name: <{concept.name}>, Info: {concept.info}"


def with_names(question: str, names: Iterable[str]) -> str:
    """`question` with the names in place of each ``{name}``, as in upstream's notebook; nothing else changes.

    >>> with_names("What are {name} doing? {Answer} briefly.", ["<bo>", "<mira>"])
    'What are <bo> and <mira> doing? {Answer} briefly.'
    """
    return question.replace(NAMES_PLACE, " and ".join(names))


def _image(image: Any) -> dict[str, Any]:
    return {"type": "image", "image": image if not hasattr(image, "__fspath__") else str(image)}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def caption_messages(
    query: Any,
    references: Iterable[Concept],
    question: str = CAPTION_QUESTIONS["single"][0],
    system: str | None = "evaluation",
    reference_photos: bool = True,
    reference_style: str = "tag",
) -> list[dict[str, Any]]:
    """Messages that ask for a personalised caption of `query`.

    Args:
        query: path or PIL image of the photo to caption; None asks the question without a photo.
        references: concepts in prompt order; each gives its image(s), then its line (`reference_text`).
        question: the request, shown after ``This is the query image.``; may hold ``{name}`` (`with_names`).
        system: as in `system_text`; without one, the chat template adds its own default, if it has one.
        reference_photos: False leaves out the references' photos: names and infos only.
        reference_style: how a reference's line is written, ``tag`` or ``numbered``.

    Raises:
        ValueError: an unknown style; the question or a reference holds a control token of the chat template (in
            brackets, the name ``image`` is one); as `system_text`.
    """
    check_reference_style(reference_style)
    content: list[dict[str, Any]] = []
    names = []
    for number, concept in enumerate(references, 1):
        check_no_control_tokens(concept.tag, f"the tag of {concept.tag}")
        check_no_control_tokens(concept.info, f"the info of {concept.tag}")
        content += [_image(image) for image in concept.images if reference_photos]
        if reference_style == "numbered":
            check_no_control_tokens(f"<{concept.name}>", f"the name of {concept.tag}, in brackets,")
            content.append(_text(reference_text(concept, number)))
            names.append(f"<{concept.name}>")
        else:
            content.append(_text(reference_text(concept)))
            names.append(concept.tag)
    question = with_names(question, names)
    check_no_control_tokens(question, "the question")
    content += [_text(question)] if query is None else [_image(query), _text(f"{QUERY_PREFIX} {question}")]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    text = system_text(system)
    if text is not None:
        check_no_control_tokens(text, "the system prompt")
        messages.insert(0, {"role": "system", "content": [_text(text)]})
    return messages


def caption_problem(references: Sequence[Concept], question: str = CAPTION_QUESTIONS["single"][0]) -> str:
    """The text of `caption_messages` as the `problem` of a training row, with ``<image>`` in place of each image.

    >>> caption_problem([Concept("<bo>", "bo", "bo.jpg", "a dog")], "Give a caption of the image.")
    '<image>Name: <bo>, Info: a dog<image>This is the query image. Give a caption of the image.'
    """
    parts = [IMAGE_PLACEHOLDER * len(c.images) + reference_text(c) for c in references]
    return "".join([*parts, IMAGE_PLACEHOLDER, f"{QUERY_PREFIX} {question}"])


def with_task_suffix(problem: str, method: str, rng: random.Random) -> str:
    """`problem` with upstream's answer instruction for `method`.

    OCT (``yes_no``) and VLT (``iou``) have one each; for the two ICT methods, `rng` draws one of `ICT_SUFFIXES`
    with the weights 1/5, 1/5 and 3/5.
    """
    if method == OCT:
        suffix = OCT_SUFFIX
    elif method == VLT:
        suffix = VLT_SUFFIX
    elif method in ICT:
        suffix = rng.choices([s for s, _ in ICT_SUFFIXES], [w for _, w in ICT_SUFFIXES])[0]
    else:
        raise ValueError(f"unknown method {method!r}: use {', '.join(TASKS)}")
    return f"{problem} {suffix}".rstrip() if suffix else problem


def redrawn_suffix(
    messages: Sequence[dict[str, Any]], method: str, rng: random.Random
) -> list[dict[str, Any]]:
    """Messages of `task_messages` with another draw of the ICT suffix; those of other methods as they are.

    >>> asked = [{"role": "user", "content": [{"type": "text", "text": "Who is it?"}]}]
    >>> redrawn_suffix(asked, "yes_no_name", random.Random(0))[0]["content"]
    [{'type': 'text', 'text': 'Who is it?'}]
    >>> redrawn_suffix(asked, "yes_no_name", random.Random(1))[0]["content"]
    [{'type': 'text', 'text': 'Who is it? Output the final answer including its name.'}]
    """
    if method not in ICT:
        return list(messages)
    *earlier, last = messages
    content = list(last["content"])
    text = content.pop()["text"] if content[-1]["type"] == "text" else ""
    for suffix, _ in ICT_SUFFIXES:
        text = text.removesuffix(f" {suffix}") if suffix else text
    text = with_task_suffix(text, method, rng)
    return [*earlier, {**last, "content": [*content, *([_text(text)] if text else [])]}]


def task_messages(
    images: Sequence[Any], problem: str, method: str, rng: random.Random
) -> list[dict[str, Any]]:
    """Messages of one tuning row: one user turn and no system message, as in upstream's training.

    Images come first, then the text (upstream's order). If `problem` holds ``<image>`` placeholders, each image
    takes the place of one.

    Raises:
        ValueError: the problem holds a control token, or placeholders and images differ in number.
    """
    check_no_control_tokens(problem.replace(IMAGE_PLACEHOLDER, ""), "the problem")
    text = with_task_suffix(problem, method, rng)
    pieces = text.split(IMAGE_PLACEHOLDER)
    if len(pieces) == 1:
        return [{"role": "user", "content": [*map(_image, images), _text(text)]}]
    if len(pieces) - 1 != len(images):
        raise ValueError(f"the problem holds {len(pieces) - 1} <image> but there are {len(images)} images")
    content: list[dict[str, Any]] = [_text(pieces[0])] if pieces[0] else []
    for image, piece in zip(images, pieces[1:], strict=True):
        content.append(_image(image))
        if piece:
            content.append(_text(piece))
    return [{"role": "user", "content": content}]
