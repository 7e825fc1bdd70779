"""A missing optional package is a message with the command that adds it, wherever the kit imports one."""

import ast
import importlib.util
import re
import tomllib

import pytest

from helpers.places import ROOT
from repic_core.io.extras import MissingExtra, need

PACKAGE = ROOT / "src" / "repic_core"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What the kit, or the trainer for it, imports only where it is asked for; module -> extra.
OPTIONAL = {
    "bitsandbytes": "four-bits",
    "deepspeed": "deepspeed",
    "openai": "judges",
    "prefix_grouper": "benchmark",
    "qdrant_client": "qdrant",
    "ultralytics": "yolo-world",
    "wandb": "wandb",
}


@pytest.fixture
def without(monkeypatch):
    """Make one package look as if it were not installed."""
    find_spec = importlib.util.find_spec

    def hide(module):
        def found(name, *rest):
            return None if name.partition(".")[0] == module else find_spec(name, *rest)

        monkeypatch.setattr(importlib.util, "find_spec", found)

    return hide


def said(module):
    package, extra = module.replace("_", "-"), OPTIONAL[module]
    return re.escape(
        f"{package} is not installed: pip install {package} "
        f"(in the .venv of setup.sh: bash setup.sh --with {extra})"
    )


def test_an_installed_package_is_no_error(without):
    need("json", extra="none")
    without("json")
    with pytest.raises(MissingExtra, match=r"^json is not installed: pip install json "):
        need("json", extra="none")


@pytest.mark.parametrize(("module", "extra"), OPTIONAL.items())
def test_each_has_an_extra_that_brings_it(module, extra):
    assert [re.split("[<>=]", one)[0] for one in EXTRAS[extra]] == [module.replace("_", "-")]


def test_whatever_is_imported_is_asked_for_first():
    """Every import of an optional package follows ``need`` of it, in the same function, with the right extra."""
    calls, imports = [], []
    for path in PACKAGE.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.Module):
                places = [node for node in function.body if isinstance(node, ast.Import | ast.ImportFrom)]
            elif isinstance(function, ast.FunctionDef):
                places = list(ast.walk(function))
            else:
                continue
            asked = {}
            for node in sorted(places, key=lambda node: getattr(node, "lineno", 0)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                    asked[node.args[0].value] = node.keywords[0].value.value
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in {name.partition(".")[0] for name in names} & OPTIONAL.keys():
                    imports.append((path.name, function, name, name in asked))
            calls += asked.items()
    assert {"openai", "prefix_grouper", "qdrant_client"} <= {name for _, _, name, _ in imports}
    assert set(calls) == set(OPTIONAL.items())
    # An instance that exists was made by a function that asked.
    late = {(file, f.name, name) for file, f, name, first in imports if not first}
    assert late == {("endpoint.py", "ask", "openai"), ("qdrant_errors.py", "ask", "qdrant_client")}


def test_qdrant(without):
    from repic_core.retrieval.qdrant_index import QdrantConceptIndex

    without("qdrant_client")
    with pytest.raises(MissingExtra, match=said("qdrant_client")):
        QdrantConceptIndex(None, "me", "clip", 4)


def test_judges(without):
    from repic_core.evaluation.judges import EndpointJudge

    without("openai")
    with pytest.raises(MissingExtra, match=said("openai")):
        EndpointJudge("judge", "http://localhost:1/v1")


def test_four_bits(without):
    from repic_core.models.loading import ModelError, load_model

    without("bitsandbytes")
    with pytest.raises(ModelError, match=said("bitsandbytes")):
        load_model(ROOT / "assets" / "toy-base", load_in_4bit=True)


def test_prefix_grouper(without):
    from repic_core.benchmarks.presets import _use_prefix_grouper

    without("prefix_grouper")
    with pytest.raises(MissingExtra, match=said("prefix_grouper")):
        _use_prefix_grouper()


@pytest.mark.parametrize(
    ("module", "asked"),
    [("deepspeed", {"deepspeed": {"zero_optimization": {}}}), ("wandb", {"report_to": "wandb"})],
)
def test_a_training_asks_before_it_begins(without, data, tmp_path, module, asked):
    from repic_core.data.rows import read_rows
    from repic_core.training import grpo, sft

    without(module)
    rows = read_rows(data / "rows.jsonl")
    captions = [row for row in rows if isinstance(row.solution, str)][:2]
    for train, given in ((grpo.train, rows), (sft.train, captions)):
        with pytest.raises(MissingExtra, match=said(module)):
            train(None, None, given, tmp_path / "out", root=data, **asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["deepspeed", "wandb"])
def test_the_command_says_it_in_a_line(without, data, tmp_path, module):
    from repic_core.training import grpo

    without(module)
    recipe = {
        "deepspeed": ["--config", "paper-7b-8gpu"],
        "wandb": ["--config", "toy", "--report_to", "wandb"],
    }
    rows = ["--rows", str(data / "rows.jsonl"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=said(module)):
        grpo.main([*recipe[module], *rows])
