"""HTML of both pages: concept cards, captions with coloured names, photos.

Whatever comes from a file or a visitor (names, infos, captions, questions, methods) is escaped here. Photos are
embedded as data, so that none is served from its path. Gradio itself serves only its own cache: the photos that
visitors upload, and copies of the examples.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import whole
from repic_core.concepts.concept import Concept
from repic_core.concepts.tags import fold, key
from repic_core.display.named_pieces import named_pieces
from repic_core.io.images import open_image

# Longest side of an embedded photo.
PHOTO_PIXELS = 768
# A photo up to this size is drawn pixel by pixel, as those of the toy world are.
SMALL_PIXELS = 200

# Colours are Gradio's variables, so that light and dark follow its theme.
STYLE = """<style>
.repic { --muted: #52525b; --error: #b91c1c; color: var(--body-text-color); line-height: 1.5;
  overflow-wrap: anywhere; font-size: .95rem; }
.dark .repic { --muted: #a1a1aa; --error: #fca5a5; }
.repic h1 { font-size: 1.4rem; font-weight: 700; margin: 0 0 .5rem; }
.repic * { box-sizing: border-box; }
.repic figure, .repic h3, .repic p { margin: 0; }
.repic img { display: block; width: 100%; border-radius: 6px; }
.repic img.pixels { image-rendering: pixelated; }
.repic .empty { display: grid; place-items: center; min-height: 9rem; padding: .5rem; border-radius: 6px;
  background: var(--background-fill-secondary); color: var(--muted); font-size: .85rem;
  text-align: center; }
.repic .top { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 7fr); gap: 1rem; }
.repic .query img { max-height: 22rem; object-fit: contain; background: var(--background-fill-secondary); }
.repic .query figcaption { padding-top: .4rem; color: var(--muted); }
.repic .concepts { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .75rem;
  align-content: start; }
.repic .concept img { aspect-ratio: 1; object-fit: contain; border: 4px solid var(--concept);
  background: var(--background-fill-secondary); }
.repic .concept .empty { border: 4px solid var(--concept); aspect-ratio: 1; min-height: 0; }
.repic .concept figcaption { padding-top: .35rem; font-size: .85rem; }
.repic .concept p { color: var(--muted); display: -webkit-box; overflow: hidden;
  -webkit-box-orient: vertical; -webkit-line-clamp: 4; }
.repic .concept p:hover, .repic .concept p:focus { -webkit-line-clamp: none; }
#repic-query img { object-fit: contain !important; }
.repic.preview img { max-height: 12rem; width: auto; max-width: 100%; margin-bottom: .5rem; }
.repic .captions { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(13.5rem, 100%), 1fr));
  gap: .75rem; margin-top: 1rem; }
.repic .card { padding: .75rem .9rem; border: 1px solid var(--border-color-primary, #d4d4d8); border-radius: 8px;
  background: var(--block-background-fill); }
.repic .card h3 { font-size: .95rem; font-weight: 700; display: flex; flex-wrap: wrap; gap: 0 .5rem;
  justify-content: space-between; margin-bottom: .3rem; color: inherit; }
.repic .card h3 span, .repic .muted { color: var(--muted); font-weight: 400; }
.repic .name { color: #fff; background: var(--concept); border-radius: 4px; padding: 0 .3em;
  font-weight: 600; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.repic .missing { margin-top: .4rem; font-size: .85rem; }
.repic .missing, .repic del { color: var(--error); }
.repic .scores { margin-top: .4rem; font-size: .8rem; color: var(--muted); }
.repic .scroll { overflow-x: auto; }
.repic table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%;
  white-space: nowrap; }
.repic th, .repic td { padding: .25rem .6rem; text-align: right; border: 0;
  border-bottom: 1px solid var(--border-color-primary, #d4d4d8); color: inherit; font-size: .9rem; }
.repic th { font-weight: 600; }
.repic th:first-child { text-align: left; }
.repic thead tr:first-child th { text-align: center; color: var(--muted); }
.repic td.best { font-weight: 700; }
.gradio-container button[role="tab"][aria-selected="true"] { color: var(--body-text-color); }
@media (max-width: 640px) {
  .repic .top { grid-template-columns: minmax(0, 1fr); }
  .repic .concepts { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .repic th, .repic td { padding: .25rem .3rem; font-size: .8rem; }
  .repic th:first-child { white-space: normal; overflow-wrap: break-word; min-width: 6rem; }
}
</style>"""


def photo(image: Any, alt: str) -> str:
    """An ``<img>`` with the photo in it, or a placeholder that says why there is none."""
    from PIL import Image

    try:
        source = _data_uri(str(image)) if isinstance(image, str | Path) else _encode(image)
    except (ValueError, Image.DecompressionBombError):
        name = Path(image).name if isinstance(image, str | Path) else "the photo"
        label = f'role="img" aria-label="{escape(alt)}"'
        return f'<div class="empty" {label}>{escape(whole(name))} is missing or unreadable</div>'
    drawn = ' class="pixels"' if source.startswith("data:image/png") else ""
    return f'<img{drawn} alt="{escape(alt)}" src="{source}">'


@lru_cache(maxsize=128)
def _data_uri(path: str) -> str:
    return _encode(path)


def _encode(image: Any) -> str:
    opened = open_image(image)
    kind = "png" if max(opened.size) <= SMALL_PIXELS else "jpeg"
    opened.thumbnail((PHOTO_PIXELS, PHOTO_PIXELS))
    # Nothing of the EXIF and comments, with place and time, is written.
    opened.info.clear()
    buffer = io.BytesIO()
    opened.save(buffer, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def tag_choices(concepts: Iterable[Concept]) -> list[tuple[str, str]]:
    """(text, tag) of each concept, for a dropdown. The text is the tag, with the name before it if they differ."""
    choices = []
    for concept in concepts:
        same = concept.name == concept.tag.strip("<>")
        choices.append((concept.tag if same else f"{concept.name} {concept.tag}", concept.tag))
    return choices


def counted(number: int, noun: str) -> str:
    """A number with its noun in singular or plural.

    >>> counted(1, "row"), counted(3, "row")
    ('1 row', '3 rows')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def concept_cards(concepts: Iterable[Concept], colors: Mapping[str, str]) -> str:
    """A card for each concept: its photo framed in its colour, its tag, its name if it differs, and its info."""
    cards = []
    for concept in concepts:
        same = fold(concept.name) == key(concept.tag)
        cards.append(
            f'<figure class="concept" style="--concept: {colors[concept.tag]}">'
            f"{photo(concept.images[0], f'Reference photo of {concept.name}')}"
            f'<figcaption><span class="name">{escape(concept.tag)}</span>'
            f"{'' if same else ' ' + escape(concept.name)}"
            f'<p tabindex="0">{escape(concept.info)}</p></figcaption></figure>'
        )
    return f'<div class="concepts">{"".join(cards)}</div>'


def color_names(
    caption: str, tags: Sequence[str], colors: Mapping[str, str], candidates: Iterable[Concept]
) -> tuple[str, list[str]]:
    """`caption` as HTML, and the tags that it misses.

    A name of `candidates` has its concept's colour if the photo shows the concept (`tags`); otherwise it is struck
    out, as is a name in brackets that none of them has.
    """
    pieces, missing = named_pieces(caption, tags, candidates)
    parts = []
    for piece, tag in pieces:
        text = escape(piece)
        if tag:
            text = f'<span class="name" style="--concept: {colors[tag]}">{text}</span>'
        elif tag == "":
            text = f'<del title="not in the photo">{text}</del>'
        parts.append(text)
    return "".join(parts), missing


def caption_card(
    method: str,
    caption: str | None,
    tags: Sequence[str],
    colors: Mapping[str, str],
    candidates: Iterable[Concept],
    missing_label: str = "Missing",
    scores: str = "",
) -> str:
    """A card with a method's caption, how many names of `tags` it has, which ones it misses, and its scores."""
    method = whole(method)
    if caption is None:
        return f'<article class="card"><h3>{escape(method)}</h3><p class="muted">no caption</p></article>'
    # RAP's captions end with "</s>".
    caption = whole(caption).replace("</s>", "").strip()
    text, missing = color_names(caption, tags, colors, candidates)
    count = f"<span>{len(tags) - len(missing)} of {len(tags)} names</span>" if tags else ""
    note = f'<p class="missing">{missing_label}: {escape(", ".join(missing))}</p>' if missing else ""
    note += f'<p class="scores">{escape(scores)}</p>' if scores else ""
    body = f"<p>{text}</p>" if caption else '<p class="muted">empty</p>'
    return f'<article class="card"><h3>{escape(method)}{count}</h3>{body}{note}</article>'
