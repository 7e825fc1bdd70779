"""An editor for concept databases in a notebook: thumbnails, add, edit, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.display.caption_grid import concept_colors
from repic_core.display.cards import THEME, reference_cards
from repic_core.display.html import STYLE, concept_cards
from repic_core.io.images import open_image
from repic_core.io.uploads import open_upload, store_photo

# Concepts shown at most; a larger database is filtered.
SHOWN = 60
THUMBNAIL_PIXELS = 240


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, which keeps what is displayed as an output."""
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def has_frontend() -> bool:
    """Whether a person has this notebook open and can use widgets.

    A frontend says with each cell whether it can ask the user (``allow_stdin``). JupyterLab can; papermill and
    nbconvert can't.
    """
    from IPython import get_ipython

    if not in_notebook():
        return False
    return bool(get_ipython().kernel.get_parent().get("content", {}).get("allow_stdin"))


def concept_editor(database: ConceptDatabase, widgets: bool | None = None) -> Any:
    """What a notebook shows to edit `database`: the widget of a `ConceptEditor`, or cards of the first concepts.

    Args:
        widgets: whether to show the widget; by default `has_frontend`.
    """
    if widgets is None:
        widgets = has_frontend()
    if widgets:
        return ConceptEditor(database).widget
    return reference_cards(database)


def editable_copy(concepts: Iterable[Concept], folder: str | Path) -> ConceptDatabase:
    """A database in `folder` that may be edited: what is there, or else copies of `concepts` and their photos."""
    folder = Path(folder)
    path = folder / "database.json"
    if not path.exists():
        copies = [
            replace(concept, image=[store_photo(image, folder / "photos") for image in concept.images])
            for concept in concepts
        ]
        ConceptDatabase(copies, root=folder).save(path)
    return ConceptDatabase.load(path)


class ConceptEditor:
    """Widgets that change `database`, and its file if it has one, with each click.

    Photos are checked with `uploads.open_upload` and stored under ``photos`` in the database's root. Without a root
    and a file they stay in memory. Photos of replaced or deleted concepts are kept. A change that fails says why,
    and leaves database and file as they were. What other programs have written into the file is taken over.

    Args:
        database: changed in place.

    Attributes:
        widget: all of the editor, to display.
        choice: the tag of the concept in the form, or "" for a new one.
    """

    def __init__(self, database: ConceptDatabase) -> None:
        import ipywidgets as w

        self.database = database
        self.filter = w.Text(description="Filter", placeholder="name or info", continuous_update=False)
        self.cards, self.message = w.HTML(layout=w.Layout(max_height="26rem", overflow="auto")), w.HTML()
        self.choice = w.Dropdown(description="Concept")
        self.name = w.Text(description="Name")
        self.info = w.Textarea(description="Info", rows=2)
        self.photo = w.FileUpload(accept="image/*", description="Photo")
        self.add = w.Button(description="Add", button_style="primary")
        self.save = w.Button(description="Save changes")
        self.delete = w.Button(description="Delete", layout=w.Layout(width="auto"))
        form = [self.choice, self.name, self.info, self.photo, w.HBox([self.add, self.save, self.delete])]
        self.widget = w.VBox([self.filter, self.cards, *form, self.message])
        self.filter.observe(lambda _: self._show(self.choice.value), "value")
        self.add.on_click(lambda _: self._try(self._add))
        self.save.on_click(lambda _: self._try(self._save))
        self.delete.on_click(lambda _: self._try(self._delete))
        self.choice.observe(self._fill, "value")
        self._show("")

    def _show(self, chosen: str) -> None:
        """Show thumbnails and choices of the concepts that match the filter, with `chosen` in the form."""
        wanted = self.filter.value.casefold().strip()
        matching = [c for c in self.database if wanted in f"{c.tag} {c.name} {c.info}".casefold()]
        shown = matching[:SHOWN]
        colors = concept_colors(c.tag for c in shown)
        count = f"{len(shown)} of {len(self.database)} concepts"
        cards = concept_cards((replace(c, image=_thumbnail(c.images[0])) for c in shown), colors)
        self.cards.value = f'{STYLE}<div class="repic" {THEME}><p class="muted">{count}</p>{cards}</div>'
        before = self.choice.value
        self.choice.unobserve(self._fill, "value")
        self.choice.options = [("(a new concept)", ""), *((c.tag, c.tag) for c in shown)]
        self.choice.value = chosen if chosen in {c.tag for c in shown} else ""
        if self.choice.value != before:
            self._fill()
        self.choice.observe(self._fill, "value")

    def _fill(self, _: Any = None) -> None:
        """Fill the form with the chosen concept."""
        chosen = self.database[self.choice.value] if self.choice.value else None
        self._filled = chosen
        self.name.value = chosen.name if chosen else ""
        self.info.value = chosen.info if chosen else ""
        self.photo.value = ()
        self.save.disabled = self.delete.disabled = chosen is None
        self._calm()
        self.message.value = ""

    def _calm(self) -> None:
        self.delete.description, self.delete.button_style = "Delete", ""

    def _try(self, change: Callable[[], str]) -> None:
        """Carry out `change` and say what it did, or why not."""
        if change != self._delete:
            self._calm()
        try:
            with self.database.changing():
                said, kind = change(), "muted"
        except (ValueError, OSError) as error:
            said, kind = str(error), "missing"
        self.message.value = (
            f'{STYLE}<div class="repic" {THEME}><p class="{kind}" role="status">{escape(said)}</p></div>'
        )

    def _add(self) -> str:
        photo = self._uploaded()
        if photo is None:
            raise ValueError("a new concept needs a photo: choose one")
        added = Concept(name=self.name.value, image=photo, info=self.info.value)
        self._change([*self.database, added], added.tag)
        self._show(added.tag)
        return f"{added.tag} is added."

    def _save(self) -> str:
        tag = self.choice.value
        self._check_filled(tag)
        changed = ConceptDatabase(self.database)
        name = " ".join(self.name.value.split())
        renamed = changed.rename(tag, name) if name != changed[tag].name else changed[tag]
        photo = self._uploaded()
        edited = replace(renamed, info=self.info.value, image=renamed.image if photo is None else photo)
        self._change([edited if c.tag == renamed.tag else c for c in changed], edited.tag)
        self._show(edited.tag)
        self._fill()
        return f"{edited.tag} is saved."

    def _delete(self) -> str:
        tag = self.choice.value
        if self.delete.description == "Delete":
            self.delete.description, self.delete.button_style = f"Delete {tag}? Click again", "danger"
            return ""
        self._calm()
        self._check_filled(tag)
        self._change([c for c in self.database if c.tag != tag])
        self._show("")
        return f"{tag} is deleted."

    def _check_filled(self, tag: str) -> None:
        """`ConceptError` if another program has changed the concept that the form shows; it then shows that."""
        filled, now = self._filled, self.database[tag]
        fields = ("name", "info", "category", "images")
        if any(getattr(filled, field) != getattr(now, field) for field in fields):
            self._show(tag)
            self._fill()
            raise ConceptError(
                f"another program has changed {tag} meanwhile: the form shows it, change it again"
            )

    def _uploaded(self) -> Any:
        """The photo in the form, or None."""
        if not self.photo.value:
            return None
        return open_upload(bytes(self.photo.value[0]["content"]), self.photo.value[0]["name"])

    def _change(self, concepts: Iterable[Concept], new: str = "") -> None:
        """Give the database these `concepts` and save it; if that fails, everything is as before.

        The photo of the concept with the tag `new` is stored.
        """
        # A tag that is taken is refused here, before anything is written.
        wanted = ConceptDatabase(concepts)
        before, path = list(self.database), self.database.path
        root = self.database.root or (path.parent if path else None)
        folder = None if root is None else root / "photos"
        known = set(folder.glob("*")) if folder else set()
        stored = None
        if new and folder and not isinstance(wanted[new].images[0], str | Path):
            stored = store_photo(wanted[new].images[0], folder)
            wanted = [replace(c, image=str(stored)) if c.tag == new else c for c in wanted]
        try:
            _put(self.database, wanted)
            if path:
                self.database.save()
        except (ValueError, OSError):
            _put(self.database, before)
            if stored and stored not in known:
                stored.unlink()
            raise


def _put(database: ConceptDatabase, concepts: Iterable[Concept]) -> None:
    for concept in list(database):
        database.remove(concept.tag)
    for concept in concepts:
        database.add(concept)


def _thumbnail(image: Any) -> Any:
    """A small copy for the cards. An image that can't be read is returned as it is; its card says so."""
    try:
        if isinstance(image, str | Path):
            return _shrunk_file(str(image), Path(image).stat().st_mtime_ns)
        return _shrunk(image)
    except (OSError, ValueError):
        return image


@lru_cache(maxsize=4 * SHOWN)
def _shrunk_file(path: str, modified: int) -> Any:
    return _shrunk(path)


def _shrunk(image: Any) -> Any:
    return open_image(image, THUMBNAIL_PIXELS)
