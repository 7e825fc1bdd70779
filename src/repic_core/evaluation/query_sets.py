"""A folder of photos to caption with the concepts that they show: the one layout of the toy world and of real data.

    database.json     the concepts
    queries.json      set -> [{"query": path, "references": tags in the prompt, "shown": tags in the photo}]
    settings.json     how a model is asked about them (`QuerySettings`)

Sets are called by their number of references in the prompt, such as ``4``; ``4 all`` shows all of them. Paths of
photos are relative to the folder, or to ``image_root`` in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.captioner.caption_files import DEFAULT_QUESTION, CaptionItem
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.files import read_json, write_json_atomic
from repic_core.io.paths import find_file
from repic_core.models.loading import PAPER_MAX_PIXELS

if TYPE_CHECKING:
    from repic_core.captioner.captioner import Captioner

Queries = Mapping[str, Sequence[Mapping[str, Any]]]


class QuerySetError(ValueError):
    """A folder that can't be used; the message names the file, the field and how to fix it."""


@dataclass(frozen=True)
class QuerySettings:
    """How a model is asked about the photos of a folder.

    Args:
        system: the system prompt: a key of `prompts.SYSTEM_PROMPTS`, a text, or None.
        max_new_tokens: of a caption.
        max_pixels: what `load_model` shrinks photos to; None for the processor's own limit.
        resized_by, reference_style: as in `captioner.Captioner`.
        questions: asked in turn, photo by photo.
        side: of photos in retrieval, in pixels; None for that of `TowerEmbedder`.
        image_root: what paths of photos are relative to; "" for the folder.
    """

    system: str | None = "evaluation"
    max_new_tokens: int = 1024
    max_pixels: int | None = None
    resized_by: str = "processor"
    reference_style: str = "tag"
    questions: tuple[str, ...] = (DEFAULT_QUESTION,)
    side: int | None = None
    image_root: str = ""

    def captioner(self, model: Any, processor: Any, **changes: Any) -> Captioner:
        """A `Captioner` that asks so; `changes` go to it, such as ``batch_size=50``."""
        from repic_core.captioner.captioner import Captioner

        names = ("system", "max_new_tokens", "resized_by", "reference_style")
        settings = {name: getattr(self, name) for name in names}
        return Captioner(model, processor, **{**settings, **changes})


# How the authors' evaluation scripts ask: their system prompt, limit of pixels and lines of references.
PUBLISHED = QuerySettings(max_pixels=PAPER_MAX_PIXELS, resized_by="qwen-vl-utils", reference_style="numbered")


@dataclass(frozen=True)
class QuerySet:
    """What `load_query_set` reads."""

    folder: Path
    database: ConceptDatabase
    queries: dict[str, list[dict[str, Any]]]
    settings: QuerySettings

    @property
    def root(self) -> Path:
        """What the photos' paths are relative to."""
        return self.folder / self.settings.image_root

    def items(self, label: str, limit: int | None = None) -> list[CaptionItem]:
        """What `Captioner.caption_many` takes, of the first `limit` queries of a set.

        Raises:
            QuerySetError: there is no such set; names those that there are.
        """
        if label not in self.queries:
            raise QuerySetError(
                f"{self.folder}/queries.json: has no set {label!r}, only {', '.join(self.queries)}"
            )
        asked = self.settings.questions
        return [
            CaptionItem(
                query=find_file(self.root, query["query"]),
                references=self.database.select(*query["references"]),
                question=asked[number % len(asked)],
                tags=query["shown"],
                label=query["query"],
            )
            for number, query in enumerate(self.queries[label][:limit])
        ]

    def captioner(self, model: Any, processor: Any, **changes: Any) -> Captioner:
        """A `Captioner` that asks as the settings say (`QuerySettings.captioner`)."""
        return self.settings.captioner(model, processor, **changes)


def load_query_set(folder: str | Path) -> QuerySet:
    """Read and check a folder; the photos of its queries are not opened.

    Raises:
        QuerySetError: a file is missing, or something in it can't be used.
        ConceptError: of the database.
    """
    folder = Path(folder)
    settings = _read_settings(folder / "settings.json")
    database = ConceptDatabase.load(folder / "database.json", folder / settings.image_root)
    queries = read_json(folder / "queries.json", QuerySetError)
    _check_queries(folder / "queries.json", queries, database)
    return QuerySet(folder, database, queries, settings)


def save_query_set(
    folder: str | Path, database: ConceptDatabase, queries: Queries, settings: QuerySettings
) -> QuerySet:
    """Write a folder and read it again; photos stay where they are, relative to `settings.image_root`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    database.save(folder / "database.json", folder / settings.image_root)
    write_json_atomic(folder / "queries.json", queries)
    write_settings(folder, settings)
    return load_query_set(folder)


def write_settings(folder: str | Path, settings: QuerySettings) -> Path:
    """Write the folder's ``settings.json``; returns its path."""
    return write_json_atomic(Path(folder) / "settings.json", asdict(settings))


def _read_settings(path: Path) -> QuerySettings:
    found = read_json(path, QuerySetError)
    known = {field.name for field in fields(QuerySettings)}
    if not isinstance(found, dict) or set(found) - known:
        strange = ", ".join(sorted(set(found) - known)) if isinstance(found, dict) else "no object"
        raise QuerySetError(f"{path}: {strange}: must be an object with some of {', '.join(sorted(known))}")
    asked = found.get("questions", [DEFAULT_QUESTION])
    if not isinstance(asked, list) or not asked or not all(isinstance(one, str) and one for one in asked):
        raise QuerySetError(f"{path}, questions: must be a list of questions, not {asked!r}")
    for name in ("max_new_tokens", "max_pixels", "side"):
        value = found.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise QuerySetError(f"{path}, {name}: must be a whole number above 0, not {value!r}")
    for name in ("system", "resized_by", "reference_style", "image_root"):
        if not isinstance(found.get(name, ""), str) and not (name == "system" and found[name] is None):
            raise QuerySetError(f"{path}, {name}: must be text, not {found[name]!r}")
    return QuerySettings(**{**found, "questions": tuple(asked)})


def _check_queries(path: Path, queries: Any, database: ConceptDatabase) -> None:
    if not isinstance(queries, dict) or not queries:
        raise QuerySetError(f"{path}: must be an object of sets with their queries")
    for label, listed in queries.items():
        if not isinstance(listed, list) or not listed:
            raise QuerySetError(f"{path}, {label!r}: must be a list of queries")
        for number, query in enumerate(listed, 1):
            where = f"{path}, {label!r}, query {number}"
            if not isinstance(query, dict) or not isinstance(query.get("query"), str) or not query["query"]:
                raise QuerySetError(f"{where}: needs 'query', the path of a photo")
            for name in ("references", "shown"):
                tags = query.get(name)
                if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                    raise QuerySetError(f"{where}, {name}: must be a list of tags, not {tags!r}")
                unknown = [tag for tag in tags if tag not in database]
                if unknown:
                    raise QuerySetError(f"{where}, {name}: {unknown[0]} is not in {database.path}")
