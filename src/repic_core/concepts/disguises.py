"""Names that a reader sees although they are written in another way, for the strict reward: "mias", "M-i-a"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from repic_core.concepts.names import is_ordinary
from repic_core.concepts.scripts import is_unspaced
from repic_core.concepts.tags import bare, fold, key

# Letters of other alphabets and forms that pass for Latin letters in a name: Cyrillic, Greek, small capitals.
_LOOKALIKES = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u0261"
    "\u03b1\u03b2\u03b5\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u0131\u0237"
    "\u1d00\u0299\u1d04\u1d05\u1d07\u0262\u029c\u026a\u1d0a\u1d0b\u029f\u1d0d\u0274\u1d0f\u1d18\u0280\u1d1b\u1d1c\u1d20\u1d21\u028f\u1d22",
    "abekmhopctyxijsdqgabeikmvoptyxijabcdeghijklmnoprtuvwyz",
)
# White letters on black circles and squares, and flags' letters, have no compatibility forms.
_LOOKALIKES |= {first + i: chr(97 + i) for first in (0x1F150, 0x1F170, 0x1F1E6) for i in range(26)}
_DIGITS = [str.maketrans("01345", f"o{one}eas") for one in "li"]
_WITHIN = r"\-\u2010._*\u00b7~+^"  # signs between the parts of a broken name
_SIGNS = rf"{_WITHIN}\\|/=()\u2013\u2014"  # and between its letters
# Of these no name is put together: "in-a-row", "to-do".
_SHORT_WORDS = re.compile("a|i|in|on|an|at|as|is|it|to|of|or|so|no|we|he|me|my|us|do|be|by|go|up|co")


def disguised(text: str, tags: Iterable[str]) -> list[str]:
    """The keys of the `tags` that a text names in disguise, once each time; a longer name goes before its parts.

    Found are a name as a part of a compound or an address ("mia-like", "@mia"), in the plural, with a number
    ("mia2"), without the spaces between its words, spelt letter by letter ("M-i-a", "m i a"), broken by a sign
    ("mi-a"), with letters of another alphabet ("mi\u0430"), with marks ("m\u00eda"), or with other signs for
    letters ("m1a"). Ordinary words and names of one letter are left out; of names of two letters, only those spelt
    out are found.

    >>> disguised("Two Mias and M-i-a, a bowl", ["<mia>", "<bo>"])
    ['mia', 'mia']
    """
    sought = {_letters(key(tag)): key(tag) for tag in tags if not is_ordinary(bare(tag))}
    sought = {letters: name for letters, name in sought.items() if len(letters) > 1}
    if not sought:
        return []
    text = _latin(text)
    # Scripts without spaces have no pieces. A name that was not found there as it is, is broken by signs.
    whole = re.sub(rf"[{_SIGNS}\s]+", "", text)
    found = [
        name for letters, name in sought.items() if is_unspaced(letters) for _ in range(whole.count(letters))
    ]
    pieces = [(m.group(1), m.group(2)) for m in re.finditer(r"([^\W_]+)([\W_]*)", text)]
    number = 0
    while number < len(pieces):
        for size in range(_joined(pieces, number), 0, -1):
            name = _named([piece for piece, _ in pieces[number : number + size]], sought)
            if name:
                found.append(name)
                number += size - 1
                break
        number += 1
    return found


def _joined(pieces: list[tuple[str, str]], first: int) -> int:
    """How many pieces from `first` on may spell one name: joined by a sign, or single letters also by spaces."""
    last = first
    while last + 1 < len(pieces) and last - first < 24:
        between = pieces[last][1]
        single = len(pieces[last][0]) == 1 and len(pieces[last + 1][0].removesuffix("s")) <= 1
        if not re.fullmatch(rf"[{_SIGNS}\s]{{1,3}}" if single else rf"[{_WITHIN}]", between):
            break
        last += 1
    return last - first + 1


def _named(pieces: list[str], sought: dict[str, str]) -> str | None:
    """The name that pieces spell together."""
    word = "".join(pieces)
    if len(pieces) > 1:
        spelt = all(len(piece) == 1 for piece in (*pieces[:-1], pieces[-1].removesuffix("s") or "s"))
        if not spelt and all(map(_SHORT_WORDS.fullmatch, pieces)):
            return None
        return sought.get(word) or sought.get(word.removesuffix("s"))
    forms = [word]
    letters = sum(map(str.isalpha, word))
    if letters > len(word) - letters and letters > 1:
        forms += [word.translate(digits) for digits in _DIGITS]
        forms.append(word.rstrip("0123456789"))
    for form in [*forms, *(_singular(form) for form in forms)]:
        if len(form) > 2 and form in sought and not is_ordinary(word):
            return sought[form]
    return None


def _singular(word: str) -> str:
    """A word without the ending of the English plural; "" if it has none.

    >>> _singular("mias"), _singular("maxes"), _singular("mollies"), _singular("times")
    ('mia', 'max', 'molly', 'time')
    """
    if re.search(r"[^aeiou]ies$", word) and len(word) > 4:
        return f"{word[:-3]}y"
    if re.search(r"(?:s|x|z|ch|sh|o)es$", word):
        return word[:-2]
    return word[:-1] if re.search(r"[^s]s$", word) else ""


def _latin(text: str) -> str:
    """`text` folded, without marks, and with Latin letters for those that look like them."""
    apart = unicodedata.normalize("NFD", fold(text))
    kept = "".join(c for c in apart if not (unicodedata.category(c) in ("Mn", "Me") and c < "\u0900"))
    text = unicodedata.normalize("NFC", kept).translate(_LOOKALIKES)
    text = re.sub(r"(?<=[^\W\d_])[!|](?=[^\W\d_])", "i", text)
    return re.sub(r"(?<=[^\W\d_])@(?!\w)", "a", text)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", _latin(name))
