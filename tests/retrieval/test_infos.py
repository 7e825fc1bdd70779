"""Lines of information written by a model: what it is shown, what is kept of its answer, what is told."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from repic_core.captioner.captioner import Captioner
from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.models.loading import load_model
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.index import ConceptIndex
from repic_core.retrieval.infos import INFO_QUESTION, OTHER, info_messages, nearest, one_phrase, write_infos
from repic_core.toyworld.dataset import write_heldout
from repic_core.toyworld.drawings import identities


class Colours:
    """Embeds a photo as its mean colour."""

    name = "colours"

    def images(self, photos):
        return unit(np.array([np.asarray(photo, np.float32).mean((0, 1)) + 1 for photo in photos]))


@pytest.fixture
def database():
    colours = {"red": (255, 0, 0), "rose": (255, 40, 40), "wine": (200, 0, 0), "sea": (0, 0, 255)}
    return ConceptDatabase(
        Concept(
            name=name, image=Image.new("RGB", (8, 8), colour), info="a known line" if name == "sea" else ""
        )
        for name, colour in colours.items()
    )


def test_the_neighbours_are_those_that_look_alike(database):
    index = ConceptIndex.build(database, Colours())
    near = nearest(database["<sea>"], database, index, Colours(), 1)
    assert len(near) == 1 and near[0].tag != "<sea>"
    assert {one.tag for one in nearest(database["<red>"], database, index, Colours(), 2)} == {
        "<rose>",
        "<wine>",
    }
    assert nearest(database["<red>"], database, index, Colours(), 0) == []


def test_the_model_sees_the_neighbours_first_and_no_names(database):
    own = Concept(name="red", image=["a.png", "b.png"])
    content = info_messages(own, [database["<rose>"], database["<sea>"]])[0]["content"]
    assert [block["type"] for block in content] == [
        "image",
        "text",
        "image",
        "text",
        "image",
        "image",
        "text",
    ]
    assert content[0]["image"] is database["<rose>"].image and content[4]["image"] == "a.png"
    texts = [block["text"] for block in content if block["type"] == "text"]
    assert texts[:2] == [OTHER, OTHER] and texts[2].endswith(INFO_QUESTION)
    assert not any("sea" in text or "known line" in text for text in texts)


def test_missing_lines_are_written_and_remarks_say_why_not(database):
    answers = {"<red>": "**A red square.**\nIt is nice.", "<rose>": "a red  square", "<wine>": "word " * 80}
    asked = []

    def write(concept, others):
        asked.append((concept.tag, [other.tag for other in others]))
        return answers[concept.tag]

    found = list(write_infos(database, write, Colours(), neighbours=2))
    assert [(concept.tag, concept.info) for concept, _ in found] == [
        ("<red>", "A red square"), ("<rose>", "a red square"), ("<wine>", "")
    ]  # fmt: skip
    remarks = [remark for _, remark in found]
    assert remarks[0] == "" and remarks[1] == "the line of <red> is the same" and "80 words" in remarks[2]
    assert [tag for tag, _ in asked] == ["<red>", "<rose>", "<wine>"] and set(asked[0][1]) == {
        "<rose>",
        "<wine>",
    }
    assert database["<red>"].info == ""
    answers["<sea>"] = "a blue <|tool_7|> square"
    *_, (sea, _) = write_infos(database, write, Colours(), every=True)
    assert sea.info == "a blue square"


@given(st.text())
def test_any_answer_is_one_phrase_or_an_error(text):
    try:
        phrase = one_phrase(text)
    except ValueError as error:
        assert "one short phrase" in str(error)
    else:
        assert phrase == phrase.strip() and 0 < len(phrase.split()) <= 40


def test_command_on_the_toy_base(tmp_path, capsys):
    made = write_heldout(tmp_path, "val", n=1)
    toys = dict(zip([concept.tag for concept in made], identities("val"), strict=True))
    file = tmp_path / "database.json"
    few = json.loads(file.read_text())["concept_dict"]
    few = {tag: {**entry, "info": ""} for tag, entry in list(few.items())[::8]}
    first = next(iter(few))
    few[first]["info"] = "mine"
    file.write_text(json.dumps({"concept_dict": few}))
    assert main(["concepts", "describe", str(file), "--model", "assets/toy-base", "--neighbours", "1"]) == 0
    printed = capsys.readouterr().out
    after = ConceptDatabase.load(file)
    assert after[first].info == "mine" and first not in printed
    written = [concept for concept in after if concept.tag != first]
    right = sum(concept.info == toys[concept.tag].description for concept in written)
    assert right >= 1 and all(
        f"{concept.tag}: {concept.info}" in printed for concept in written if concept.info
    )
    assert [concept.tag for concept in after] == list(few)


def test_the_captioner_answers_messages_of_ones_own(base):
    captioner = Captioner(*load_model(base), system=None)
    photo = Image.new("RGB", (96, 96), "white")
    content = [
        {"type": "image", "image": photo},
        {"type": "text", "text": "This is the query image. Describe this image."},
    ]
    said = captioner.answer([{"role": "user", "content": content}], max_new_tokens=20)
    assert said == captioner.caption(photo, [], "Describe this image.", max_new_tokens=20) != ""
