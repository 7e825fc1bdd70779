"""``repic demo``: what it loads and launches, and what it says of bad input."""

import pytest

from repic_core.cli import main
from repic_core.models.loading import PAPER_MAX_PIXELS


def run(*arguments) -> int:
    return main(["demo", *map(str, arguments)])


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
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert (
            message in error and error.startswith(f"repic demo {arguments[0]}: ") and error.count("\n") == 1
        )


@pytest.mark.parametrize("concepts", [2, 4])
def test_the_published_captions_come_with_their_note(folder, monkeypatch, concepts):
    from repic_core.demo import viewer
    from repic_core.evaluation.published import SETS, caption_folder

    for place in (
        caption_folder(folder, concepts),
        folder / f"data/database_tot/database_{concepts}_concepts",
    ):
        place.mkdir(parents=True)
    known = SETS[f"{concepts}-concepts"]
    for stem in known.methods:
        (caption_folder(folder, concepts) / f"{stem}.json").write_text((folder / "ours.json").read_text())
    database = folder / f"data/database_tot/database_{concepts}_concepts" / "database_mod.json"
    database.write_text((folder / "database.json").read_text())
    built = []
    monkeypatch.setattr(viewer, "build_viewer", lambda files, *rest: built.append((list(files), *rest)))
    monkeypatch.setattr("repic_core.demo.launch", lambda app, **settings: None)
    assert run("viewer", "--root", folder, "--concepts", concepts) == 0
    assert run("viewer", "--captions", folder / "ours.json", "--database", folder / "database.json") == 0
    published, mine = built
    assert published == ([*known.methods.values()], database, str(folder), known.note)
    assert "RAP" in known.note and mine[-1] == ""


@pytest.mark.parametrize(
    ("options", "limit"),
    [((), PAPER_MAX_PIXELS), (("--max-pixels", 9216), 9216), (("--max-pixels", 0), None)],
)
def test_live_loads_with_the_published_image_limit(folder, monkeypatch, options, limit):
    loaded, launched = {}, []

    def load(name, **settings):
        loaded.update(settings, name=name)
        return None, None

    monkeypatch.setattr("repic_core.models.loading.load_model", load)
    monkeypatch.setattr("repic_core.demo.launch", lambda app, **settings: launched.append(settings))
    assert run("live", "--model", "m", "--database", folder / "database.json", *options) == 0
    limits = {"min_pixels": None, "max_pixels": limit}
    assert loaded == {"name": "m", "adapter": None, "device": "auto", **limits}
    assert launched == [{"server_port": None}]


def test_the_command_serves_a_page_that_finds(base, folder, monkeypatch, tmp_path):
    from repic_core import demo
    from repic_core.toyworld.dataset import write_heldout

    write_heldout(tmp_path / "toys", "val", n=1)
    launched = []
    monkeypatch.setattr(demo, "launch", lambda app, **options: launched.append((app, options)))
    toys = ("--database", tmp_path / "toys/database.json", "--system", "none", "--max-pixels", 0)
    assert run("live", "--model", base, *toys, "--retrieve", 2, "--side", 40) == 0
    names = [d["api_name"] for d in launched[0][0].get_config_file()["dependencies"]]
    assert {"find", "where", "caption", "concepts"} <= set(names)


def test_two_models_and_the_shelves_beside_the_database(folder, monkeypatch):
    from repic_core.demo import live

    built, loaded = [], []

    def load(name, adapter=None, **settings):
        loaded.append((name, adapter))
        return None, None

    def build(models, database, examples, **options):
        assert examples == []
        built.append((list(models), len(database or ()), options))

    monkeypatch.setattr("repic_core.models.loading.load_model", load)
    monkeypatch.setattr("repic_core.demo.launch", lambda app, **settings: None)
    monkeypatch.setattr(live, "build_live", build)
    database = ("--database", folder / "database.json")
    assert run("live", "--model", "hub/base", *database) == 0
    assert run("live", "--model", "hub/base", "--compare-adapter", "runs/mine") == 0
    assert run("live", "--model", "a/base", "--adapter", "x/grpo", "--compare-adapter", "y/grpo") == 0
    assert run("live", "--model", "hub/base", *database, "--shelves", folder / "own") == 0
    none = {"find": None}
    assert built == [
        (["base"], 3, {**none, "shelves": folder / "shelves"}),
        (["base", "mine"], 0, {**none, "shelves": None}),
        (["1. grpo", "2. grpo"], 0, {**none, "shelves": None}),
        (["base"], 3, {**none, "shelves": str(folder / "own")}),
    ]
    assert loaded[1:5] == [
        ("hub/base", None),
        ("hub/base", "runs/mine"),
        ("a/base", "x/grpo"),
        ("a/base", "y/grpo"),
    ]


def test_the_readmes_app_for_spaces_runs(base, folder, monkeypatch):
    """With a random model in place of the published weights: it captions, and is reachable as a Space must be."""
    import re
    from pathlib import Path

    from repic_core import demo

    readme = Path("src/repic_core/demo/README.md").read_text(encoding="utf-8")
    code = next(code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "server_name" in code)
    toy = code.replace("Yeongtak/RePIC_Qwen2.5VL_7B", str(base))
    toy = toy.replace("concepts/database.json", str(folder / "database.json"))
    launched = []
    monkeypatch.setattr(demo, "launch", lambda app, **options: launched.append((app, options)))
    exec(toy, {})
    app, options = launched[0]
    assert options == {"server_name": "0.0.0.0"}
    assert "caption" in {one["api_name"] for one in app.get_config_file()["dependencies"]}


def test_examples_are_the_photos_of_a_caption_file(folder, monkeypatch):
    from repic_core.demo import live

    offered = []
    monkeypatch.setattr("repic_core.models.loading.load_model", lambda *_, **__: (None, None))
    monkeypatch.setattr("repic_core.demo.launch", lambda app, **settings: None)
    monkeypatch.setattr(live, "build_live", lambda models, database, examples, **_: offered.append(examples))
    database = ("--database", folder / "database.json")
    assert run("live", "--model", "m", *database, "--examples", folder / "ours.json") == 0
    both = ["<bo>", "<mia>"]
    assert offered == [[(folder / name, both) for name in ("q1.png", "q2.png", "gone.png")]]
    assert run("live", "--model", "m", *database, "--examples", folder / "none.json") == 2
