"""The examples of the paper's figures: read from the authors' folder, named where missing, drawn by a command."""

import json

import pytest
from PIL import Image

from repic_core.cli import main
from repic_core.evaluation.figure_examples import EXAMPLES, figure_examples, published_answers


@pytest.fixture
def layout(tmp_path):
    """A folder with two of the examples, made up, and the authors' notebook with an answer of two lines."""
    for example in EXAMPLES[1:3]:
        folder = tmp_path / "__assets__" / example.folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "database.json"
        known = json.loads(file.read_text())["concept_dict"] if file.exists() else {}
        for tag in example.tags:
            Image.new("RGB", (32, 32), "red").save(folder / f"{tag[1:-1]}.png")
            image = f"./__assets__/{example.folder}/{tag[1:-1]}.png"
            known[tag] = {"name": tag[1], "image": image, "info": f"a {tag[1:-1]}", "category": ""}
        known = {tag: {**entry, "name": f"name {n}"} for n, (tag, entry) in enumerate(known.items())}
        file.write_text(json.dumps({"concept_dict": known}))
        Image.new("RGB", (64, 48), "blue").save(folder / example.photo)
    said = [
        f"Query Img: {example.query}\nQuestion: {example.question}\n"
        f"Answer: {' and '.join(example.tags)}.\nA park.\n\n"
        for example in EXAMPLES[1:3]
    ]
    cell = {"cell_type": "code", "source": [], "outputs": [{"name": "stdout", "text": said}]}
    (tmp_path / "inference_example.ipynb").write_text(json.dumps({"cells": [cell]}))
    return tmp_path


def test_examples_are_read_and_what_is_missing_is_named(layout):
    told = []
    items = figure_examples(layout, told.append)
    assert [item.label for item in items] == [example.query for example in EXAMPLES[1:3]]
    assert [tuple(c.tag for c in item.references) for item in items] == [e.tags for e in EXAMPLES[1:3]]
    assert all(c.name == c.tag[1:-1] for item in items for c in item.references)
    assert len(told) == 4 and all("is missing" in line for line in told)
    assert published_answers(layout)[EXAMPLES[2].query] == "<ball> and <monster> and <otter>.\nA park."


def test_the_command_draws_them(base, layout, tmp_path, capsys):
    out, model = tmp_path / "out", ["--model", str(base), "--max-new-tokens", "8"]
    assert main(["evaluate", "--root", str(layout), "--figures", "--out", str(out), *model]) == 0
    assert "2 of the six examples" in capsys.readouterr().out
    with Image.open(out / "figures.png") as drawn:
        assert min(drawn.size) > 300
    captioned = json.loads((out / "captions" / base.name / "figures.json").read_text())
    assert [row[0] for row in captioned] == [example.query for example in EXAMPLES[1:3]]
    (layout / "inference_example.ipynb").unlink()
    assert main(["evaluate", "--root", str(layout), "--figures", "--out", str(out)]) == 2
    assert "give a --model" in capsys.readouterr().err


def test_the_authors_examples(official_root):
    told = []
    items = figure_examples(official_root, told.append)
    assert len(items) + len(told) == 6 and len(items) >= 2
    assert [c.tag for item in items for c in item.references if item.label == EXAMPLES[1].query] == [
        *EXAMPLES[1].tags
    ]
