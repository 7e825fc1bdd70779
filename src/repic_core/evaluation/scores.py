"""Score captions by the names in them: the published protocols, and `span`.

Caption files are lists of rows ``[query path, tags, caption, question]`` (the authors' format).

- ``repic-single``, ``repic-2``, ``repic-4`` reproduce upstream's ``evaluation/eval_*.py`` exactly. The caption
  is split at white space and the tokens stripped of punctuation, so a name with a space never matches.
- ``span`` is ours: names match as whole phrases, longest first, with the database's `name` as an alias of its
  tag (`names.find_names`), and precision counts every candidate named that the row does not have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.names import find_names, tag_of
from repic_core.concepts.tags import TAG, bare, key
from repic_core.io import tables

PROTOCOLS = ("repic-single", "repic-2", "repic-4", "span")
_STRIP = ".,!?;:()[]{}\"'-"  # upstream's PUNCT_STRIP


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

    def score(self, protocol: str) -> Score:
        """What this caption adds to a file's `Score`.

        Wrong, in precision's denominator, are by `span` the other names; by the published protocols, where there is
        another name, as many as are missed.
        """
        wrong = self.hallucinated if protocol == "span" else self.missed if self.hallucinated else ()
        right = len(self.correct)
        return Score(protocol, right, right + len(wrong), right + len(self.missed))


def score(
    records: Sequence[CaptionRecord],
    protocol: str = "span",
    database: ConceptDatabase | Iterable[Concept] | None = None,
    unknown_tags: bool = False,
) -> Score:
    """Precision, recall and F1 of the names in `records`, summed over all rows.

    Args:
        protocol: one of `PROTOCOLS`.
        database: concepts whose names are aliases of their tags in `span`. Candidates are the names that are
            ground truth somewhere in `records`, as in the published protocols, and for `span` also those of
            the database: to name one of them that is not in the row is wrong in a short file, too.
        unknown_tags: for `span`, whether a name in brackets that is no candidate also counts as wrong.

    >>> rows = [CaptionRecord("a.jpg", ("<bo>", "<mia>"), "<bo> naps beside <zoe>.")]
    >>> rows.append(CaptionRecord("b.jpg", ("<zoe>",), "A dog."))
    >>> score(rows).precision, score(rows).recall
    (0.5, 0.3333333333333333)

    Raises:
        ValueError: an unknown protocol.
    """
    counts = caption_counts(records, protocol, database, unknown_tags)
    return Score(protocol, *(sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0))


def caption_counts(
    records: Sequence[CaptionRecord],
    protocol: str = "span",
    database: ConceptDatabase | Iterable[Concept] | None = None,
    unknown_tags: bool = False,
) -> list[tuple[int, int, int]]:
    """What each caption adds to a `Score`'s correct, predicted and total; arguments as there."""
    _check_protocol(protocol)
    candidates = names_to_find(records, protocol, database)
    counts = []
    for record in records:
        found = score_caption(record, candidates, protocol).score(protocol)
        unknown = _unknown(record.caption, candidates) if unknown_tags and protocol == "span" else ()
        counts.append((found.correct, found.predicted + len(unknown), found.total))
    return counts


def score_caption(
    record: CaptionRecord, candidates: Iterable[Concept | str], protocol: str = "span"
) -> CaptionScore:
    """Which of `candidates` (concepts or tags) one caption names, by `protocol`.

    >>> score_caption(CaptionRecord("a.jpg", ("<bo>",), "bo naps"), ["<bo>", "<mia>"]).correct
    ('<bo>',)
    """
    _check_protocol(protocol)
    if protocol != "span":
        return _score_published(record, [tag_of(c) for c in candidates], protocol)
    candidates = list(candidates)
    known = {key(tag_of(c)) for c in candidates}
    candidates += [tag for tag in record.tags if key(tag) not in known]
    named = dict.fromkeys(tag for _, _, tag in find_names(record.caption, candidates))
    shown, said = {key(tag): tag for tag in record.tags}, {key(tag) for tag in named}
    return CaptionScore(
        correct=tuple(shown[k] for k in shown if k in said),
        missed=tuple(shown[k] for k in shown if k not in said),
        hallucinated=tuple(tag for tag in named if key(tag) not in shown),
    )


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}: use one of {', '.join(PROTOCOLS)}")


def _score_published(record: CaptionRecord, candidates: Sequence[str], protocol: str) -> CaptionScore:
    """`score_caption` as in upstream's scripts, with their differences in case and in what counts as another."""
    fold = str if protocol == "repic-2" else str.lower
    tags = record.tags[:1] if protocol == "repic-single" else record.tags
    tokens = {word.strip(_STRIP) for word in fold(record.caption.replace("</s>", "")).split()} - {""}
    known = dict.fromkeys((*candidates, *tags))
    said = {bare(fold(tag)) for tag in known if {fold(tag), bare(fold(tag))} & tokens}
    if protocol == "repic-single":
        others = [tag for tag in known if bare(fold(tag)) != bare(fold(tags[0]))]
    else:  # by the exact spelling, so <Thor> is another than <thor>
        others = [tag for tag in known if tag not in tags]
    return CaptionScore(
        correct=tuple(tag for tag in tags if bare(fold(tag)) in said),
        missed=tuple(tag for tag in tags if bare(fold(tag)) not in said),
        hallucinated=tuple(tag for tag in others if bare(fold(tag)) in said),
    )


def _unknown(caption: str, candidates: Sequence[Concept | str]) -> set[str]:
    """Names in brackets that are no candidate."""
    spans = find_names(caption, candidates)
    tags = ((m.start(), m.end(), m.group()) for m in TAG.finditer(caption))
    return {tag for start, end, tag in tags if not any(a < end and start < b for a, b, _ in spans)}


def names_to_find(
    records: Sequence[CaptionRecord], protocol: str, database: Iterable[Concept] | None
) -> list[Concept | str]:
    """The names that may be found: the ground truth of all records and, for `span`, the database's concepts."""
    known = {key(c.tag): c for c in database or ()} if protocol == "span" else {}
    tags = sorted({t for r in records for t in (r.tags[:1] if protocol == "repic-single" else r.tags)})
    return [*known.values(), *(tag for tag in tags if key(tag) not in known)]


def disagreements(
    records: Sequence[CaptionRecord],
    first: str = "repic-4",
    second: str = "span",
    database: ConceptDatabase | None = None,
    n: int = 10,
) -> list[tuple[CaptionRecord, CaptionScore, CaptionScore]]:
    """The `n` records that explain best why two protocols differ, with both judgements.

    A reason is a name that only one protocol finds, or a pair of unlike counts of wrong names. Each pick is the
    record whose reasons not shown yet occur most often in `records`; once all are shown, they may come again.
    """
    known = {p: names_to_find(records, p, database) for p in (first, second)}
    judged: dict[int, tuple[CaptionRecord, CaptionScore, CaptionScore]] = {}
    reasons: dict[int, set[Any]] = {}
    for number, record in enumerate(records):
        one, two = (score_caption(record, known[p], p) for p in (first, second))
        names = [{key(tag) for tag in (*s.correct, *s.hallucinated)} for s in (one, two)]
        counts = tuple(s.predicted - s.correct for s in (one.score(first), two.score(second)))
        judged[number] = record, one, two
        reasons[number] = (names[0] ^ names[1]) | ({counts} if counts[0] != counts[1] else set())
    often = Counter(reason for found in reasons.values() for reason in found)
    chosen: list[int] = []
    fresh = set(often)
    while len(chosen) < n and (left := [k for k in reasons if reasons[k] and k not in chosen]):
        best = max(left, key=lambda k: sum(often[reason] for reason in reasons[k] & fresh))
        chosen.append(best)
        fresh = (fresh - reasons[best]) or set(often)
    return [judged[number] for number in chosen]


def cells(scores: dict[str, Sequence[Score]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: precision, recall and F1 in percent, a row a file or method."""
    protocols = [s.protocol for s in next(iter(scores.values()))]
    head = ["", *(f"{p} {m}" for p in protocols for m in ("P", "R", "F1"))]
    body = [
        [name, *(f"{100 * v:.1f}" for s in row for v in (s.precision, s.recall, s.f1))]
        for name, row in scores.items()
    ]
    return head, body


def table(scores: dict[str, Sequence[Score]], latex: bool = False) -> str:
    """`cells` as Markdown or LaTeX."""
    return (tables.latex if latex else tables.markdown)(*cells(scores))
