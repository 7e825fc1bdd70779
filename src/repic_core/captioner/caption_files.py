"""Caption files: what is captioned, which rows are written, and how a file is read, checked and resumed.

A caption file is a JSON list of rows ``[query path, tags, caption, question]`` (the authors' format). A file beside
it (`settings_path`) records what its captions were made with, so that only the same run resumes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.concepts.tags import bare
from repic_core.io.files import read_json
from repic_core.io.images import image_hash
from repic_core.prompts import CAPTION_QUESTIONS

DEFAULT_QUESTION = CAPTION_QUESTIONS["single"][0]
ROW_FIELDS = ("query path", "tags", "caption", "question")
SETTINGS_SUFFIX = ".settings.json"
ADDED = ("chat template",)  # entries that older settings files do not have; then they are not compared
IMPLIED = {"reference style": "tag"}  # what entries are that older settings files do not have
START_AFRESH = "delete the file or write to another"


def caption_file(folder: str | Path, name: str) -> Path:
    """Where a folder keeps captions of one kind, such as those of a query set.

    >>> caption_file("runs/before", "4 all").name
    '4_all.json'
    """
    return Path(folder) / f"{name.replace(' ', '_')}.json"


@dataclass(frozen=True)
class CaptionItem:
    """One thing to caption.

    Args:
        query: path or PIL image; None asks the question without a photo.
        references: the concepts in the prompt, in order.
        tags: the row's tags (the concepts that the query shows); by default those of all references.
        label: the row's query path; by default `query` ("" if that is no path).
        reference_photos: False leaves the references' photos out of the prompt.

    Raises:
        ValueError: `tags` is one text instead of a list.
    """

    query: Any
    references: Sequence[Concept]
    question: str = DEFAULT_QUESTION
    tags: Sequence[str] | None = None
    label: str | None = None
    reference_photos: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.tags, str):
            raise ValueError(f"tags must be a list of tags, such as [{self.tags!r}], not one text")

    @property
    def shown(self) -> list[str]:
        """The row's tags."""
        return [concept.tag for concept in self.references] if self.tags is None else list(self.tags)


class CaptionFileError(ValueError):
    """A caption file that can't be used; the message names the file, the row and how to fix it."""


@dataclass(frozen=True)
class CaptionRecord:
    """One row of a caption file: `tags` are the concepts that the query shows."""

    query: str
    tags: tuple[str, ...]
    caption: str
    question: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.tags, str):  # else its letters would be tags
            object.__setattr__(self, "tags", (self.tags,))


# What functions take as captions: see `records_of`.
Captions = str | Path | Iterable[CaptionRecord | Sequence[Any] | Mapping[str, Any]]


def load_captions(path: str | Path) -> list[CaptionRecord]:
    """Read a caption file in the authors' row format; a fifth field and all after it are ignored.

    Raises:
        CaptionFileError: the file is missing, is not JSON (perhaps cut off) or holds a row of another form; names
            the file and the row.
    """
    path = Path(path)
    rows = read_json(path, CaptionFileError)
    if not isinstance(rows, list):
        raise CaptionFileError(f"{path}: must hold a list of rows [query, tags, caption, question]")
    return [_record(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def records_of(captions: Captions) -> list[CaptionRecord]:
    """Captions as people have them in hand, as records: a caption file, its rows, or records.

    A row is a list, as in the file, or an object with the fields ``query``, ``tags``, ``caption`` and, if there is
    one, ``question``.

    >>> records_of([["a.jpg", ["<bo>"], "<bo> naps."], {"query": "b.jpg", "tags": "<mia>", "caption": ""}])[1].tags
    ('<mia>',)

    Raises:
        CaptionFileError: as `load_captions`; or something else is given.
    """
    if isinstance(captions, str | Path):
        return load_captions(captions)
    if isinstance(captions, Mapping | CaptionRecord) or not isinstance(captions, Iterable):
        raise CaptionFileError(
            f"captions: must be the path of a caption file, or a list of its rows, not {str(captions)[:80]}"
        )
    return [_record(row, f"captions, row {number}") for number, row in enumerate(captions, 1)]


def scored_records(captions: Captions) -> list[CaptionRecord]:
    """`records_of` captions that can be scored.

    Raises:
        CaptionFileError: as `records_of`; there are none, or no row has a tag, so that nothing can be found.
    """
    records = records_of(captions)
    name = captions if isinstance(captions, str | Path) else "the list given"
    if not records:
        raise CaptionFileError(f"{name}: holds no captions, so there is nothing to score")
    if not any(record.tags for record in records):
        raise CaptionFileError(f"{name}: no caption has tags, so there are no names to look for")
    return records


def _record(row: Any, where: str) -> CaptionRecord:
    """A row of a caption file as a record; `CaptionFileError` says what is wrong with it, and `where`."""
    if isinstance(row, Mapping):
        missing = next((field for field in ("query", "tags", "caption") if field not in row), None)
        if missing:
            raise CaptionFileError(f"{where}, {missing}: is missing")
        row = [row["query"], row["tags"], row["caption"], row.get("question", "")]
    made_here = isinstance(row, CaptionRecord)
    if made_here:
        row = [row.query, row.tags, row.caption, row.question]
    if not isinstance(row, list | tuple) or len(row) < 3:
        raise CaptionFileError(f"{where}: must be [query, tags, caption, question], not {str(row)[:80]}")
    query, tags, caption, question = [*row, ""][:4]
    query = str(query) if isinstance(query, Path) else query
    tags = _tags_in(tags) if isinstance(tags, str) else tags
    named = isinstance(tags, list | tuple) and all(
        isinstance(tag, str) and bare(tag) and (made_here or _is_tag(tag)) for tag in tags
    )
    if not named or not (tags or made_here):  # a photo of strangers is a record, but has no row in a file
        raise CaptionFileError(f"{where}, tags: must be a list of tags like <bo>, not {str(tags)[:80]}")
    for field, value in (("query", query), ("caption", caption), ("question", question)):
        if not isinstance(value, str):
            raise CaptionFileError(f"{where}, {field}: must be text, not {str(value)[:80]}")
    return CaptionRecord(_file_name(query), tuple(map(whole, tags)), whole(caption), whole(question))


def _tags_in(text: str) -> list[str]:
    """The tags in one text, as tables have them: ``["<bo>", "<mia>"]``, ``<bo>, <mia>``, or one tag."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
            return found if isinstance(found, list) else [text]
        except ValueError:
            return [text]
    found = re.findall(r"<[^<>]*>", text)
    return found if len(found) > 1 and not re.sub(r"<[^<>]*>|[\s,;]", "", text) else [text]


def _is_tag(text: str) -> bool:
    """Whether a text is one tag, or one name without brackets (and without commas, which would be a list)."""
    return bool(re.fullmatch(r"\s*(?:<[^<>/|][^<>]*>|[^<>,\[\]]+)\s*", text))


def _file_name(path: str) -> str:
    """`path`, which may be that of a file whose name is not UTF-8; `whole` if no file can have this name."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return whole(path)
    return path


def whole(text: str) -> str:
    """`text` with half a surrogate pair (an emoji that a program cut in two) as U+FFFD, which can be written.

    >>> whole("a dog \\ud83d")
    'a dog \ufffd'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def settings_path(out: str | Path) -> Path:
    """The path of the settings that the caption file `out` was made with; no two files share one.

    >>> settings_path("a.json").name, settings_path("a.txt").name
    ('a.settings.json', 'a.txt.settings')
    """
    out = Path(out)
    return out.with_name(f"{out.stem}{SETTINGS_SUFFIX}" if out.suffix == ".json" else f"{out.name}.settings")


def _found_settings(out: Path) -> Path:
    """`settings_path`; or the name that the settings of files other than ``.json`` had before, if it is its own."""
    path, old = settings_path(out), out.with_suffix(SETTINGS_SUFFIX)
    is_anothers = out.with_suffix(".json").exists()
    return old if not path.exists() and old.exists() and not is_anothers else path


def check_settings(out: Path, settings: dict[str, Any], finished: int) -> None:
    """Raise `ValueError` if the first `finished` rows of `out` were made with different settings."""
    path = _found_settings(out)
    if not path.exists():
        raise ValueError(
            f"{out}: no {path.name} beside it, so how its captions were made is unknown: {START_AFRESH}"
        )
    try:
        old = {**IMPLIED, **read_json(path, ValueError)}
        compared = [k for k in settings if k not in ("model", "items") and (k in old or k not in ADDED)]
        changed = [k for k in compared if old[k] != settings[k]]
        row = next((i for i in range(finished) if old["items"][i] != settings["items"][i]), None)
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(f"{path}: not the settings of {out.name}'s captions: {START_AFRESH}") from None
    if changed:
        name = changed[0]
        was, now = (f"{s['model']}, {s[name]}" if name == "weights" else s[name] for s in (old, settings))
        raise ValueError(
            f"{out}: made with different settings ({name} was {was!r}, is {now!r}): {START_AFRESH}"
        )
    if row is not None:
        raise ValueError(
            f"{out}, row {row + 1}: made with a different photo, reference, info or question: {START_AFRESH}"
        )


def item_hashes(items: Sequence[CaptionItem], reference_style: str = "tag") -> list[str]:
    """A hash for each item, of the bytes of its photos (each file is read once) and of its texts in the prompt."""
    files: dict[str, str] = {}

    def hash_once(image: Any) -> str:
        if not isinstance(image, str | Path):
            return "" if image is None else image_hash(image)
        if str(image) not in files:
            try:
                files[str(image)] = image_hash(image)
            except OSError:  # reported when the item is captioned
                files[str(image)] = "unreadable"
        return files[str(image)]

    hashes, called = [], "name" if reference_style == "numbered" else "tag"
    for item in items:
        references = [[getattr(c, called), c.info, *map(hash_once, c.images)] for c in item.references]
        parts = json.dumps([hash_once(item.query), references, item.question, item.reference_photos])
        hashes.append(hashlib.sha256(parts.encode()).hexdigest())
    return hashes


def text_hash(value: Any) -> str:
    """A short hash of a text, or of what else JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def caption_row(item: CaptionItem, caption: str) -> list[Any]:
    """The row of a caption file for `item`.

    >>> caption_row(CaptionItem("a.jpg", [], tags=["<bo>"]), "<bo> naps.")
    ['a.jpg', ['<bo>'], '<bo> naps.', 'Give a personalized caption of this image.']
    """
    label = item.label
    if label is None:
        label = str(item.query) if isinstance(item.query, str | Path) else ""
    return [str(label), item.shown, caption, item.question]


def finished_rows(items: Sequence[CaptionItem], out: Path, settings: dict[str, Any]) -> list[list[Any]]:
    """The rows that `out` already holds, checked against the first of `items` and against `settings`.

    Raises:
        ValueError: the file is cut off, or its rows are not those of `items` or were made with different settings.
    """
    rows = read_json(out, CaptionFileError)
    if not isinstance(rows, list):
        raise ValueError(f"{out}: is not a list of caption rows: {START_AFRESH}")
    if len(rows) > len(items):
        raise ValueError(f"{out}: holds {len(rows)} rows, but {len(items)} are asked for: {START_AFRESH}")
    for number, (row, item) in enumerate(zip(rows, items, strict=False), 1):
        where = f"{out}, row {number}"
        if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str):
            raise ValueError(f"{where}: not [query path, tags, caption, question]: {START_AFRESH}")
        for field, old, new in zip(ROW_FIELDS, row, caption_row(item, row[2]), strict=True):
            if old != new:
                raise ValueError(f"{where}: its {field} is {old!r}, but {new!r} is asked for: {START_AFRESH}")
    if rows:
        check_settings(out, settings, len(rows))
    return rows
