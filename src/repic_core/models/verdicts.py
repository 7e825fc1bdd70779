"""A model's answer to a question of yes or no."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from repic_core.models.answers import as_read

_CLAUSE_END = re.compile(r"[,.;:!?/()\n\u2013\u2014\u2026]+|\s-+\s")
_NEGATIONS = {"not", "never", "cannot", "nor", "or"}  # before a yes or no; and every word that ends in n't
_AFTER_NO = {"it", "they", "this", "that", "these", "those", "there", "the", "he", "she", "we", "i", "not"}
_AFTER_NO |= {"because", "since", "as", "both", "you", "my"}
_HESITATIONS = {
    "yes",
    "no",
    "maybe",
    "perhaps",
    "wait",
    "well",
    "but",
    "actually",
    "sorry",
    "then",
    "and",
    "so",
}
# A clause of a verdict and only these states it: "the answer is yes", "I'd say no".
_STATING = re.compile(
    r"the|my|final|correct|answer|verdict|is|it|it's|i|i'd|i'll|i'm|would|say|think|am|sure|so|thus|therefore|hence"
    r"|clearly|definitely|certainly|overall|conclusion|in|and|then|here|a|\d+"
)
_VERDICT_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def verdict(answer: str) -> str:
    """The verdict of an answer, "yes" or "no"; "" if there is none.

    It must open the answer, end it, or stand in a clause of its own ("The answer is yes, since ..."). All its yes
    and no must agree: each "yes", and each "no" that ends a clause, opens one before "it", "they" ..., or comes
    before a hesitation or another verdict; "no doubt" holds no verdict. Nor is there one where a yes or no that
    ends a clause comes at most two words after a negation ("not yes", "isn't a yes", "yes or no"). The answer is
    read without reasoning and markup.

    >>> [verdict(text) for text in ("I know, **yes**.", "No, it is another.", "no yes", "No doubt")]
    ['yes', 'no', '', '']
    """
    read = unicodedata.normalize("NFKC", as_read(answer)[0]).lower().replace("\u2019", "'")
    clauses = [words for part in _CLAUSE_END.split(read) if (words := _VERDICT_WORD.findall(part))]
    ends = [clause for clause in clauses if clause[-1] in ("yes", "no")]
    if not clauses or any(w in _NEGATIONS or w.endswith("n't") for clause in ends for w in clause[-3:-1]):
        return ""
    said = {clause[-1] for clause in ends}
    for clause in clauses:
        for place, (word, following) in enumerate(pairwise(clause)):
            opens = place == 0 and following.partition("'")[0] in _AFTER_NO
            if word == "yes" or (word == "no" and (opens or following in _HESITATIONS)):
                said.add(word)
    stated = {clauses[0][0], clauses[-1][-1]} | {c[-1] for c in ends if all(map(_STATING.fullmatch, c[:-1]))}
    return said.pop() if len(said) == 1 and said <= stated else ""
