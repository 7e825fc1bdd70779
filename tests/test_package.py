"""`import repic_core` is light, and its lazy names are the real ones."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import repic_core

HEAVY = ("torch", "transformers", "trl", "peft", "gradio", "datasets", "matplotlib", "numpy", "pandas")


def modules_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


def test_import_loads_nothing_heavy():
    assert not modules_after("import repic_core") & set(HEAVY)


def test_runner_module_imports_nothing_heavy():
    assert not modules_after("import repic_core.notebooks, repic_core.notebooks.runner") & {
        *HEAVY,
        "papermill",
    }


@pytest.mark.parametrize("name", [name for name in repic_core.__all__ if name != "__version__"])
def test_lazy_name_is_the_modules_own(name):
    value = getattr(repic_core, name)
    assert value.__name__ == name
    assert value.__module__.startswith("repic_core.")
    assert name in dir(repic_core)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        repic_core.no_such_name  # noqa: B018


def test_recipes_are_package_data():
    recipes = Path(repic_core.__file__).parent / "training" / "recipes"
    assert {"paper.yaml", "toy.yaml"} <= {path.name for path in recipes.glob("*.yaml")}


def test_tests_stay_offline():
    with pytest.raises(OSError, match="tests stay offline"):
        socket.create_connection(("192.0.2.1", 9), timeout=1)  # an address reserved for documentation
