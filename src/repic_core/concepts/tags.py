"""Tags and when two are the same: one notion for databases, prompts, rewards, evaluation and indexes."""

from __future__ import annotations

import re
import unicodedata

TAG = re.compile(r"<[^<>/|][^<>]*>")  # a name in brackets: <bo>, but not </bo>, </s> or <|im_end|>
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc", "'''")


def key(tag: str) -> str:
    """What is equal for two spellings of one tag: its name without brackets, folded."""
    return fold(bare(tag))


def bare(tag: str) -> str:
    """A tag without its angle brackets."""
    return tag[1:-1] if tag.startswith("<") and tag.endswith(">") else tag


def fold(text: str) -> str:
    """`text` with Unicode compatibility forms, case and runs of white space folded."""
    return " ".join(folded_spans(text)[0].split())


def folded_spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`text` with compatibility forms (NFKC) and case folded; where in `text` each folded character was.

    A letter and the combining marks after it are folded together, so that both ways to write "ë" are one.
    Curly apostrophes are straight ones, and a dotted capital "İ" is an "i".
    """
    folded: list[str] = []
    spans: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        piece = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[start:end]).casefold())
        piece = piece.translate(_APOSTROPHES).replace("i\u0307", "i")
        folded += piece
        spans += [(start, end)] * len(piece)
        start = end
    return "".join(folded), spans
