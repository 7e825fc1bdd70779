"""Score captions by the names in them: the published protocols, and `span`.

Caption files are lists of rows ``[query path, tags, caption, question]`` (the authors' format).

- ``repic-single``, ``repic-2`` and ``repic-4`` reproduce upstream's ``evaluation/eval_*.py`` exactly. The caption
  is split at white space, and punctuation is stripped from the tokens, so a name with a space never matches.
- ``span`` is ours: names match as whole phrases, longest first, with the database's `name` as an alias of its
  tag (`names.find_names`). Precision counts every candidate that is named although the row does not have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from repic_core.captioner.caption_files import CaptionRecord, Captions, scored_records
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.names import by_key, read_names, tag_of
from repic_core.concepts.tags import bare, key
from repic_core.io import tables

PROTOCOLS = ("repic-single", "repic-2", "repic-4", "span")
_STRIP = ".,!?;:()[]{}\"'-"  # upstream's PUNCT_STRIP


@dataclass(frozen=True)
class Score:
    """Counts, and the scores in [0, 1] made from them; a score whose divisor is 0 is 0, as in upstream.

    Args:
        correct: concepts that are named and shown.
        predicted: the divisor of precision.
        total: concepts that are shown.
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
    """What one protocol finds in one caption.

    Args:
        correct: tags that are named and shown.
        missed: tags that are shown and not named.
        hallucinated: candidates that are named and not shown.
        unknown: names in brackets that are not candidates, each once; only `span` looks for them.
    """

    correct: tuple[str, ...]
    missed: tuple[str, ...]
    hallucinated: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[str, ...]:
        """All names that should not be there: `hallucinated` and `unknown`."""
        return (*self.hallucinated, *self.unknown)

    def score(self, protocol: str, unknown_tags: bool = False) -> Score:
        """What this caption adds to a file's `Score`.

        Precision divides by the correct names and the wrong ones. By `span` these are the hallucinated names (and,
        with `unknown_tags`, the unknown ones). By the published protocols they are as many as are missed, where
        another name is found, else none.
        """
        if protocol == "span":
            wrong = len(self.hallucinated)
        elif self.hallucinated:
            wrong = len(self.missed)
        else:
            wrong = 0
        if unknown_tags:
            wrong += len(self.unknown)
        right = len(self.correct)
        return Score(protocol, right, right + wrong, right + len(self.missed))


@dataclass(frozen=True)
class ScoredCaptions:
    """The captions of a file, and what one protocol finds in each: searched once for all numbers of a table.

    Args:
        captions: the `CaptionScore` of each of `records`.
    """

    protocol: str
    records: tuple[CaptionRecord, ...]
    captions: tuple[CaptionScore, ...]

    def scores(self, unknown_tags: bool = False) -> list[Score]:
        """What each caption adds to the file's score."""
        return [caption.score(self.protocol, unknown_tags) for caption in self.captions]

    def total(self, unknown_tags: bool = False) -> Score:
        """The score of the file."""
        scores = self.scores(unknown_tags)
        return Score(
            self.protocol,
            correct=sum(score.correct for score in scores),
            predicted=sum(score.predicted for score in scores),
            total=sum(score.total for score in scores),
        )


def score(
    records: Captions,
    protocol: str = "span",
    database: ConceptDatabase | Iterable[Concept] | None = None,
    unknown_tags: bool = False,
) -> Score:
    """Precision, recall and F1 of the names in `records`, summed over all rows.

    Args:
        records: a caption file, its rows, or records (`caption_files.records_of`).
        protocol: one of `PROTOCOLS`.
        database: concepts whose names are aliases of their tags in `span`. Candidates are all names that are ground
            truth somewhere in `records`, as in the published protocols, and for `span` also those of the database:
            so naming one that the row does not have is wrong even in a short file.
        unknown_tags: for `span`, whether a name in brackets that is not a candidate also counts as wrong.

    >>> rows = [CaptionRecord("a.jpg", ("<bo>", "<mia>"), "<bo> naps beside <zoe>.")]
    >>> rows.append(CaptionRecord("b.jpg", ("<zoe>",), "A dog."))
    >>> score(rows).precision, score(rows).recall
    (0.5, 0.3333333333333333)

    Raises:
        ValueError: an unknown protocol.
        CaptionFileError: a row can't be used; there are no rows, or none with a tag.
    """
    return score_captions(records, protocol, database).total(unknown_tags)


def score_captions(
    records: Captions,
    protocol: str = "span",
    database: ConceptDatabase | Iterable[Concept] | None = None,
) -> ScoredCaptions:
    """Search each caption of `records` once, by one protocol; arguments and errors as for `score`."""
    _check_protocol(protocol)
    records = scored_records(records)
    candidates = names_to_find(records, protocol, database)
    captions = tuple(score_caption(record, candidates, protocol) for record in records)
    return ScoredCaptions(protocol, tuple(records), captions)


def score_caption(
    record: CaptionRecord, candidates: Iterable[Concept | str], protocol: str = "span"
) -> CaptionScore:
    """Which of `candidates` (concepts or tags) one caption names, by `protocol`.

    >>> score_caption(CaptionRecord("a.jpg", ("<bo>",), "bo naps"), ["<bo>", "<mia>"]).correct
    ('<bo>',)

    Raises:
        ValueError: an unknown protocol, or for `repic-single` a row without a tag.
    """
    _check_protocol(protocol)
    if protocol != "span":
        return _score_published(record, [tag_of(c) for c in candidates], protocol)
    candidates = list(candidates)
    known = by_key(candidates)
    candidates += [tag for tag in record.tags if key(tag) not in known]
    written = read_names(record.caption, candidates)
    named = {key(tag): tag for _, _, tag in written.found()}
    shown = {key(known.get(key(tag), tag)): tag for tag in record.tags}  # a row may give a concept's name
    return CaptionScore(
        correct=tuple(shown[k] for k in shown if k in named),
        missed=tuple(shown[k] for k in shown if k not in named),
        hallucinated=tuple(named[k] for k in named if k not in shown),
        unknown=tuple(written.unknown()),
    )


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}: use one of {', '.join(PROTOCOLS)}")


def _score_published(record: CaptionRecord, candidates: Sequence[str], protocol: str) -> CaptionScore:
    """`score_caption` as in upstream's scripts, which differ in case and in what counts as another concept."""
    fold = str if protocol == "repic-2" else str.lower
    if protocol == "repic-single" and not record.tags:
        raise ValueError(
            f"{record.query}: has no tag, and repic-single looks for the first: use another protocol"
        )
    tags = record.tags[:1] if protocol == "repic-single" else record.tags
    tokens = {word.strip(_STRIP) for word in fold(record.caption.replace("</s>", "")).split()} - {""}
    known = dict.fromkeys((*candidates, *tags))
    said = {bare(fold(tag)) for tag in known if {fold(tag), bare(fold(tag))} & tokens}
    if protocol == "repic-single":
        others = [tag for tag in known if bare(fold(tag)) != bare(fold(tags[0]))]
    else:  # by the exact spelling, so <Thor> is not <thor>
        others = [tag for tag in known if tag not in tags]
    return CaptionScore(
        correct=tuple(tag for tag in tags if bare(fold(tag)) in said),
        missed=tuple(tag for tag in tags if bare(fold(tag)) not in said),
        hallucinated=tuple(tag for tag in others if bare(fold(tag)) in said),
    )


def names_to_find(
    records: Sequence[CaptionRecord], protocol: str, database: Iterable[Concept] | None
) -> list[Concept | str]:
    """The names that may be found: the ground truth of all records and, for `span`, the database's concepts."""
    known = {key(c.tag): c for c in database or ()} if protocol == "span" else {}
    tags = sorted({t for r in records for t in (r.tags[:1] if protocol == "repic-single" else r.tags)})
    named = by_key([*known.values()])
    return [*known.values(), *(tag for tag in tags if key(tag) not in named)]


def disagreements(
    records: Captions,
    first: str = "repic-4",
    second: str = "span",
    database: ConceptDatabase | None = None,
    n: int = 10,
) -> list[tuple[CaptionRecord, CaptionScore, CaptionScore]]:
    """The `n` records that best explain why two protocols differ, each with both results.

    A reason is a name that only one protocol finds, or a pair of different counts of wrong names. Each pick is the
    record whose reasons, of those not yet shown, occur most often in `records`. Once all are shown, they may be
    shown again.
    """
    records = scored_records(records)
    one, two = (score_captions(records, protocol, database) for protocol in (first, second))
    judged = list(zip(one.records, one.captions, two.captions, strict=True))
    reasons: dict[int, set[Any]] = {}
    for number, (_, one, two) in enumerate(judged):
        names = [{key(tag) for tag in (*s.correct, *s.hallucinated)} for s in (one, two)]
        reasons[number] = names[0] ^ names[1]
        wrong = tuple(s.predicted - s.correct for s in (one.score(first), two.score(second)))
        if wrong[0] != wrong[1]:
            reasons[number].add(wrong)
    often = Counter(reason for found in reasons.values() for reason in found)
    chosen: list[int] = []
    fresh = set(often)
    while len(chosen) < n and (left := [k for k in reasons if reasons[k] and k not in chosen]):
        best = max(left, key=lambda k: sum(often[reason] for reason in reasons[k] & fresh))
        chosen.append(best)
        fresh = (fresh - reasons[best]) or set(often)
    return [judged[number] for number in chosen]


def cells(scores: dict[str, Sequence[Score]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: precision, recall and F1 in percent, one row per file or method."""
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
