"""One page that leads to all that a run has made: the notebooks as HTML, figures, tables.

The pages load nothing from elsewhere: no fonts, no scripts, no formulas. Long code is behind a fold.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from repic_core.io.files import replaced
from repic_core.notebooks.outputs import drop_progress, read_notebook

FOLD = 6  # lines of code that are shown unfolded at most
TEMPLATE = (
    """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_css -%}
<style>main { max-width: 64rem; margin: auto; }
summary { color: #59636e; cursor: pointer; font: 13px system-ui, sans-serif; }</style>
{%- endblock -%}
{%- block body_header -%}{{ super() }}<p><a href="../index.html">All notebooks</a></p>{%- endblock -%}
{%- block input -%}
{%- set lines = cell.source.splitlines() | length -%}
{%- if 'parameters' not in cell.metadata.get('tags', []) and lines > """
    + str(FOLD)
    + """ -%}
<details><summary>{{ lines }} lines of code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output"><img src="data:image/png;base64,{{ output.data['image/png'] }}"
alt="{{ (output | get_metadata('alt', 'image/png') or output.data['text/plain'] or 'A figure.') | e }}"></div>
{%- endblock -%}
"""
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
h2 { border-top: 1px solid #d1d9e0; padding-top: 1rem; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; max-height: 26rem; }
figcaption, .muted { color: #59636e; font-size: 0.9em; }
table { border-collapse: collapse; }
td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #d1d9e0; }
td:first-child, th:first-child { text-align: left; }
"""


def write_pages(run_dir: str | Path, executed: Sequence[Path], table: Sequence[Sequence[str]] = ()) -> Path:
    """Write ``index.html`` of a run and its executed notebooks as HTML beside them; returns the index.

    Args:
        executed: papermill's copies in ``<run_dir>/notebooks``, absolute.
        table: of `results.results_table`; none for no table.
    """
    index, run_dir = Path(run_dir) / "index.html", Path(run_dir).resolve()
    parts = [f"<h1>What the notebooks made</h1>{_table(table)}"]
    for path in executed:
        page = _write_html(path.resolve())
        parts.append(_section(run_dir, path.stem, page, read_notebook(path)))
    head = f'<meta charset="utf-8"><title>RePIC kit: notebooks</title><style>{STYLE}</style>'
    with replaced(index) as file:
        file.write(
            f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'.encode()
        )
    return index


def open_page(page: Path) -> bool:
    """Open `page` in a browser where a person sees it: from a terminal, on a machine with a display."""
    import webbrowser

    displays = (os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    display = sys.platform in ("darwin", "win32") or any(displays)
    return display and sys.stdout.isatty() and webbrowser.open(page.resolve().as_uri())


def _write_html(path: Path) -> Path:
    """An executed notebook as one HTML file beside it."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        raw_template=TEMPLATE,
        exclude_anchor_links=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    book = read_notebook(path)
    drop_progress(book)
    html, _ = exporter.from_notebook_node(book, resources={"metadata": {"name": path.stem}})
    page = path.with_suffix(".html")
    with replaced(page) as file:
        file.write(html.encode())
    return page


def _section(run_dir: Path, name: str, page: Path, book: Any) -> str:
    """A notebook's title and first words, its figures and its other files."""
    opening = next((cell.source for cell in book.cells if cell.cell_type == "markdown"), name)
    title, _, rest = opening.partition("\n")
    words = next((part for part in rest.split("\n\n") if part.strip()), "")
    link = page.relative_to(run_dir).as_posix()
    parts = [f'<h2><a href="{escape(link)}">{escape(title.lstrip("# "))}</a></h2><p>{_plain(words)}</p>']
    for figure in sorted((run_dir / name / "figures").glob("*.png")):
        place = escape(figure.relative_to(run_dir).as_posix())
        said = escape(alternative_text(figure))
        parts.append(
            f'<figure><a href="{place}"><img loading="lazy" src="{place}" alt="{said}"></a>'
            f"<figcaption>{escape(figure.stem.replace('_', ' '))}</figcaption></figure>"
        )
    kinds = ("*.json", "*.csv", "*.tex", "figures/*.pdf")
    files = sorted(file for kind in kinds for file in (run_dir / name).glob(kind))
    links = (f'<a href="{escape(f.relative_to(run_dir).as_posix())}">{escape(f.name)}</a>' for f in files)
    return "".join([*parts, f'<p class="muted">{" · ".join(links)}</p>' if files else ""])


def alternative_text(figure: Path) -> str:
    """What a PNG says of itself, or else its name in words."""
    from PIL import Image

    with Image.open(figure) as image:
        return image.info.get("Description") or f"Figure: {figure.stem.replace('_', ' ')}"


def _plain(markdown: str) -> str:
    """A paragraph of a notebook as HTML, without its inline marks."""
    return escape(markdown.replace("**", "").replace("`", "").replace("*", ""))


def _table(table: Sequence[Sequence[str]]) -> str:
    if len(table) < 2:
        return ""
    head, *body = table
    rows = [f"<tr>{''.join(f'<th scope=col>{escape(cell)}</th>' for cell in head)}</tr>"]
    rows += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in body]
    return f"<table>{''.join(rows)}</table>"
