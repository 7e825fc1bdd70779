"""Words of any script, also of those that are written without spaces between words.

The rule for Chinese, Japanese, Thai, Lao, Khmer and Burmese: each character with its marks is a word, as word
processors count them (in Thai and Lao, with the vowels before and after it; in Khmer and Burmese, with what is
stacked below it). As a word of these scripts has about two such characters, a copied run must have twice as many.
Names may touch other letters there, except that a run of katakana is one word, and that no character is split.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from repic_core.concepts.tags import fold

_UNSPACED = frozenset(
    ["CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR"]
)
_TOUCHING = _UNSPACED | {"HANGUL"}  # has spaces, but particles follow a name without one
_BEFORE = frozenset(
    "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"
)  # vowels of the next consonant
_AFTER = frozenset("\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3")  # vowels of the consonant before
_STACKING = frozenset("\u17d2\u1039")  # the next consonant is written below


@lru_cache(maxsize=1 << 14)
def script(character: str) -> str:
    """The first word of a character's Unicode name: "LATIN", "CJK", "THAI" ...; "" for one without a name."""
    return unicodedata.name(character, "").replace("-", " ").partition(" ")[0]


def words(text: str) -> list[str]:
    """The words of a text, folded: runs of letters and digits with their marks; see the head of this file.

    >>> words("Bo's red ball"), words("Bo在公园"), words("ไปเล่น")
    (['bo', 's', 'red', 'ball'], ['bo', '在', '公', '园'], ['ไป', 'เล่', 'น'])
    """
    found: list[str] = []
    last = ""  # the character before, if it belongs to a word
    for character in fold(text):
        unspaced = character.isalpha() and script(character) in _UNSPACED
        if is_mark(character) or (last and (character in _AFTER or last in _BEFORE or last in _STACKING)):
            if last:
                found[-1] += character
                last = character
        elif not character.isalnum():
            last = ""
        else:
            if last and not unspaced and not is_unspaced(found[-1]):
                found[-1] += character
            else:
                found.append(character)
            last = character
    return found


def is_unspaced(word: str) -> bool:
    """Whether a word, as `words` gives them, is one character of a script without spaces."""
    return word[:1].isalpha() and script(word[0]) in _UNSPACED


def is_mark(character: str) -> bool:
    """Whether a character belongs to the letter before it; the variation selectors of emoji do not."""
    return unicodedata.category(character)[0] == "M" and not "\ufe00" <= character <= "\ufe0f"


def length(text: Sequence[str]) -> float:
    """How many words of a text with spaces these `words` stand for: of scripts without spaces, two for one."""
    return sum(0.5 if is_unspaced(word) else 1 for word in text)


def runs(text: Sequence[str], size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each shortest run of `words` that has the `length` of `size` words.

    >>> list(runs(["a", "b", "c"], 2)), list(runs(["在", "公", "园"], 1))
    ([(0, 2), (1, 3)], [(0, 2), (1, 3)])
    """
    end, held = 0, 0.0
    for start in range(len(text)):
        while held < size and end < len(text):
            held += length(text[end : end + 1])
            end += 1
        if held < size:
            return
        yield start, end
        held -= length(text[start : start + 1])


def may_touch(edge: str, letter: str) -> bool:
    """Whether a name that ends in the character `edge` may touch this letter without being part of its word.

    >>> may_touch("o", "在"), may_touch("明", "在"), may_touch("ア", "ン"), may_touch("o", "b")
    (True, True, False, False)
    """
    scripts = {script(edge), script(letter)}
    if letter.isdigit() or scripts == {"KATAKANA"}:
        return False
    return not scripts.isdisjoint(_TOUCHING) and (letter.isalpha() or script(letter) in _TOUCHING)


def splits_a_letter(text: str, place: int) -> bool:
    """Whether a cut before ``text[place]`` parts a letter of a script without spaces from its vowels or marks."""
    before, after = text[place - 1 : place], text[place : place + 1]
    if not before or not after:
        return False
    own_mark = is_mark(after) and script(after) in _TOUCHING
    return own_mark or after in _AFTER or before in _BEFORE or before in _STACKING
