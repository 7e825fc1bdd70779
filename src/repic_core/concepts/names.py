"""Find the names of concepts in text, for the protocol `span`, the strict rewards and the viewer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import resources

from repic_core.concepts.concept import Concept
from repic_core.concepts.tags import TAG, bare, fold, folded_spans, key

_CLOSING = re.compile(r"<\s*/([^<>]*)>")
_BRACKETS = re.compile(r"<[^<>]*>")
# With a letter on their other side these continue the word. \u2010 is what NFKC makes of other hyphens.
_JOINERS = "-\u2010.'"


def find_names(text: str, candidates: Iterable[Concept | str]) -> list[tuple[int, int, str]]:
    """Where `text` names a candidate (a concept, or a tag), as (start, end, tag), in order.

    A candidate matches by its tag, with or without brackets, and by its name: as a whole phrase, folded as in
    `tags.fold`, the longest first. White space in a name matches any white space, and after a full stop none is
    needed ("Mr.Krabs", "Mr. Krabs").

    A name never matches inside another word or another ``<...>``: "Spider-Man", "U.S.", "H&M", "don't" and
    "anna@bo.com" do not name <spider>, <U>, <H>, <Don> or <bo>. A possessive does name ("Bo's", "James' hat").
    Chinese characters, hiragana and Hangul may touch a name of two or more characters, as these scripts put no
    spaces between words or particles.

    A name that is a single letter or an ordinary English word matches only in brackets or written exactly as
    stored. If it is stored as plain English ("dog", "A"), it matches only in brackets: otherwise every ordinary
    use of the word would be a name.

    >>> find_names("Black Widow and <hulk> in the park", ["<black widow>", "<hulk>", "<Park>"])
    [(0, 11, '<black widow>'), (16, 22, '<hulk>')]
    """
    folded, spans = folded_spans(text)
    known = tuple((tag_of(c), c.name if isinstance(c, Concept) else bare(c)) for c in candidates)
    tags = [match.span() for match in _BRACKETS.finditer(folded)]
    taken = [False] * len(folded)
    found = []
    for pattern, tag, exact in _forms(known):
        for match in pattern.finditer(folded):
            first, last = match.span(1)
            start, end = spans[first][0], spans[last - 1][1]
            if any(taken[first:last]) or (exact and text[start:end] != exact):
                continue
            if folded[first] != "<" and not _stands_alone(folded, first, last, tags):
                continue
            taken[first:last] = [True] * (last - first)
            found.append((start, end, tag))
    return sorted(found)


def mentions(text: str, known: Iterable[str]) -> tuple[list[str], list[str], list[str], str]:
    """What a text names: three lists of keys (`tags.key`), and the rest of the text.

    The lists are of all names in brackets, of the `known` names without brackets, and of names in closing tags.

    >>> mentions("<bo> naps, Bo snores </mia>", ["<bo>"])
    (['bo'], ['bo'], ['mia'], ' |  naps,  |  snores  | ')
    """
    closed = [fold(name) for name in _CLOSING.findall(text)]
    text = _CLOSING.sub(" | ", text)
    tagged = [key(tag) for tag in TAG.findall(text)]
    text = TAG.sub(" | ", text)
    plain = find_names(text, dict.fromkeys(known))
    for start, end, _ in reversed(plain):
        text = f"{text[:start]} | {text[end:]}"
    return tagged, [key(tag) for _, _, tag in plain], closed, text


@cache
def ordinary_words() -> frozenset[str]:
    """Everyday English words that are also given as names (``ordinary_words.txt``).

    Colours, animals, plants, foods, weather, household things, virtues, trades, and function words that are
    spelt like a name; among them those of the published data (Moon, Park, Pearl, Sandy; DreamBooth's can, cat,
    dog, vase, otter ...). No list is complete: a name that is missing here matches in upper and lower case.
    """
    return frozenset(resources.files(__package__).joinpath("ordinary_words.txt").read_text().split())


def is_ordinary(name: str) -> bool:
    """Whether this name is a single letter or an ordinary English word."""
    folded = fold(name)
    return len(folded) == 1 or folded in ordinary_words()


def tag_of(candidate: Concept | str) -> str:
    """The tag of a candidate: a concept's, or the candidate itself if it is a tag."""
    return candidate.tag if isinstance(candidate, Concept) else candidate


@lru_cache(maxsize=256)
def _forms(candidates: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str, str]]:
    """The patterns of all candidates, longest first.

    Each is (pattern for folded text, tag, exact text): where the exact text is not "", the match must be written
    exactly so.
    """
    forms: dict[tuple[str, bool], tuple[str, str]] = {}
    # A tag takes precedence over the name of another concept.
    written = [(tag, name, bare(tag)) for tag, name in candidates]
    written += [(tag, name, name) for tag, name in candidates]
    for tag, name, form in written:
        folded, ordinary = fold(form), is_ordinary(form)
        if not folded:
            continue
        forms.setdefault((folded, True), (tag, ""))
        plain_english = form in ("A", "I") or (form == folded and folded in ordinary_words())
        if not ordinary or (form == name and not plain_english):
            forms.setdefault((folded, False), (tag, form if ordinary else ""))
    patterns = []
    for (folded, bracketed), (tag, exact) in forms.items():
        parts = re.findall(r"[^\s.]*\.|[^\s.]+", folded)
        phrase = "".join(re.escape(p) + (r"\s*" if p.endswith(".") else r"\s+") for p in parts[:-1])
        phrase += re.escape(parts[-1])
        full = rf"<\s*{phrase}\s*>" if bracketed else phrase
        # A lookahead, so that a match is also found where it overlaps one that is refused.
        patterns.append((len(folded) + 2 * bracketed, re.compile(f"(?=({full}))"), tag, exact))
    return [(p, tag, exact) for _, p, tag, exact in sorted(patterns, key=lambda item: -item[0])]


def _stands_alone(text: str, first: int, last: int, tags: list[tuple[int, int]]) -> bool:
    """Whether ``text[first:last]`` is a phrase by itself, neither inside another word nor inside one of `tags`."""
    before, after = text[max(0, first - 2) : first][::-1], text[last : last + 3]
    if after[:2] == "'s" and not _continues_word(after[2:], last - first):  # a possessive
        after = ""
    inside = any(start < last and first < end for start, end in tags)
    return not (inside or _continues_word(before, last - first) or _continues_word(after, last - first))


def _continues_word(neighbours: str, size: int) -> bool:
    """Whether these characters, outwards from a name of `size` characters, belong to the name's word.

    A vowel sign or an accent belongs to the letter before it; the variation selectors of emoji do not.
    """
    if neighbours[:1] and neighbours[0] in _JOINERS:
        neighbours = neighbours[1:]
    if not neighbours:
        return False
    letter = neighbours[0]
    if size > 1 and unicodedata.name(letter, "").startswith(("CJK", "HIRAGANA", "HANGUL")):
        return False
    mark = unicodedata.category(letter).startswith("M") and not "\ufe00" <= letter <= "\ufe0f"
    return letter.isalnum() or letter in "_@&" or mark
