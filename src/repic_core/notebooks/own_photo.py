"""A photo of one's own with its concepts, as notebooks take the photos of a folder."""

from __future__ import annotations

from pathlib import Path

from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.query_sets import QuerySet, QuerySettings
from repic_core.models.loading import PAPER_MAX_PIXELS
from repic_core.models.toys import is_toy_model
from repic_core.notebooks.run_folder import Missing, given_path
from repic_core.toyworld.dataset import SETTINGS

# As many references as fit into a prompt.
MOST_REFERENCES = 7


def own_photo(
    photo: str | Path,
    database: str | Path,
    root: str | Path = "",
    model_name: str = "",
    label: str = "own",
) -> QuerySet:
    """One photo as a set of one query, asked about as suits the model, with up to `MOST_REFERENCES` references.

    Args:
        database: a concept database in the public format.
        root: what its paths of photos are relative to; "" for its folder.
        model_name: a toy model is asked without a system prompt, any other one with that of `inference` and photos
            within the published limit.
        label: what the set is called.

    Raises:
        Missing: one of photo and database is not given, or there is no such file.
        ConceptError: of the database.
    """
    if not str(photo) or not str(database):
        raise Missing("give both, a photo and the database of its concepts: photo = ..., database = ...")
    photo, database = given_path(photo), given_path(database)
    concepts = ConceptDatabase.load(database, root=given_path(root) if str(root) else None)
    tags = [concept.tag for concept in concepts][:MOST_REFERENCES]
    settings = QuerySettings(system="inference", max_pixels=PAPER_MAX_PIXELS)
    if model_name and is_toy_model(model_name):
        settings = SETTINGS
    query = {"query": str(photo.resolve()), "references": tags, "shown": tags}
    return QuerySet(database.parent, concepts, {label: [query]}, settings)
