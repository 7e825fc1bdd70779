"""The line of information on a concept, written by a model from the concept's photos.

A line such as "a dog" tells a concept from nothing. Here the model sees the photos of the concept and those of its
nearest neighbours in the database, and writes what distinguishes it. R2P (Das et al. 2025, arXiv 2503.18623) has a
model write such a "fingerprint" from the concept's own photos; the neighbours are this kit's addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import key
from repic_core.io.images import open_image
from repic_core.models.answers import as_read
from repic_core.retrieval.index import ConceptIndex

OTHER, OWN = "This is something else.", "This is what to describe."
INFO_QUESTION = (
    "Describe it in one short phrase that tells it apart from everything else shown: what it is, its colours, its "
    "marks. Leave out the background and any name. Output only the phrase."
)
MAX_WORDS = 40

# Writes the line on a concept, given the concepts that it must be told apart from.
Writer = Callable[[Concept, Sequence[Concept]], str]


def info_messages(concept: Concept, others: Sequence[Concept]) -> list[dict[str, Any]]:
    """Messages that ask for the line on `concept`: first one photo of each of `others`, then all photos of its own.

    Names and lines that are known already are not shown, so that nothing is copied.
    """
    content: list[dict[str, Any]] = []
    for other in others:
        content += [{"type": "image", "image": other.images[0]}, {"type": "text", "text": OTHER}]
    content += [{"type": "image", "image": image} for image in concept.images]
    content.append({"type": "text", "text": f"{OWN} {INFO_QUESTION}"})
    return [{"role": "user", "content": content}]


def writer(captioner: Captioner) -> Writer:
    """A `Writer` that asks the model of `captioner`."""

    def write(concept: Concept, others: Sequence[Concept]) -> str:
        return captioner.answer(info_messages(concept, others), max_new_tokens=4 * MAX_WORDS)

    return write


def one_phrase(answer: str) -> str:
    """The first line of an answer, without markup, quotation marks and the full stop.

    >>> one_phrase('**"A Shiba Inu with a black collar."**')
    'A Shiba Inu with a black collar'

    Raises:
        ValueError: it is empty, or has more than `MAX_WORDS` words.
    """
    lines = [line for line in as_read(answer)[0].splitlines() if line.strip()]
    phrase = lines[0].strip().strip("\"'\u201c\u201d\u2018\u2019").strip().removesuffix(".") if lines else ""
    words = len(phrase.split())
    if not 0 < words <= MAX_WORDS:
        raise ValueError(f"the answer is not one short phrase but {words} words: {answer[:60]!r}")
    return phrase


def write_infos(
    database: ConceptDatabase,
    write: Writer,
    embedder: Any,
    neighbours: int = 3,
    every: bool = False,
) -> Iterator[tuple[Concept, str]]:
    """Concepts with a new line, and a remark: empty, or why the line is the old one or may not suffice.

    Concepts that have a line are left out, unless `every` is true. The database itself is not changed.

    Args:
        write: gives the line, such as `writer(captioner)`.
        embedder: finds the `neighbours` concepts that look most alike.
    """
    index = ConceptIndex.build(database, embedder)
    lines = {key(concept.tag): concept.info for concept in database}
    for concept in database:
        if concept.info and not every:
            continue
        others = nearest(concept, database, index, embedder, neighbours)
        try:
            changed = replace(concept, info=one_phrase(write(concept, others)))
        except ValueError as error:
            yield concept, str(error)
            continue
        lines[key(concept.tag)] = changed.info
        same = [other.tag for other in others if lines[key(other.tag)].casefold() == changed.info.casefold()]
        yield changed, f"the line of {', '.join(same)} is the same" if same else ""


def nearest(
    concept: Concept, database: ConceptDatabase, index: ConceptIndex, embedder: Any, k: int
) -> list[Concept]:
    """The `k` other concepts of `database` that look most like the first photo of `concept`."""
    if k == 0:
        return []
    vectors = embedder.images([open_image(concept.images[0])])
    hits = index.search(vectors, k + 1)[0]
    return [database[hit.tag] for hit in hits if key(hit.tag) != key(concept.tag)][:k]
