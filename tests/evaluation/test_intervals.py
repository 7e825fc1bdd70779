"""Intervals and the paired test, on counts whose answer is known by hand or from the binomial distribution."""

import numpy as np
import pytest
from scipy.stats import binom

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept
from repic_core.evaluation.intervals import compare, score_intervals
from repic_core.evaluation.scores import score

NAMED, SILENT = "<bo> naps.", "A dog naps."


def rows(captions, photo=str):
    return [CaptionRecord(photo(i), ("<bo>",), caption) for i, caption in enumerate(captions)]


def test_values_are_those_of_score():
    records = [*rows([NAMED, SILENT, "<bo> and <mia>", NAMED]), CaptionRecord("m", ("<mia>",), SILENT)]
    found, whole = score_intervals(records), score(records)
    for name in ("precision", "recall", "f1"):
        assert found[name].value == pytest.approx(getattr(whole, name))
        assert found[name].low <= found[name].value <= found[name].high


def test_recall_of_independent_captions_is_binomial():
    """Of 200 captions, 60 name the concept: the percentile bootstrap draws from Binomial(200, 0.3)."""
    found = score_intervals(rows([NAMED] * 60 + [SILENT] * 140))["recall"]
    assert (found.low, found.high) == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.3) / 200, abs=0.0051)


def test_captions_of_one_photo_are_drawn_together():
    """Two photos with 50 captions each, all right in one and all wrong in the other: either, both, or none."""
    records = rows([NAMED] * 50 + [SILENT] * 50, photo=lambda i: str(i // 50))
    by_photo, by_caption = (score_intervals(records, unit=unit)["recall"] for unit in ("photo", "caption"))
    assert (by_photo.low, by_photo.high) == (0, 1)
    assert 0.38 < by_caption.low < 0.43 and 0.57 < by_caption.high < 0.62
    with pytest.raises(ValueError, match="unit 'row': use one of photo, caption"):
        score_intervals(records, unit="row")


def test_nothing_said_and_a_single_photo():
    assert str(score_intervals(rows([SILENT] * 3))["f1"]) == "0.0 [0.0, 0.0]"
    assert str(score_intervals(rows([NAMED]))["f1"]) == "100.0 [100.0, 100.0]"


@pytest.mark.parametrize("count", [3, 6])
def test_p_by_hand(count):
    """All right against all wrong: of 2 ** n ways to swap, two give a difference as large."""
    worse, better = rows([SILENT] * count), rows([NAMED] * count)
    found = compare(worse, better)
    assert found.p == pytest.approx(2 / 2**count)
    assert found.difference.value == found.difference.low == found.difference.high == 1
    assert compare(better, worse).difference.value == -1
    same = compare(better, better)
    assert (same.p, same.difference.value) == (1, 0)


def test_a_wrong_name_counts_against_its_file():
    """A name that no concept has only with `unknown_tags`, that of an absent reference with the database."""
    right, invented, absent = (rows([caption] * 3) for caption in (NAMED, "<bo>, <zed>", "<bo>, <mia>"))
    database = [Concept(name=name, image=f"{name}.jpg", info="a dog") for name in ("bo", "mia")]
    assert compare(invented, right, database=database).difference.value == 0
    found = compare(invented, right, database=database, unknown_tags=True)
    assert found.difference.value == pytest.approx(1 / 3)
    assert compare(absent, right, database=database).difference.value == pytest.approx(1 / 3)


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    one, two = (rows(rng.choice([NAMED, SILENT], 30)) for _ in range(2))
    for unit in ("photo", "caption"):
        assert compare(one, two, unit=unit) == compare(one, two[::-1], unit=unit)
    found = compare(one, two, name="recall")
    assert found.difference.value == pytest.approx(score(two).recall - score(one).recall)


def test_files_of_other_rows_are_refused():
    with pytest.raises(ValueError, match=r"do not have the same rows: 2, <bo> is not in both"):
        compare(rows([NAMED] * 2), rows([NAMED] * 3))


def test_published_files(official_root):
    """RePIC against zero-shot: certain for these four photos, and not beyond them."""
    from repic_core.captioner.caption_files import load_captions
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.evaluation.published import published_files

    files, database = published_files(official_root)
    known = ConceptDatabase.load(database, root=official_root, check_images=False)
    ours, base = (load_captions(files[name]) for name in ("RePIC 7B", "Qwen2.5-VL 7B zero-shot"))
    assert len(ours) == 105 and len({record.query for record in ours}) == 4
    assert compare(base, ours, "span", known, unit="caption").p < 0.001
    assert compare(base, ours, "span", known).p == 0.125  # 2 of 2 ** 4: the least p that four photos can give
