"""Paths of the kit mean the same from any folder; a person's are relative to where they are."""

from pathlib import Path

import pytest

from helpers.places import ROOT
from repic_core.io import kit
from repic_core.io.kit import kit_path, kit_root


def test_the_checkout_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kit_root() == ROOT
    assert kit_path("pyproject.toml") == ROOT / "pyproject.toml"
    assert kit_path("assets/none") == Path("assets/none")
    assert kit_path("Qwen/Qwen2.5-VL-7B-Instruct") == Path("Qwen/Qwen2.5-VL-7B-Instruct")


def test_what_is_there_where_the_user_is_comes_first(tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    monkeypatch.chdir(tmp_path)
    assert kit_path("assets") == Path("assets")
    assert kit_path(tmp_path / "assets") == tmp_path / "assets"


def test_an_installed_package_finds_the_checkout_that_it_is_used_in(tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "__file__", str(tmp_path / "site-packages" / "kit.py"))
    monkeypatch.chdir(tmp_path)
    assert kit_root() is None and kit_path("assets") == Path("assets")
    for part in ("assets", "notebooks"):
        (tmp_path / "clone" / part).mkdir(parents=True)
    (tmp_path / "clone" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "clone" / "notebooks")
    assert kit_root() == tmp_path / "clone"
    assert kit_path("assets") == tmp_path / "clone" / "assets"


@pytest.mark.parametrize("name", ["model", "recipe", "toy"])
def test_models_recipes_and_the_toys_defaults_are_found_from_another_folder(name, tmp_path, monkeypatch):
    from repic_core.models.loading import existing
    from repic_core.models.toys import is_toy_model
    from repic_core.training.recipe import recipe_path

    monkeypatch.chdir(tmp_path)
    if name == "model":
        assert existing("assets/toy-base", "model") == str(ROOT / "assets/toy-base")
    elif name == "recipe":
        file = "src/repic_core/training/recipes/toy.yaml"
        assert recipe_path(file) == ROOT / file
    else:
        assert is_toy_model("assets/toy-base")
