"""Parameters of notebooks: the names that each has, files of values, values on a command line."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repic_core.io.files import read_text, read_yaml
from repic_core.notebooks.errors import NotebookError


def parameter_names(notebook: str | Path) -> list[str]:
    """The names that the cell tagged ``parameters`` of a notebook sets, in order.

    Raises:
        NotebookError: the file is no notebook.
    """
    try:
        cells = json.loads(read_text(Path(notebook), NotebookError, "a notebook"))["cells"]
        sources = [
            "".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ())
        ]
        body = [node for source in sources for node in ast.parse(source).body]
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise NotebookError(f"{notebook}: can't be run ({' '.join(str(error).split())[:200]})") from None
    return [node.targets[0].id for node in body if isinstance(node, ast.Assign)]


def read_profile(profile: str | Path, folder: str | Path) -> dict[str, Any]:
    """The values of a parameter file: one of ``<folder>/profiles`` by its name, such as ``quick``, or a path.

    Raises:
        NotebookError: there is no such file, or it holds no ``key: value`` lines.
    """
    profiles = Path(folder) / "profiles"
    path = Path(profile) if Path(profile).suffix else profiles / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in profiles.glob("*.yaml"))) or "none"
        raise NotebookError(f"{path}: no such parameter file; give the path of one, or a profile ({known})")
    return read_yaml(path, NotebookError)


def check_names(values: Mapping[str, Any], notebooks: Iterable[str | Path]) -> None:
    """`NotebookError` if a value has a name that none of the notebooks has as a parameter."""
    known = {name: None for notebook in notebooks for name in parameter_names(notebook)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise NotebookError(f"no notebook has a parameter {unknown[0]!r}; they have {', '.join(known)}")


def parse_value(text: str) -> Any:
    """A parameter as YAML reads it where that is a truth value or a number, else the text as it is.

    >>> parse_value("False"), parse_value("8"), parse_value("../RePIC"), parse_value("")
    (False, 8, '../RePIC', '')
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text
