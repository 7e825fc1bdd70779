"""The prompts of the evaluation are the authors', string by string; their builder is stated here once more."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import CaptionItem, item_hashes
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.prompts import (
    PUBLISHED_STYLES,
    REFERENCE_STYLES,
    SYSTEM_PROMPTS,
    caption_messages,
    with_names,
)

SETS = ("database_4_concepts", "database_dreambooth")


def their_lines(entries):
    """The texts after each image: one block with a placeholder per reference, whose lines are dealt out."""
    block = "".join(
        f"{place}.<image>\n Name: <{name}>, Info: {info}\n" for place, (name, info) in enumerate(entries, 1)
    )
    lines = block.replace("<image>\n", "").split("\n")
    return [lines[place] for place in range(len(entries))]


def our_lines(references, style="numbered"):
    """The texts after the references' images."""
    content = caption_messages("q.jpg", references, reference_style=style)[-1]["content"]
    kinds = [block["type"] for block in content]
    assert kinds == ["image", "text"] * (len(references) + 1)
    return [block["text"] for block in content if block["type"] == "text"][:-1]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_numbered_lines_have_the_databases_names(count):
    entries = [
        ("Thor", "a god"),
        ("Iron Man", "an inventor: rich, clever"),
        ("Mr.Krabs", ""),
        ("bo", "a dog."),
    ]
    tags = ("<thor>", "<ironman>", "<mr.krab>", "<bo>")
    references = [Concept(tag, name, "a.jpg", info) for tag, (name, info) in zip(tags, entries, strict=True)]
    assert our_lines(references[:count]) == their_lines(entries[:count])
    assert our_lines(references)[1] == "2. Name: <Iron Man>, Info: an inventor: rich, clever"
    assert our_lines(references, "tag")[1] == "Name: <ironman>, Info: an inventor: rich, clever"


@pytest.mark.parametrize("folder", SETS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_authors_databases_give_their_lines(official_root, folder, count):
    path = official_root / "data/database_tot" / folder / "database_mod.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["concept_dict"]
    concepts = list(ConceptDatabase.load(path, official_root, check_images=False))
    differ = []
    for first in range(0, len(concepts) - count + 1):
        some = concepts[first : first + count]
        raw = [(entries[concept.tag]["name"], entries[concept.tag]["info"]) for concept in some]
        ours, theirs = our_lines(some), their_lines(raw)
        assert [line.split() for line in ours] == [line.split() for line in theirs]
        differ += [c.tag for c, one, two in zip(some, ours, theirs, strict=True) if one != two]
    # these infos begin with a space, which is folded here
    assert set(differ) == (set() if "4_concepts" in folder else {"<cat2>", "<colorful_sneaker>"})


def test_a_line_break_gives_theirs_to_the_wrong_image():
    """Why white space is folded here: a reference's second line would be taken for the next reference's."""
    entries = [("Bo", "a dog\nwith a hat"), ("Mia", "a cat")]
    references = [Concept(f"<{name.lower()}>", name, "a.jpg", info) for name, info in entries]
    assert their_lines(entries) == ["1. Name: <Bo>, Info: a dog", "with a hat"]
    assert our_lines(references) == ["1. Name: <Bo>, Info: a dog with a hat", "2. Name: <Mia>, Info: a cat"]


@pytest.mark.parametrize("name", ["image", "|im_end|", "|vision_start|", "/s", " Image ", "|im_\u200bend|"])
def test_a_name_that_brackets_make_a_control_token_is_refused(name):
    concept = Concept("<bo>", name, "a.jpg", "a dog")
    assert our_lines([concept], "tag") == ["Name: <bo>, Info: a dog"]  # the name is not in it
    with pytest.raises(ConceptError, match="the name of <bo>, in brackets, holds the control token"):
        our_lines([concept])


@given(st.text(st.sampled_from("|<>/ imagestend_\u200b\n"), max_size=12))
def test_no_name_becomes_a_control_token(name):
    """Any name is refused, or the line holds no special token of Qwen and no placeholder of an image."""
    try:
        (line,) = our_lines([Concept("<bo>", name, "a.jpg", "a dog")])
    except ConceptError:
        return
    assert not any(token in line for token in ("<|im_end|>", "<|image_pad|>", "<image>", "</s>"))
    assert line.startswith("1. Name: <") and line.endswith(">, Info: a dog") and "\n" not in line


@pytest.mark.parametrize("style", REFERENCE_STYLES)
def test_the_names_take_their_place_in_a_question(style):
    """Upstream's notebook formats the question with the tags joined by "and"."""
    references = [Concept("<thor>", "Thor", "a.jpg"), Concept("<ironman>", "Iron Man", "b.jpg")]
    asked = "Who is {name}? {} {0} {name!r} {{x}} {name.__class__} {"
    text = caption_messages("q.jpg", references, asked, reference_style=style)[-1]["content"][-1]["text"]
    called = {"tag": "<thor> and <ironman>", "numbered": "<Thor> and <Iron Man>"}[style]
    assert (
        text
        == f"This is the query image. Who is {called}? {{}} {{0}} {{name!r}} {{{{x}}}} {{name.__class__}} {{"
    )
    if style == "tag":
        want = "Who is {name}?".format(name=" and ".join(c.tag for c in references))
        assert with_names("Who is {name}?", [c.tag for c in references]) == want
    assert with_names("Who?", ["<thor>"]) == "Who?"
    with pytest.raises(ConceptError, match="the question holds the control token '<image>'"):
        caption_messages("q.jpg", [], "What is <im{name}age>?", reference_style=style)


def test_styles_are_checked_and_go_with_the_published_prompts():
    for use in (
        lambda: caption_messages("q.jpg", [], reference_style="bold"),
        lambda: Captioner(None, None, reference_style="bold"),
    ):
        with pytest.raises(ValueError, match="reference style 'bold': use tag or numbered"):
            use()
    assert set(PUBLISHED_STYLES) == set(SYSTEM_PROMPTS)
    assert set(PUBLISHED_STYLES.values()) <= set(REFERENCE_STYLES)
    assert PUBLISHED_STYLES["evaluation"] == "numbered"


def test_what_the_prompt_calls_a_concept_is_in_its_hash(tmp_path):
    bo = Concept("<bo>", "Bo", tmp_path / "none.jpg", "a dog")
    item = CaptionItem(tmp_path / "q.jpg", [bo])
    renamed = replace(item, references=[replace(bo, name="Bob")])
    assert item_hashes([item]) == item_hashes([renamed])
    assert item_hashes([item], "numbered") != item_hashes([renamed], "numbered")
