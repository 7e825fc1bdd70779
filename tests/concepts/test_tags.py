"""When two tags are the same: for the database, the rewards, the `span` score and the index alike."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import fold, key
from repic_core.evaluation.intervals import compare
from repic_core.evaluation.scores import score
from repic_core.retrieval.index import ConceptIndex
from repic_core.rewards import ict_reward

ONE = [
    ("<O'Brien>", "<O\u2019Brien>"),
    ("<O'Brien>", "<o\u02bcBRIEN>"),
    ('<"Bo">', "<\u201cBo\u201d>"),
    ('<"Bo">', "<\u201eBo\u201c>"),  # as German writes it
    ("<Zo\u00eb>", "<Zoe\u0308>"),  # composed and decomposed
    ("<철수>", unicodedata.normalize("NFD", "<철수>")),  # as macOS names files
    ("<ガラ>", "<ｶﾞﾗ>"),
    ("<bo>", "<ｂｏ>"),  # full width
    ("<fin>", "<\ufb01n>"),  # a ligature
    ("<bo>", "<BO>"),
    ("<Straße>", "<STRASSE>"),
    ("<ΣΊΣΥΦΟΣ>", "<σίσυφος>"),
    ("<istanbul>", "<İstanbul>"),
    ("<black widow>", "<black   widow>"),
    ("<black widow>", "<black\u00a0widow>"),
    ("<black widow>", "< black widow >"),
    ("<bo>", "<bo.>"),
]
OTHERS = [
    ("<Zoe>", "<Zo\u00eb>"),
    ("<O'Brien>", "<OBrien>"),
    ("<O'Brien>", "<O Brien>"),
    ("<black widow>", "<blackwidow>"),
    ("<spider-man>", "<spider man>"),
    ("<bo>", "<\u0432\u043e>"),  # Cyrillic letters that look alike
    ("<bo1>", "<bo2>"),
    ("<ılgaz>", "<Ilgaz>"),  # a dotless i
    ("<철수>", "<철순>"),
]


def database(*tags):
    return ConceptDatabase(Concept(tag, image=f"{number}.png") for number, tag in enumerate(tags))


def reward(tag, said):
    """Of a caption that names one concept of a prompt with this tag, which its photo shows."""
    return ict_reward(f"{said} sleeps on a white rug in the sun.", [tag], [tag], min_length=10)


@pytest.mark.parametrize(("one", "two"), ONE)
def test_spellings_of_one_tag(one, two):
    assert key(one) == key(two) == key(f" {two}\n")
    assert two in database(one) and database(one)[two].tag == one
    with pytest.raises(ConceptError, match=r"is taken already \(by"):
        database(one, two)
    assert reward(one, two) == reward(two, one) == 1
    wrong_name = ict_reward(f"{two} sleeps on a white rug.", ["<x>"], ["<x>", one], min_length=10)
    assert wrong_name < 0
    index = ConceptIndex("two numbers")
    index.add(one, [[1.0, 0.0]])
    index.add(two, [[0.0, 1.0]])
    assert two in index and len(index.search([[1.0, 0.5]], k=2)[0]) == 1


@pytest.mark.parametrize(("one", "two"), ONE)
def test_scores_of_spellings_of_one_tag(one, two):
    """A row with one spelling and a caption with the other, with and without a database that has either."""
    record = CaptionRecord("a.jpg", (one,), f"{two} naps.")
    for known in (None, database(one), database(two)):
        found = score([record], database=known, unknown_tags=True)
        assert (found.correct, found.predicted, found.total) == (1, 1, 1)
    record = CaptionRecord("a.jpg", (one, two), f"{two} naps beside {one}.")  # one concept, named twice
    found = score([record], unknown_tags=True)
    assert (found.correct, found.predicted, found.total) == (1, 1, 1)
    record = CaptionRecord("a.jpg", ("<mia>",), f"{two} naps beside {one}.")  # one stranger, named twice
    assert score([record], unknown_tags=True).predicted == 1
    files = [[CaptionRecord(photo, (tag,), f"{tag} naps.") for photo in "ab"] for tag in (one, two)]
    assert compare(*files).difference.value == 0  # files of the same rows


@pytest.mark.parametrize(("one", "two"), OTHERS)
def test_tags_that_differ(one, two):
    assert key(one) != key(two)
    assert [concept.tag for concept in database(one, two)] == [one, two]
    assert reward(one, two) < 0 and reward(two, one) < 0
    record = CaptionRecord("a.jpg", (one,), f"{two} naps.")
    found = score([record], database=database(one, two))
    assert (found.correct, found.predicted, found.total) == (0, 1, 1)
    index = ConceptIndex("two numbers")
    index.add(one, [[1.0, 0.0]])
    assert two not in index
    index.add(two, [[0.0, 1.0]])
    assert len(index.search([[1.0, 0.5]], k=2)[0]) == 2


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_unicode_forms_fold_to_one(text, form):
    assert fold(unicodedata.normalize(form, text)) == fold(text)
