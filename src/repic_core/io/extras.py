"""Optional packages: a missing one is a message with the command that adds it."""

from __future__ import annotations

import importlib.util


class MissingExtra(ValueError):
    """An optional package that is not installed; the message has the command that adds it."""


def need(module: str, extra: str) -> None:
    """Check that the optional package of `module` is installed; called right before it is imported.

    Args:
        module: as it is imported, such as ``qdrant_client``.
        extra: the name in ``[project.optional-dependencies]`` of ``pyproject.toml`` that brings it.

    Raises:
        MissingExtra: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        package = module.replace("_", "-")
        raise MissingExtra(
            f"{package} is not installed: pip install {package} "
            f"(in the .venv of setup.sh: bash setup.sh --with {extra})"
        )
