"""A caption cut at its names: what the viewer, the monitor and the figures colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from repic_core.concepts.concept import Concept
from repic_core.concepts.names import read_names
from repic_core.concepts.tags import key


def named_pieces(
    caption: str, tags: Sequence[str], candidates: Iterable[Concept | str]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The caption in pieces, each with what it names, and those of `tags` that it misses.

    A piece names one of `tags` (spelt as there), "" for what the photo does not show (a candidate, or a name in
    brackets that is no candidate's), or None for text. These are the names that `evaluation.scores` counts.

    >>> named_pieces("Bo and Mia nap.", ["<BO>", "<zoe>"], ["<bo>", "<mia>", "<zoe>"])
    ([('Bo', '<BO>'), (' and ', None), ('Mia', ''), (' nap.', None)], ['<zoe>'])
    >>> named_pieces("<bo> < <bowa>", ["<bo>"], ["<bo>"])[0]
    [('<bo>', '<bo>'), (' < ', None), ('<bowa>', '')]
    """
    tags = [tags] if isinstance(tags, str) else tags
    shown = {key(tag): tag for tag in tags}
    pieces: list[tuple[str, str | None]] = []
    named, end = set(), 0
    written = read_names(caption, [*candidates, *tags])
    for start, stop, name in sorted([*written.found(), *written.unknown_places()]):
        # Two names may be made of one character, such as the sign of a company.
        if start >= end:
            pieces += [(caption[end:start], None), (caption[start:stop], shown.get(key(name), ""))]
            end = stop
        named.add(key(name))
    pieces.append((caption[end:], None))
    return [piece for piece in pieces if piece[0]], [tag for tag in tags if key(tag) not in named]
