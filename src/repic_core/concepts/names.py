"""Find the names of concepts in text, for the protocol `span`, the strict rewards and the viewer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import pairwise

from repic_core.concepts.concept import Concept
from repic_core.concepts.scripts import is_mark, may_touch, script, splits_a_letter
from repic_core.concepts.tags import DASHES, bare, folded_name, folded_spans, is_name, key, spelling
from repic_core.models.answers import Span, as_read

# With a letter on their other side these continue the word. \u2010 is what NFKC makes of other hyphens.
_JOINERS = "-\u2010.'"
# After an apostrophe: no form of the name before it (don't, ma'am, o'clock, rock'n'roll).
_NO_SUFFIX = re.compile("t|am|clock|all|n")
_ENGLISH_SUFFIX = re.compile("s|ll|d|re|ve|m")
# Before an apostrophe: articles and the like in French and Italian (l'Anna, d'Anna, qu'Anna, dell'Anna).
_ELISION = re.compile("l|d|c|j|m|n|s|t|qu|ch|jusqu|lorsqu|puisqu|quand|entr|all|dall|dell|nell|sull|quell|un")
# "And", "to", "in" ... in Arabic and Hebrew, written as one word with the name after it.
_PROCLITICS = "\u0648\u0641\u0628\u0644\u0643\u05d5\u05d4\u05d1\u05dc\u05de\u05e9\u05db"
_HONORIFIC = re.compile(r"-(?:san|chan|kun|sama|ssi|nim|ji)\b")
# Written with a dot or without; so are initials.
_ABBREVIATION = re.compile("mrs?|ms|mx|dr|prof|st|jr|sr|rev|hon|capt|sgt|lt|col|gen|mt|ft|messrs|[^\\W\\d_]")


Place = tuple[int, int, str]


@dataclass(frozen=True)
class Written:
    """A text as it is read and folded, what stands in angle brackets there, and the names without brackets.

    Args:
        original: as it was written.
        read: as a person reads it (`models.answers.as_read`), without reasoning and markup.
        text: `read`, folded.
        spans: where each character of `text` was in `original`, as (start, end).
        tagged: (start, end, key) in `text` of each ``<name>`` and ``<name/>``, known or not.
        closed: the same of each ``</name>``.
        plain: (start, end, tag) in `text` of each candidate that is named without brackets.
        known: the tags of the candidates (`by_key`).
    """

    original: str
    read: str
    text: str
    spans: list[Span]
    tagged: list[Place]
    closed: list[Place]
    plain: list[Place]
    known: dict[str, str]

    def found(self) -> list[Place]:
        """Where the original names a candidate, as `find_names` gives it."""
        bracketed = [(*place, self.known[name]) for *place, name in self.tagged if name in self.known]
        spans = self.spans
        places = sorted((spans[a][0], spans[b - 1][1], tag) for a, b, tag in (*bracketed, *self.plain))
        return [place for before, place in pairwise([(0, 0, ""), *places]) if place[0] >= before[1]]

    def unknown(self) -> list[str]:
        """The names in brackets that are no candidate's, as they are written, each once.

        >>> read_names("<bo> and <Mia>, <mia></s>", ["<bo>"]).unknown()
        ['<Mia>']
        """
        found: dict[str, str] = {}
        for start, end, name in self.unknown_places():
            found.setdefault(name, self.original[start:end])
        return list(found.values())

    def unknown_places(self) -> list[Place]:
        """Where the original has the names of `unknown`, each time, as (start, end, key)."""
        spans = self.spans
        return [(spans[a][0], spans[b - 1][1], name) for a, b, name in self.tagged if name not in self.known]

    def rest(self) -> str:
        """`text` without the names.

        >>> read_names("<bo> naps, Bo snores </mia>", ["<bo>"]).rest()
        ' |  naps,  |  snores  | '
        """
        rest = self.text
        for start, end, _ in sorted(self.tagged + self.closed + self.plain, reverse=True):
            rest = f"{rest[:start]} | {rest[end:]}"
        return rest


def find_names(text: str, candidates: Iterable[Concept | str]) -> list[Place]:
    """Where `text` names a candidate (a concept, or a tag), as (start, end, tag), in order.

    A candidate matches by its tag, with or without brackets, and by its name: as a whole phrase, equal as in
    `tags.key`, the longest first. White space in a name matches any white space, and after a full stop none is
    needed ("Mr.Krabs", "Mr. Krabs", "Mr Krabs"). The text counts as a person reads it (`models.answers.as_read`):
    what stands in reasoning is not said, and markup such as ``<br>`` is no name.

    A name never matches inside another word or another ``<...>``: "Spider-Man", "U.S.", "H&M", "don't" and
    "anna@bo.com" do not name <spider>, <U>, <H>, <Don> or <bo>. A possessive, a contraction, a suffix of a name
    with a capital and an article before it do name ("Bo's", "Bo'll", "Bo'nun", "d'Anna"). A name of two or more
    characters may touch letters of scripts that put no spaces between words or particles (`scripts`).

    A name that is a single letter or an ordinary English word matches only in brackets or written exactly as
    stored. If it is stored as plain English ("dog", "A"), it matches only in brackets: otherwise every ordinary
    use of the word would be a name.

    >>> find_names("Black Widow and **<hulk>** in the park", ["<black widow>", "<hulk>", "<Park>"])
    [(0, 11, '<black widow>'), (18, 24, '<hulk>')]
    """
    return read_names(text, [candidates] if isinstance(candidates, str) else candidates).found()


def read_names(text: str, candidates: Iterable[Concept | str]) -> Written:
    """What `text` names, in brackets and without, by the rules of `find_names`; the text is searched once."""
    forms, known = _forms(_tags_and_names(candidates))
    read, places = as_read(text, known)
    folded, in_read = folded_spans(read)
    spans = [(places[start][0], places[end - 1][1]) for start, end in in_read]
    capitals = [read[start].isupper() for start, _ in in_read]
    taken = bytearray(len(folded))

    def search(forms: Iterable[tuple[re.Pattern[str], str, str]]) -> Iterator[Place]:
        for pattern, tag, exact in forms:
            for match in pattern.finditer(folded):
                first, last = match.span(1)
                start, end = in_read[first][0], in_read[last - 1][1]
                if any(taken[first:last]) or (exact and spelling(read[start:end]) != exact):
                    continue
                if _stands_alone(folded, first, last, capitals):
                    taken[first:last] = b"\1" * (last - first)
                    yield first, last, tag

    # A name may itself hold brackets, which then are none of a tag.
    plain = list(search(form for form in forms if "<" in form[0].pattern))
    tagged, closed = (
        [place for place in found if not any(taken[place[0] : place[1]])]
        for found in _brackets(folded, known)
    )
    for start, end, _ in tagged + closed:
        taken[start:end] = b"\1" * (end - start)
    plain += search(form for form in forms if "<" not in form[0].pattern)
    return Written(text, read, folded, spans, tagged, closed, sorted(plain), known)


def _brackets(folded: str, names: Collection[str]) -> tuple[list[Place], list[Place]]:
    """(start, end, key) of each ``<name>`` and of each ``</name>`` in a folded text."""
    tagged, closed = [], []
    for match in re.finditer(r"<([^<>]*)>", folded):
        start, end = match.span()
        inside = match.group(1).strip()
        if inside.startswith("/"):
            name = key(inside[1:])
            if name in names or is_name(name):
                closed.append((start, end, name))
            continue
        name = key(inside)
        if name not in names:
            name = key(inside.removesuffix("/"))
        if name not in names and name.endswith("'s") and name[:-2] in names:  # <bo's>
            name = name[:-2]
        is_sign = match.group(1)[:1].isspace() and start > 0 and not folded[start - 1].isspace()  # as in >_<
        is_list = all(
            key(part) in names for part in re.split(r"\s*(?:[,;/&+]|\band\b)\s*", inside)
        )  # <bo and mia>
        if name in names or (is_name(inside) and not is_sign and not is_list):
            tagged.append((start, end, name))
    return tagged, closed


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
    folded = key(name)
    return len(folded) == 1 or folded in ordinary_words()


def tag_of(candidate: Concept | str) -> str:
    """The tag of a candidate: a concept's, or the candidate itself if it is a tag."""
    return candidate.tag if isinstance(candidate, Concept) else candidate


def by_key(candidates: Iterable[Concept | str]) -> dict[str, str]:
    """The tag of each candidate by the keys of its tag and its name; a tag goes before another concept's name."""
    return _known(_tags_and_names(candidates))


def _tags_and_names(candidates: Iterable[Concept | str]) -> tuple[tuple[str, str], ...]:
    return tuple((tag_of(c), c.name if isinstance(c, Concept) else bare(c)) for c in candidates)


def _known(candidates: tuple[tuple[str, str], ...]) -> dict[str, str]:
    known: dict[str, str] = {}
    for tag, _ in candidates:
        known.setdefault(key(tag), tag)
    for tag, name in candidates:
        known.setdefault(key(name), tag)
    return known


@lru_cache(maxsize=256)
def _forms(
    candidates: tuple[tuple[str, str], ...],
) -> tuple[list[tuple[re.Pattern[str], str, str]], dict[str, str]]:
    """The patterns of all candidates (tag and name) without brackets, longest first, and their tags by key.

    Each pattern is (pattern for folded text, tag, exact text): where the exact text is not "", the match must be
    written exactly so.
    """
    forms: dict[str, tuple[str, str, str]] = {}
    # A tag takes precedence over the name of another concept.
    written = [(tag, name, bare(tag)) for tag, name in candidates]
    written += [(tag, name, name) for tag, name in candidates]
    for tag, name, form in written:
        folded, ordinary = folded_name(form), is_ordinary(form)
        plain_english = form in ("A", "I") or (form == folded and folded in ordinary_words())
        if folded and (not ordinary or (form == name and not plain_english)):
            forms.setdefault(key(form), (folded, tag, spelling(form) if ordinary else ""))
    longest_first = sorted(forms.values(), key=lambda form: -len(form[0]))
    # A lookahead, so that a match is also found where it overlaps one that is refused.
    patterns = [(re.compile(f"(?=({_phrase(folded)}))"), tag, exact) for folded, tag, exact in longest_first]
    return patterns, _known(candidates)


def _phrase(folded: str) -> str:
    """The pattern of a folded name: any white space, any dash, and dots that may be left out."""
    words = [word for word in re.split(r"\s+|(?<=[^\W\d_])\.(?=[^\W\d_])", folded) if word]
    dotted = {m.start() for m in re.finditer(r"[^\W\d_]\.", folded)}
    pattern, end = "", 0
    for number, word in enumerate(words):
        end = folded.index(word, end) + len(word)
        stem = word.removesuffix(".") or word
        pattern += re.sub(r"\\-", f"[-\u2010{DASHES}]", re.escape(stem))
        last = number == len(words) - 1
        optional = stem != word or end - 1 in dotted or _ABBREVIATION.fullmatch(stem)
        if not last:
            pattern += r"(?:\.\s*|\s+)" if optional else r"\s+"
        elif stem != word:
            pattern += r"\.?"
    return pattern


def _stands_alone(text: str, first: int, last: int, capitals: Sequence[bool]) -> bool:
    """Whether ``text[first:last]`` is a phrase by itself, not inside another word.

    Args:
        capitals: which characters are capitals in the text as it was written. After a name with a capital, "'nun"
            is a suffix, as Turkish has them; before it, "d'" is an article, but "D'" is part of a name.
    """
    if splits_a_letter(text, first) or splits_a_letter(text, last):
        return False
    start = _with_article(text, first, capitals)
    end, size = _with_suffix(text, first, last, capitals), last - first
    before, after = text[max(0, start - 3) : start][::-1], text[end : end + 3]
    if size > 1 and after[:1] == "." and capitals[end + 1 : end + 2] == [True]:
        after = ""  # the next sentence, without a space
    return not (_continues_word(before, text[first], size) or _continues_word(after, text[last - 1], size))


def _with_article(text: str, first: int, capitals: Sequence[bool]) -> int:
    """Where the word of a name at `first` begins: with an article or the like that is written as one with it."""
    article = re.search(r"(?<![\w'])([^\W\d_]+)'$", text[max(0, first - 9) : first])
    if article and _ELISION.fullmatch(article[1]) and capitals[first]:
        start = first - len(article[0])
        return first if capitals[start] else start
    joined = first and text[first - 1] in _PROCLITICS and script(text[first - 1]) == script(text[first])
    return first - 1 if joined else first


def _with_suffix(text: str, first: int, last: int, capitals: Sequence[bool]) -> int:
    """Where the word of the name ``text[first:last]`` ends: after a suffix that is joined by a sign."""
    suffix = re.match(r"'([^\W\d_]+)", text[last : last + 12])
    if suffix and last - first > 1 and (_ENGLISH_SUFFIX.fullmatch(suffix[1]) or capitals[first]):
        last += 0 if _NO_SUFFIX.fullmatch(suffix[1]) or capitals[last + 1] else suffix.end()
    honorific = _HONORIFIC.match(text[last : last + 6])
    return last + honorific.end() if honorific else last


def _continues_word(neighbours: str, edge: str, size: int) -> bool:
    """Whether these characters, outwards from a name of `size` characters that ends in `edge`, belong to its word.

    Letters of scripts without spaces do not, nor do the variation selectors of emoji.
    """
    if neighbours[:1] == "&" and size > 1 and neighbours[1:3].isalpha() and len(neighbours) > 2:
        return False  # "Bo&Mia", but not "H&M" and "AT&T"
    if neighbours[:1] and neighbours[0] in _JOINERS:
        neighbours = neighbours[1:]
    if not neighbours:
        return False
    letter = neighbours[0]
    if size > 1 and may_touch(edge, letter):
        return False
    return letter.isalnum() or letter in "_@&" or is_mark(letter)
