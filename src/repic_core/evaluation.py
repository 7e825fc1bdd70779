"""Score captions by the names in them: the published protocols, and `span`.

Caption files are lists of rows ``[query path, tags, caption, question]`` (the authors' format).

- ``repic-single``, ``repic-2``, ``repic-4`` reproduce upstream's ``evaluation/eval_*.py`` exactly. The caption
  is split at white space and the tokens stripped of punctuation, so a name with a space never matches.
- ``span`` is ours: names match as whole phrases, longest first, with the database's `name` as an alias of its
  tag, and precision counts every candidate named that the row does not have.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from repic_core.concepts import Concept, ConceptDatabase
from repic_core.files import write_text_atomic

PROTOCOLS = ("repic-single", "repic-2", "repic-4", "span")
_STRIP = ".,!?;:()[]{}\"'-"  # upstream's PUNCT_STRIP


class CaptionFileError(ValueError):
    """A caption file that can't be used; the message names the file, the row and the mend."""


@dataclass(frozen=True)
class CaptionRecord:
    """One row of a caption file: `tags` are the concepts that the query shows."""

    query: str
    tags: tuple[str, ...]
    caption: str
    question: str = ""


@dataclass(frozen=True)
class Score:
    """Scores in [0, 1] and the counts behind them; a ratio of nothing is 0, as upstream has it.

    `correct`: concepts named that are shown; `predicted`: what precision divides by; `total`: concepts shown.
    """

    protocol: str
    correct: int
    predicted: int
    total: int

    @property
    def precision(self) -> float:
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class CaptionScore:
    """One caption under one protocol: tags named and shown, shown but not named, named but not shown."""

    correct: tuple[str, ...]
    missed: tuple[str, ...]
    hallucinated: tuple[str, ...]


def load_captions(path: str | Path) -> list[CaptionRecord]:
    """Read a caption file in the authors' row format (a fifth field and further ones are ignored).

    Raises:
        CaptionFileError: no file, no JSON (half a file, say), or a row of another form; names file and row.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CaptionFileError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CaptionFileError(f"{path}: not valid JSON ({error}): was it cut off? write it again") from None
    if not isinstance(rows, list):
        raise CaptionFileError(f"{path}: must hold a list of rows [query, tags, caption, question]")
    records = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if not isinstance(row, list) or len(row) < 3:
            raise CaptionFileError(f"{where}: must be [query, tags, caption, question], not {str(row)[:80]}")
        query, tags, caption, question = [*row, ""][:4]
        tags = [tags] if isinstance(tags, str) else tags
        if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) for tag in tags):
            raise CaptionFileError(f"{where}, tags: must be a list of tags like <bo>, not {str(tags)[:80]}")
        for field, value in (("query", query), ("caption", caption), ("question", question)):
            if not isinstance(value, str):
                raise CaptionFileError(f"{where}, {field}: must be text, not {str(value)[:80]}")
        records.append(CaptionRecord(query, tuple(tags), caption, question))
    return records


def score(
    records: Sequence[CaptionRecord],
    protocol: str = "span",
    database: ConceptDatabase | Iterable[Concept] | None = None,
    unknown_tags: bool = False,
) -> Score:
    """Precision, recall and F1 of the names in `records`, summed over all rows.

    Args:
        protocol: one of `PROTOCOLS`.
        database: for `span`, gives aliases (its names) and further candidates; the published protocols take
            the candidates from the ground truth of the file only, whatever is given.
        unknown_tags: for `span`, whether a name in brackets that is no candidate also counts as wrong.

    >>> rows = [CaptionRecord("a.jpg", ("<bo>", "<mia>"), "<bo> naps beside <zoe>.")]
    >>> rows.append(CaptionRecord("b.jpg", ("<zoe>",), "A dog."))
    >>> score(rows).precision, score(rows).recall
    (0.5, 0.3333333333333333)
    """
    candidates = _candidates(records, database if protocol == "span" else None)
    correct = predicted = total = 0
    for record in records:
        found = score_caption(record, candidates, protocol)
        correct += len(found.correct)
        total += len(found.correct) + len(found.missed)
        if protocol == "span":
            predicted += len(found.correct) + len(found.hallucinated)
            predicted += len(_unknown(record.caption, candidates)) if unknown_tags else 0
        else:  # a miss for every shown concept that is not named while another one is
            predicted += len(found.correct) + (len(found.missed) if found.hallucinated else 0)
    return Score(protocol, correct, predicted, total)


def score_caption(
    record: CaptionRecord, candidates: Iterable[Concept | str], protocol: str = "span"
) -> CaptionScore:
    """Which of `candidates` (concepts or tags) one caption names, by `protocol`.

    >>> score_caption(CaptionRecord("a.jpg", ("<bo>",), "bo naps"), ["<bo>", "<mia>"]).correct
    ('<bo>',)
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}: use one of {', '.join(PROTOCOLS)}")
    candidates = list(candidates)
    if protocol == "span":
        fold = str.casefold
        named = list(dict.fromkeys(tag for _, _, tag in find_names(record.caption, candidates)))
        tags = list({fold(tag): tag for tag in record.tags}.values())
    else:
        fold = str if protocol == "repic-2" else str.lower
        tokens = {w.strip(_STRIP) for w in fold(record.caption.replace("</s>", "")).split()} - {""}
        tags = list(record.tags)
        named = [tag for tag in map(_tag, candidates) if {fold(tag), _bare(fold(tag))} & tokens]
    shown, said = {fold(tag) for tag in tags}, {fold(tag) for tag in named}
    return CaptionScore(
        correct=tuple(tag for tag in tags if fold(tag) in said),
        missed=tuple(tag for tag in tags if fold(tag) not in said),
        hallucinated=tuple(tag for tag in named if fold(tag) not in shown),
    )


def find_names(text: str, candidates: Iterable[Concept | str]) -> list[tuple[int, int, str]]:
    """Where `text` names a candidate, as (start, end, tag), by the rules of `span`.

    A candidate matches by its tag, with or without brackets, and by its name: as a whole phrase, never inside
    another word, ignoring case and Unicode compatibility forms, the longest first. A name that is a single
    letter or an ordinary English word matches only in brackets or written exactly as stored.

    >>> find_names("Black Widow and <hulk> in the park", ["<black widow>", "<hulk>", "<Park>"])
    [(0, 11, '<black widow>'), (16, 22, '<hulk>')]
    """
    folded, origin = _fold(text)
    forms = _forms(tuple((_tag(c), c.name if isinstance(c, Concept) else _bare(c)) for c in candidates))
    taken = [False] * len(folded)
    found = []
    for pattern, tag, exact in forms:
        for match in pattern.finditer(folded):
            start, end = origin[match.start()], origin[match.end() - 1] + 1
            if any(taken[match.start() : match.end()]) or (exact and text[start:end] != exact):
                continue
            taken[match.start() : match.end()] = [True] * (match.end() - match.start())
            found.append((start, end, tag))
    return sorted(found)


@cache
def ordinary_words() -> frozenset[str]:
    """Words of everyday English that people, pets and things are called (``ordinary_words.txt``).

    Written plainly, such a name counts only exactly as stored: "Park" for a concept called Park, but not "park".
    No list is complete; a name that it lacks is matched in any case.
    """
    return frozenset(resources.files("repic_core").joinpath("ordinary_words.txt").read_text().split())


@lru_cache(maxsize=64)
def _forms(candidates: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str, str]]:
    """(pattern on folded text, tag, exact text that plain writing needs or "") of all forms, longest first."""
    forms: dict[tuple[str, bool], tuple[str, str]] = {}
    for tag, name in candidates:
        for form in dict.fromkeys((_bare(tag), name)):
            key = _fold(form)[0]
            forms.setdefault((key, True), (tag, ""))
            ordinary = len(key) == 1 or key in ordinary_words()
            if not ordinary or form == name:
                forms.setdefault((key, False), (tag, form if ordinary else ""))
    patterns = []
    for (key, bracketed), (tag, exact) in forms.items():
        phrase = r"\s+".join(re.escape(word) for word in key.split())
        full = rf"<\s*{phrase}\s*>" if bracketed else rf"(?<!\w){phrase}(?!\w)"
        patterns.append((len(key) + 2 * bracketed, re.compile(full), tag, exact))
    return [(p, tag, exact) for _, p, tag, exact in sorted(patterns, key=lambda item: -item[0])]


def _fold(text: str) -> tuple[str, list[int]]:
    """`text` with compatibility forms and case folded, and the index in `text` of every folded character."""
    folded, origin = [], []
    for index, character in enumerate(text):
        for c in unicodedata.normalize("NFKC", character).casefold():
            folded.append(c)
            origin.append(index)
    return "".join(folded), origin


def _unknown(caption: str, candidates: Sequence[Concept | str]) -> set[str]:
    """Names in brackets that are no candidate."""
    spans = find_names(caption, candidates)
    tags = ((m.start(), m.end(), m.group()) for m in re.finditer(r"<[^<>/|][^<>]*>", caption))
    return {tag for start, end, tag in tags if not any(a < end and start < b for a, b, _ in spans)}


def _candidates(records: Sequence[CaptionRecord], database: Iterable[Concept] | None) -> list[Concept | str]:
    """The names that may be found: the ground truth of all records, and the database's concepts."""
    known = {concept.tag.casefold(): concept for concept in database or ()}
    tags = sorted({tag for record in records for tag in record.tags})
    return [*known.values(), *(tag for tag in tags if tag.casefold() not in known)]


def _tag(candidate: Concept | str) -> str:
    return candidate.tag if isinstance(candidate, Concept) else candidate


def _bare(tag: str) -> str:
    return tag[1:-1] if tag.startswith("<") and tag.endswith(">") else tag


def disagreements(
    records: Sequence[CaptionRecord],
    first: str = "repic-4",
    second: str = "span",
    database: ConceptDatabase | None = None,
    n: int = 10,
) -> list[tuple[CaptionRecord, CaptionScore, CaptionScore]]:
    """The `n` records that two protocols judge most differently (names that one of them finds only), with
    both judgements; no photo takes more than half of the list, so that it explains and does not repeat."""
    judged = []
    for record in records:
        pair = [
            score_caption(record, _candidates(records, database if p == "span" else None), p)
            for p in (first, second)
        ]
        sets = [{t.casefold() for t in (*s.correct, *s.hallucinated)} for s in pair]
        judged.append((len(sets[0] ^ sets[1]), record, *pair))
    judged.sort(key=lambda item: -item[0])
    chosen: list[tuple[CaptionRecord, CaptionScore, CaptionScore]] = []
    for difference, record, one, two in judged:
        if difference and sum(r.query == record.query for r, _, _ in chosen) < max(1, n // 2):
            chosen.append((record, one, two))
    return chosen[:n]


def table(scores: dict[str, Sequence[Score]], latex: bool = False) -> str:
    """Precision, recall and F1 in percent, a row a file or method, as Markdown or LaTeX."""
    protocols = [s.protocol for s in next(iter(scores.values()))]
    head = ["", *(f"{p} {m}" for p in protocols for m in ("P", "R", "F1"))]
    body = [
        [name, *(f"{100 * v:.1f}" for s in row for v in (s.precision, s.recall, s.f1))]
        for name, row in scores.items()
    ]
    if latex:
        lines = [" & ".join(row).replace("_", r"\_") + r" \\" for row in (head, *body)]
        rules = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", lines[0], r"\midrule"]
        return "\n".join([*rules, *lines[1:], r"\bottomrule", r"\end{tabular}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def main(arguments: list[str] | None = None) -> None:
    """``python -m repic_core.evaluation FILE... [--protocol P ...] [--database DB --root R] [--latex OUT]``"""
    parser = argparse.ArgumentParser(prog="python -m repic_core.evaluation", description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["repic-4", "span"])
    parser.add_argument("--database", help="concept database: aliases and candidates for span")
    parser.add_argument("--root", help="what the database's image paths are relative to")
    parser.add_argument("--latex", help="also write the table as LaTeX to this file")
    options = parser.parse_args(arguments)
    database: Any = None
    if options.database:
        database = ConceptDatabase.load(options.database, options.root, check_images=False)
    scores = {
        Path(file).stem: [score(load_captions(file), p, database) for p in options.protocol]
        for file in options.files
    }
    print(table(scores))
    if options.latex:
        write_text_atomic(options.latex, table(scores, latex=True) + "\n")


if __name__ == "__main__":
    main()
