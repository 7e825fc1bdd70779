"""Tags, and when two are the same: one rule for databases, prompts, rewards, evaluation, indexes and pages.

`key` is the rule. Folded are Unicode's ways to write one letter, case, white space, invisible characters, dashes,
apostrophes, quotes, and the dot of an abbreviation. Not folded are accents, letters of other alphabets that look
alike, and a hyphen against a space.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from repic_core.models.answers import Span, as_read

# Acute accent, backtick, primes, curly and modifier apostrophes, those of Greek, Hebrew and Armenian; double ones.
_APOSTROPHES = (
    "`\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u02ca\u02cb\u055a\u05f3\u1fbd\u1fbf\u1ffd\u1ffe"
    "\u02be\u02bf\u2018\u2019\u201a\u201b\u2032\u2035\ua78c\uff07"
)
_QUOTES = "\u201c\u201d\u201e\u201f\u02ba\u05f4\uff02"
# Also the Armenian hyphen and the Hebrew maqaf.
HYPHENS = "-\u058a\u05be\u2010\u2011\u2043\u2212\u2e17\ufe63\uff0d"
DASHES = "\u2012\u2013\u2014\u2015\u2e3a\u2e3b\ufe58\ufe31\ufe32\u2053"  # also between two words
_ALIKE = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'")
    | dict.fromkeys(_QUOTES, '"')
    | dict.fromkeys(HYPHENS, "-")
    | dict.fromkeys("\u0387\u2022\u2027\u2219\u22c5\u30fb\uff65", "\u00b7")  # dots between parts of a name
)
_ACCENT_ALONE = re.compile(" [\u0301\u0313\u0314]")  # what NFKC makes of an acute accent without a letter
# Letters of Arabic, Indic, Khmer and other scripts, in which a zero-width joiner changes what is read.
_JOINED_SCRIPTS = re.compile("[\u0600-\u1aff\ua8e0-\uabff]")
_JOINERS = "\u200c\u200d"
# Without a trace on the page, or (the Arabic tatweel, U+0640) only a longer line in a word.
_FILLERS = "\u0640\u034f\u115f\u1160\u3164\uffa0\u17b4\u17b5\u180b\u180c\u180d\u180e"
_LONGEST_LETTER = 32  # characters; Unicode's stream-safe texts have at most 30 marks on a letter
_VISIBLE_FORMATS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2"


@lru_cache(maxsize=1 << 16)
def key(tag: str) -> str:
    """The same text for all spellings of a tag: its name without brackets, as it is read, folded.

    >>> key(" < O\u2019Brien > "), key("<o'brien>"), key("<O Brien>")
    ("o'brien", "o'brien", 'o brien')
    >>> key("<Mr. Whiskers>") == key("<Mr Whiskers>"), key("<Anne-Marie>") == key("<Anne\u2013Marie>")
    (True, True)
    """
    folded = re.sub(f"[{DASHES}]", "-", folded_name(bare(tag)))
    return " ".join(re.sub(r"(?<=[^\W\d_])\.(?=\s|$|[^\W\d_])", " ", folded).split()) or folded


def folded_name(name: str) -> str:
    """A name as it is read, folded; a name of nothing but markup, such as "***", as it is written."""
    return fold(as_read(name)[0]) or fold(name)


def bare(tag: str) -> str:
    """A tag without its angle brackets."""
    tag = tag.strip()
    return tag[1:-1].strip() if tag.startswith("<") and tag.endswith(">") else tag


def fold(text: str) -> str:
    """`text` with Unicode forms, case, hyphens, quotes, invisible characters and runs of white space folded."""
    return " ".join(folded_spans(text)[0].split())


def folded_spans(text: str) -> tuple[str, list[Span]]:
    """`text` folded, and where in `text` each folded character was, as (start, end).

    Unicode's compatibility forms (NFKC) and case are folded. Characters that make up one letter are folded
    together, so that both ways to write "ë" or "각" are one. A dotted capital "İ" becomes an "i".
    """
    if text.isascii():
        return text.lower().replace("`", "'"), [(i, i + 1) for i in range(len(text))]
    folded: list[str] = []
    spans: list[Span] = []
    shown = [i for i in range(len(text)) if not _invisible(text, i)]
    number = 0
    while number < len(shown):
        first = number
        piece = text[shown[first]]
        number += 1
        while number < len(shown) and len(piece) < _LONGEST_LETTER and _joins(piece, text[shown[number]]):
            piece += text[shown[number]]
            number += 1
        piece = piece.translate(_ALIKE)
        piece = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", piece).casefold())
        piece = _ACCENT_ALONE.sub("'", piece.translate(_ALIKE)).replace("i\u0307", "i")
        folded += piece
        spans += [(shown[first], shown[number - 1] + 1)] * len(piece)
    return "".join(folded), spans


def spelling(text: str) -> str:
    """`text` with Unicode forms, invisible characters and white space folded, in its own case.

    >>> spelling("R\u200bose"), spelling("Zoe\u0308") == spelling("Zo\u00eb")
    ('Rose', True)
    """
    shown = "".join(c for i, c in enumerate(text) if not _invisible(text, i))
    return " ".join(unicodedata.normalize("NFKC", shown.translate(_ALIKE)).split())


def is_name(text: str) -> bool:
    """Whether what stands in angle brackets reads like a name, rather than like the text between two signs.

    >>> is_name("black widow"), is_name("3 bo and mia :"), is_name("- bo, mia -")
    (True, False, False)
    """
    text = text.strip()
    if not text or len(text) > 80 or len(text.split()) > 6 or re.match(r"3(?!\w)", text):
        return False
    first, last = text[0], text[-1]
    ends = (
        last.isalnum()
        or last in ".!?)'\""
        or (unicodedata.category(last)[0] in "MS" and last not in "<=>|~^+`")
    )
    begins = first.isalnum() or first in "'\".(#@" or unicodedata.category(first) == "So"
    return begins and ends and not re.search(r"[,;:!?](?=\s)|[{}=@]|://", text)


def _invisible(text: str, place: int) -> bool:
    """Whether a character leaves no trace on the page: zero-width, soft hyphen, filler, or variation selector."""
    character = text[place]
    if character < "\u00ad":
        return False
    if character in _JOINERS:
        return not (0 < place < len(text) - 1 and _needs_joiner(text[place - 1]))
    if (
        "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or character in _FILLERS
    ):
        return True
    return unicodedata.category(character) == "Cf" and character not in _VISIBLE_FORMATS


def _needs_joiner(before: str) -> bool:
    """Whether a joiner after this character belongs to the spelling: in joined scripts, and between emoji."""
    return (
        bool(_JOINED_SCRIPTS.match(before))
        or unicodedata.category(before) in ("So", "Sk")
        or before == "\ufe0f"
    )


def _joins(piece: str, following: str) -> bool:
    """Whether the next character forms one letter with the piece before it, as an accent or a Hangul vowel does."""
    if following < "\u0300":
        return False
    if unicodedata.combining(following):
        return True
    apart = unicodedata.normalize("NFKC", piece) + unicodedata.normalize("NFKC", following)
    return unicodedata.normalize("NFKC", piece + following) != apart
