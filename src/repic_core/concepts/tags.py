"""Tags, and when two are the same: one rule for databases, prompts, rewards, evaluation and indexes."""

from __future__ import annotations

import re
import unicodedata

# A name in brackets: <bo>, but not </bo>, </s> or <|im_end|>.
TAG = re.compile(r"<[^<>/|][^<>]*>")
_QUOTES = str.maketrans("\u2018\u2019\u02bc\u201c\u201d\u201e", "'''\"\"\"")


def key(tag: str) -> str:
    """The same text for all spellings of a tag: its name without brackets, folded.

    >>> key(" < O\u2019Brien > "), key("<o'brien>"), key("<O Brien>")
    ("o'brien", "o'brien", 'o brien')
    """
    return fold(bare(tag.strip()))


def bare(tag: str) -> str:
    """A tag without its angle brackets."""
    return tag[1:-1] if tag.startswith("<") and tag.endswith(">") else tag


def fold(text: str) -> str:
    """`text` with Unicode forms, quotes, case and runs of white space folded."""
    return " ".join(folded_spans(text)[0].split())


def folded_spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`text` folded, and where in `text` each folded character was, as (start, end).

    Unicode's compatibility forms (NFKC) and case are folded. Characters that make up one letter are folded
    together, so that both ways to write "ë" or "각" are one. Curly quotes and apostrophes become straight ones, and
    a dotted capital "İ" becomes an "i".
    """
    folded: list[str] = []
    spans: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _joins(text[start:end], text[end]):
            end += 1
        piece = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[start:end]).casefold())
        piece = piece.translate(_QUOTES).replace("i\u0307", "i")
        folded += piece
        spans += [(start, end)] * len(piece)
        start = end
    return "".join(folded), spans


def _joins(piece: str, following: str) -> bool:
    """Whether the next character forms one letter with the piece before it, as an accent or a Hangul vowel does."""
    if following < "\u0300":
        return False
    if unicodedata.combining(following):
        return True
    apart = unicodedata.normalize("NFKC", piece) + unicodedata.normalize("NFKC", following)
    return unicodedata.normalize("NFKC", piece + following) != apart
