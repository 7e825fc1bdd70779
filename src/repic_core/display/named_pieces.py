"""A caption cut at its names: what the viewer, the monitor and the figures colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from repic_core.concepts.concept import Concept
from repic_core.concepts.names import find_names
from repic_core.concepts.tags import key


def named_pieces(
    caption: str, tags: Sequence[str], candidates: Iterable[Concept | str]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The caption in pieces, each with what it names, and those of `tags` that it misses.

    A piece names one of `tags` (spelt as there), "" for a candidate that the photo does not show, or None for text.

    >>> named_pieces("Bo and Mia nap.", ["<BO>", "<zoe>"], ["<bo>", "<mia>", "<zoe>"])
    ([('Bo', '<BO>'), (' and ', None), ('Mia', ''), (' nap.', None)], ['<zoe>'])
    """
    tags = [tags] if isinstance(tags, str) else tags
    shown = {key(tag): tag for tag in tags}
    pieces: list[tuple[str, str | None]] = []
    named, end = set(), 0
    for start, stop, tag in find_names(caption, candidates):
        pieces += [(caption[end:start], None), (caption[start:stop], shown.get(key(tag), ""))]
        named.add(key(tag))
        end = stop
    pieces.append((caption[end:], None))
    return [piece for piece in pieces if piece[0]], [tag for tag in tags if key(tag) not in named]
