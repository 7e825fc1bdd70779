"""Which option a judge's answer chooses: `parse_choice`.

Answers are free text. A model may reason first, in a block of its own or in prose, and wrap its letter in Markdown,
LaTeX, JSON or tokens of its template. All of it is read in time linear in the answer's length.
"""

from __future__ import annotations

import re
import unicodedata

from repic_core.models.answers import answer

# Where an answer says outright which part of it is the choice.
_BOX = re.compile(r"<\|begin_of_box\|>([^<]{0,999})<\|end_of_box\|>")
_BOXED = re.compile(r"\\f?box(?:ed)?\s{0,3}\{((?:[^{}]|\{[^{}]*\})*)\}")
_ELEMENT = re.compile(r"<(answer|choice|final_answer)>([^<]{0,999})</\1>", re.IGNORECASE)
_FIELD = re.compile(
    r"""["'](?:final[ _]?(?:answer|choice)|answer|choice|option|preferred|preference|letter|verdict|winner)["']"""
    r"""\s{0,9}:\s{0,9}(?:"([^"\n]{0,999})"|'([^'\n]{0,999})'|([A-Za-z])\b)""",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>")
_COMMAND = re.compile(r"\\[A-Za-z]{1,20}\*?")  # of LaTeX, such as \text

# Words that may come before the letter in an answer that is otherwise only the letter.
_LABEL = (
    r"(?:the|my|final|best|correct|more|preferable|preferred|answer|option|choice|caption|is|boxed"
    r"|so|thus|therefore|hence|overall|finally|winner|verdict|respuesta|la|es|r\u00e9ponse|est|antwort|ist)[\W_]+"
)
_WHOLE = re.compile(rf"[\W_]*((?:{_LABEL})*)([A-Z])[\W_]*", re.IGNORECASE)
# After the article "A" comes a noun or an adjective; after the option A comes one of these, a mark, or nothing.
_AFTER_OPTION = r"\s{1,99}(?:is|was|because|since|as|over|than|and|or|nor|provides|gives|describes|offers)\b"
_LEAD = re.compile(
    rf"[\W_]*([A-Z])(?:\s{{0,99}}[)\]:*}}\"_]|[.,;!?]+(?!\w)|\s{{0,99}}\n|\s{{1,99}}[-–—(]|{_AFTER_OPTION})"
)


def _cue(words: str) -> re.Pattern[str]:
    """A letter that follows one of `words`; gaps are bounded, so that a long answer is read once."""
    return re.compile(
        rf"\b(?:{words})\b[\W_]{{0,20}}(?:(?:the|is|would be|option|caption|answer)\b[\W_]{{0,20}}){{0,6}}"
        rf"(?-i:([A-Z]))(?![\w'’-])(?=\s{{0,99}}$|\s{{0,99}}\n|[^\w\s]|{_AFTER_OPTION})",
        re.IGNORECASE,
    )


_DECIDE = "choose|chose|select|pick|prefer|go with|winner|verdict"
_DECIDE += "|respuesta|r\u00e9ponse|antwort|risposta|resposta|\u043e\u0442\u0432\u0435\u0442|\u7b54\u6848"
_CUE = _cue(f"answer|option|choice|caption|boxed|{_DECIDE}")
_DECISION = _cue(f"answer|choice|{_DECIDE}")
_DENIAL = re.compile(
    r"\b(?:not|neither|nor|none|both|either|cannot|unable|unclear|reject\w*|disagree\w*|discard\w*)\b|n['’]t\b"
    r"|\b(?:worse|worst|weaker|weakest|poorer|inferior|incorrect|wrong|(?:less|least)\s\w{1,20})"
    r"\s(?:answer|option|choice|caption|one|description)\b",
    re.IGNORECASE,
)


def parse_choice(text: str, letters: str = "AB") -> str | None:
    """The option, one of `letters`, that an answer chooses; None if it chooses none or several, or is not clear.

    - Reasoning in a block (``<think>``) does not count, and an answer that ends within it chooses nothing.
    - A letter in a box (LaTeX's or a template's), in ``<answer>`` or in a JSON field such as ``"answer"`` decides.
    - So does a line such as "Answer: B", else a first or last line that is only the letter, else a last sentence
      such as "So the answer is B." where no other sentence decides otherwise; whatever reasons are given beside.
    - Else the answer may begin with the letter ("B: ...", "B. Because ...") or contain it ("The answer is B,
      since ..."). Then the letter of another option ("A, or B?") makes it unclear, and so does a "not" if the
      letter does not come first. "A dog" does not choose A.

    Full-width and other letters of the same meaning are read as plain ones.

    >>> parse_choice("The answer is **A**."), parse_choice("A or B"), parse_choice("A dog naps.")
    ('A', None, None)
    >>> parse_choice("<think>A is short.</think> B"), parse_choice(r"$\\boxed{\\text{B}}$")
    ('B', 'B')
    """
    text = answer(unicodedata.normalize("NFKC", text))
    stated = [*_BOX.findall(text), *_BOXED.findall(text)]
    stated += [inside for _, inside in _ELEMENT.findall(text)]
    stated += [next(filter(None, field), "") for field in _FIELD.findall(text)]
    if not stated:
        return _read(_plain(text), letters)
    found = {_read(_plain(part), letters) for part in stated}
    return found.pop() if len(found) == 1 else None


def _plain(text: str) -> str:
    """`text` without the commands of LaTeX and the tokens of templates."""
    return _COMMAND.sub(" ", _TOKEN.sub("\n", text))


def _read(text: str, letters: str) -> str | None:
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole[2].upper() if whole[2].upper() in letters else None
    lines = [line for line in text.splitlines() if line.strip()]
    only = [_WHOLE.fullmatch(line) for line in lines]
    decided = {line[2].upper() for line in only if line and "answer" in line[1].lower()}
    if not decided and len(lines) > 1 and (_alone_at_start(text, only) or _alone_at_end(lines, only)):
        decided = {line[2].upper() for line in only if line}
    if not decided:
        decided = _last_sentence(text, letters)
    if decided:
        return decided.pop() if len(decided) == 1 and decided <= set(letters) else None
    return _anywhere(text, letters)


def _alone_at_start(text: str, only: list[re.Match[str] | None]) -> bool:
    """Whether the first line is only a letter, with an empty line below."""
    _, _, below = text.strip().partition("\n")
    return only[0] is not None and not below.partition("\n")[0].strip()


def _alone_at_end(lines: list[str], only: list[re.Match[str] | None]) -> bool:
    """Whether the last line is only a letter, after a whole sentence."""
    before = lines[-2].rstrip(" *_`\"')]}")
    return only[-1] is not None and before.endswith((".", "!", "?", ":", "。"))


def _last_sentence(text: str, letters: str) -> set[str]:
    """The letter that the last of several sentences decides on, if none decides on another."""
    sentences = re.split(r"(?<=[.!?])\s{1,99}", text.strip())
    decisions = set(_DECISION.findall(text))
    if len(sentences) < 2 or len(decisions) != 1 or not _DECISION.search(sentences[-1]):
        return set()
    return decisions if _anywhere(sentences[-1], letters) in decisions else set()


def _anywhere(text: str, letters: str) -> str | None:
    """The only option that running text names, where it chooses it."""
    lead = _LEAD.match(text)
    if lead and not lead[0][-1].isalpha():  # "B: ..."
        chosen = {lead[1]}
    elif _DENIAL.search(text):
        return None
    else:  # "B is ...", or the letter comes later
        chosen = set(_CUE.findall(text)) | ({lead[1]} if lead else set())
    alone = rf"(?<![\w'’])[{letters}](?:(?={_AFTER_OPTION})|(?![\w'’-])(?!\s{{1,99}}\w))"
    beside = rf"\b(?:and|or|nor|than|versus|vs\.?)\s{{1,9}}([{letters}])(?![\w'’-])"  # "A and B are fine"
    named = chosen | {*re.findall(alone, text), *re.findall(beside, text)}
    return chosen.pop() if len(named) == len(chosen) == 1 and chosen <= set(letters) else None
