"""``python -m repic_core.demo``: what it loads and launches, and what it says of bad input."""

import pytest

from repic_core.demo.__main__ import main
from repic_core.models import PAPER_MAX_PIXELS


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_command_says_what_is_wrong(folder, capsys):
    database = ("--root", folder, "--database", folder / "database.json")
    (folder / "half.json").write_text((folder / "ours.json").read_text()[:200])
    bad = {
        "half.json": ("viewer", *database, "--captions", folder / "half.json"),
        "none.json": ("viewer", *database, "--captions", folder / "none.json"),
        "NAME=FILE": ("viewer", *database, "--captions", folder / "ours.json", folder / "x" / "ours.json"),
        "needs --database": ("viewer", "--captions", folder / "ours.json"),
        "quad_concept": ("viewer", "--root", folder),
        "database.json": ("live", "--model", "none", "--database", folder / "no" / "database.json"),
    }
    for message, arguments in bad.items():
        assert run(*arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.startswith("failed: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "limit"),
    [((), PAPER_MAX_PIXELS), (("--max-pixels", 9216), 9216), (("--max-pixels", 0), None)],
)
def test_live_loads_with_the_published_image_limit(folder, monkeypatch, options, limit):
    loaded, launched = {}, []

    def load(name, **settings):
        loaded.update(settings, name=name)
        return None, None

    monkeypatch.setattr("repic_core.models.load_model", load)
    monkeypatch.setattr("repic_core.demo.launch", lambda app, **settings: launched.append(settings))
    assert run("live", "--model", "m", "--database", folder / "database.json", *options) == 0
    assert loaded == {"name": "m", "adapter": None, "max_pixels": limit} and launched == [
        {"server_port": None}
    ]


def test_the_command_serves_a_page_that_finds(folder, monkeypatch, tmp_path):
    from repic_core import demo
    from repic_core.toyworld.dataset import write_heldout

    write_heldout(tmp_path / "toys", "val", n=1)
    launched = []
    monkeypatch.setattr(demo, "launch", lambda app, **options: launched.append((app, options)))
    toys = ("--database", tmp_path / "toys/database.json", "--system", "none", "--max-pixels", 0)
    assert run("live", "--model", "assets/toy-base", *toys, "--retrieve", 2, "--side", 40) == 0
    names = [d["api_name"] for d in launched[0][0].get_config_file()["dependencies"]]
    assert {"find", "where", "caption", "concepts"} <= set(names)
