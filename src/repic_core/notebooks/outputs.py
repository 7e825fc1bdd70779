"""Outputs that are committed with their notebooks: cleaned, small, and tied to the source that made them.

A notebook with outputs records a hash of its cells' source. Where it is another one, the outputs are of another
notebook, and ``repic notebooks --render`` makes them again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repic_core.io.files import replaced
from repic_core.io.kit import kit_root
from repic_core.notebooks.errors import NotebookError
from repic_core.notebooks.run_folder import DEFAULT_RUN
from repic_core.notebooks.runner import find_notebooks, run_all

RECORD = "repic"  # the key in a notebook's metadata, for {"source": hash}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MAX_WIDTH = 1000  # pixels of a picture that is committed
MAX_BYTES = 4_000_000  # of all notebooks together
WIDGET = "application/vnd.jupyter.widget-view+json"
TEXTS = ("text/plain", "text/html", "text/markdown", "text/latex")
STYLER = re.compile(r"\bT_[0-9a-f]{5}(?=_|\b)")  # pandas' random id of a styled table
DATA_URI = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")
# In HTML, what a reader sees is outside of tags and of style sheets.
UNSEEN = re.compile(r"(<style.*?</style>|<script.*?</script>|<[^>]*>)", re.DOTALL)
SECONDS = re.compile(r"\b\d+(?:\.\d+)?(?=\s(?:ms|s|seconds?|minutes?|min)\b)")
# What must not be in an output, and why.
FAULTS = {
    re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|mnt|var|opt)/[\w.-]+"): "an absolute path",
    re.compile(r"\b[A-Z]:\\\w"): "an absolute path",
    re.compile(r"\bat 0x[0-9a-f]{6,}"): "an object's address",
    re.compile(r"(?:127\.0\.0\.1|localhost):\d+"): "a local server's address",
    re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d"): "a time of day",
    re.compile(r"\b\w*Warning:"): "a warning",
    re.compile(r"^\{'\w", re.MULTILINE): "a raw dictionary",
}


def read_notebook(path: str | Path) -> Any:
    """A notebook as nbformat's node.

    Raises:
        NotebookError: the file is no notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise NotebookError(f"{path}: can't be read ({' '.join(str(error).split())[:200]})") from None


def write_notebook(book: Any, path: str | Path) -> None:
    """Write `book` with the hash of its source."""
    import nbformat

    book.metadata[RECORD] = {"source": source_hash(book)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replaced(Path(path)) as file:
        file.write(nbformat.writes(book, version=4).rstrip("\n").encode() + b"\n")


def source_hash(book: Any) -> str:
    """SHA-256 of the types and sources of a notebook's cells; outputs and metadata do not count."""
    cells = [[cell.cell_type, cell.source] for cell in book.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def recorded_source(book: Any) -> str | None:
    """The hash that `write_notebook` has recorded; None in a notebook that has none."""
    return book.metadata.get(RECORD, {}).get("source")


def render(folder: str | Path, run_dir: str | Path, echo: Callable[[str], None] = print) -> None:
    """Run the notebooks of `folder` with their own parameters, and write their cleaned outputs into them.

    Args:
        run_dir: is emptied first, so that nothing of an earlier run gets into the outputs.

    Raises:
        NotebookError: a notebook fails, or an output can't be committed; all such are named, nothing is written.
    """
    shutil.rmtree(run_dir, ignore_errors=True)
    executed = run_all(folder, run_dir, {}, echo)
    books = {
        path: with_outputs(path, ran) for path, ran in zip(find_notebooks(folder), executed, strict=True)
    }
    faults = [f"{path.name}: {fault}" for path, book in books.items() for fault in output_faults(book)]
    if faults:
        raise NotebookError("\n  ".join(["outputs that can't be committed:", *faults]))
    for path, book in books.items():
        write_notebook(book, path)
        echo(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


def with_outputs(notebook: str | Path, executed: str | Path) -> Any:
    """A notebook with the outputs of papermill's run of it, cleaned as `clean_outputs` says.

    Args:
        executed: the copy in ``<run_dir>/notebooks``. The folder of the run is written as ``runs/tiny``, which is
            what the notebook's own parameters make.

    Raises:
        NotebookError: the executed copy is of another source.
    """
    import nbformat

    book, ran = read_notebook(notebook), read_notebook(executed)
    cells = [cell for cell in ran.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    if [cell.source for cell in cells] != [cell.source for cell in book.cells]:
        raise NotebookError(f"{executed}: is not a run of {notebook} as it is now; run it again")
    for cell, one in zip(book.cells, cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = one.outputs
    clean_outputs(book, Path(executed).resolve().parent.parent)
    book.metadata = nbformat.from_dict(METADATA)
    return book


def drop_progress(book: Any) -> None:
    """Take progress bars and widgets (of which a saved notebook keeps nothing) out of the outputs, in place."""
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]


def clean_outputs(book: Any, run_dir: Path | None = None) -> None:
    """Make the outputs of `book` fit to be committed, in place.

    Progress bars and widgets go, counts are those of one run from the top, paths are relative to the checkout,
    durations become ``…``, pictures have at most 256 colours and `MAX_WIDTH` pixels. The identifiers of styled
    tables are numbered.
    """
    folders = {}
    if run_dir is not None:
        folders[str(run_dir)] = f"runs/{DEFAULT_RUN}"
    root = kit_root()
    if root is not None:
        folders |= {f"{root}/": "", str(root): "."}
    tables: dict[str, str] = {}
    drop_progress(book)
    number = 0
    for cell in book.cells:
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if output.output_type == "stream":
                output.text = _clean_text(output.text, folders)
            for kind, content in output.get("data", {}).items():
                output.data[kind] = _clean(kind, content, folders, tables)


def output_faults(book: Any) -> list[str]:
    """What is wrong with the outputs of `book`, a line each: errors, stderr, and what `FAULTS` names."""
    found = []
    for number, cell in enumerate((one for one in book.cells if one.cell_type == "code"), start=1):
        if cell.execution_count != number:
            found.append(f"code cell {number} has the count {cell.execution_count}")
        for output in cell.outputs:
            found += [f"code cell {number} {fault}" for fault in red_faults(output)]
            data = output.get("data", {"": output.get("text", "")})
            for text in (DATA_URI.sub("", data[kind]) for kind in ("", *TEXTS) if kind in data):
                for pattern, what in FAULTS.items():
                    match = pattern.search(text)
                    if match:
                        found.append(f"code cell {number} shows {what}: {match[0]}")
    return found


def red_faults(output: Any) -> list[str]:
    """What a reader sees in red: an error, or text on stderr."""
    if output.output_type == "error":
        return [f"stopped with {output.ename}: {output.evalue}"]
    if output.output_type == "stream" and output.name == "stderr":
        return [f"wrote on stderr: {output.text.strip()[:100]}"]
    return []


def seen_texts(output: Any) -> list[str]:
    """What a reader of an output sees as text: each form that it has, HTML without its tags."""
    if output.output_type == "stream":
        return [output.text]
    data = output.get("data", {})
    return [
        UNSEEN.sub(" ", data[kind]) if kind == "text/html" else data[kind] for kind in TEXTS if kind in data
    ]


def _is_progress(output: Any) -> bool:
    """Whether an output is a widget (of which a saved notebook keeps nothing) or a progress bar as text."""
    if output.output_type == "stream":
        lines = [line for line in re.split(r"[\r\n]", output.text) if line.strip()]
        return output.name == "stderr" and all(re.search(r"\d+%\||\dit/s|\ds/it|it \[", one) for one in lines)
    return WIDGET in output.get("data", {})


def _clean(kind: str, content: Any, folders: Mapping[str, str], tables: dict[str, str]) -> Any:
    if kind == "image/png":
        return base64.b64encode(small_png(base64.b64decode(content))).decode()
    if kind not in TEXTS:
        return content
    if kind != "text/html":
        return _clean_text(content, folders)
    content = STYLER.sub(lambda found: tables.setdefault(found[0], f"T_{len(tables)}"), content)
    parts = UNSEEN.split(_without(folders, content))
    content = "".join(part if UNSEEN.fullmatch(part) else SECONDS.sub("…", part) for part in parts)
    return DATA_URI.sub(_small_uri, content)


def _clean_text(text: str, folders: Mapping[str, str]) -> str:
    return SECONDS.sub("…", _without(folders, text))


def _without(folders: Mapping[str, str], text: str) -> str:
    for folder, name in folders.items():
        text = text.replace(folder, name)
    return text


def _small_uri(match: re.Match[str]) -> str:
    small = small_png(base64.b64decode(match[1]))
    if len(small) >= len(match[1]) * 3 // 4:
        return match[0]
    return f"data:image/png;base64,{base64.b64encode(small).decode()}"


def small_png(data: bytes) -> bytes:
    """A picture as a PNG of at most 256 colours and `MAX_WIDTH` pixels in width; as it is where that is smaller."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    if image.mode == "P" and image.width <= MAX_WIDTH:
        return data
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    wide = image.width > MAX_WIDTH
    if wide:
        image = image.resize(
            (MAX_WIDTH, round(image.height * MAX_WIDTH / image.width)), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue() if wide or buffer.tell() < len(data) else data
