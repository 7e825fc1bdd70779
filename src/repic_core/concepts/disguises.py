"""Names that a reader sees although they are written in another way, for the strict reward: "mias", "M-i-a"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from repic_core.concepts.names import is_ordinary
from repic_core.concepts.scripts import is_unspaced
from repic_core.concepts.tags import bare, fold, key

# Letters of other alphabets, marks and digits that pass for Latin letters in a name.
_LOOKALIKES = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u0261"
    "\u03b1\u03b2\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u0131\u0237",
    "abekmhopctyxijsdqgabeikvoptyxij",
)
_DIGITS = [str.maketrans("01345", f"o{one}eas") for one in "li"]
_PLURALS = ("", "s", "es")
_SIGNS = r"\-\u2010._*'\u00b7\u2022~+^\\"  # within a name; a comma or a dash is not


def disguised(text: str, tags: Iterable[str]) -> list[str]:
    """The keys of the `tags` that a text names in disguise, once each time.

    Found are a name as a part of a compound or an address ("mia-like", "@mia"), in the plural, without the spaces
    between its words, spelt letter by letter ("M-i-a", "m i a") or broken by a sign ("mi-a", "m*ia"), with letters
    of another alphabet ("mi\u0430"), with marks ("m\u00eda") or with digits for letters ("m1a"). Ordinary words and
    names of one letter are left out.

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
            name = _named("".join(piece for piece, _ in pieces[number : number + size]), sought)
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
        if not re.fullmatch(rf"[{_SIGNS}\s]{{1,3}}" if single else rf"[{_SIGNS}]", between):
            break
        last += 1
    return last - first + 1


def _named(word: str, sought: dict[str, str]) -> str | None:
    for form in (word, *(word.translate(digits) for digits in _DIGITS)):
        for plural in _PLURALS:
            if form.endswith(plural) and (name := sought.get(form.removesuffix(plural))):
                return name
        if form.endswith("ies") and (name := sought.get(f"{form[:-3]}y")):
            return name
    return None


def _latin(text: str) -> str:
    """`text` folded, without marks, and with Latin letters for those that look like them."""
    apart = unicodedata.normalize("NFD", fold(text))
    kept = "".join(c for c in apart if not (unicodedata.category(c) in ("Mn", "Me") and c < "\u0900"))
    return unicodedata.normalize("NFC", kept).translate(_LOOKALIKES)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", _latin(name))
