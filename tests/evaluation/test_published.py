"""The authors' 2-concept captions: their script restated, the table from their files, the names of methods."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import load_captions
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.intervals import score_intervals
from repic_core.evaluation.published import SETS, database_file, published_files
from repic_core.evaluation.scores import score

# assets/results/published-captions.md: precision, recall, F1 in percent, and the F1's interval by photo
TABLE = {
    "RePIC 7B": ("100.0 / 98.8 / 99.4 [98.5, 100.0]", "100.0 / 99.4 / 99.7 [99.1, 100.0]"),
    "Qwen2.5-VL 7B zero-shot": ("100.0 / 75.0 / 85.7 [79.0, 91.4]", "100.0 / 75.6 / 86.1 [79.4, 91.4]"),
    "RAP-Qwen 7B 210K": ("100.0 / 82.9 / 90.7 [87.7, 93.5]", "100.0 / 83.5 / 91.0 [88.1, 93.9]"),
    "RAP-LLaVA 13B 210K": ("100.0 / 93.9 / 96.9 [94.9, 98.5]", "100.0 / 93.9 / 96.9 [94.9, 98.5]"),
    "RAP-LLaVA 13B 2K": ("100.0 / 90.2 / 94.9 [92.5, 97.2]", "100.0 / 90.2 / 94.9 [92.5, 97.2]"),
}
MADE_UP = [
    ["a.jpg", ["<Anya>", "<Bond>"], "<Anya>, hugged by (Bond)!</s>", ""],  # both
    ["b.jpg", ["<Anya>", "<Bond>"], "Anya rides on Bond's back.", ""],  # a possessive is not found; no miss
    ["c.jpg", ["<Anya>", "<Bond>"], "anya sees <Bluey>.", ""],  # case matters; another concept: two misses
    ["d.jpg", ["<Bluey>", "<Bingo>"], "Bingo and Bond", ""],  # one right, one miss
    ["e.jpg", ["<Bluey>", "<Bingo>"], "Two toys on a bed.", ""],  # nothing
]


def as_their_script(rows) -> tuple[int, int, int]:
    """Right guesses, guesses and labels, as eval_multi_2_concept.py counts them."""
    known = {tag for row in rows for tag in row[1]}
    right = guesses = labels = 0
    for _, tags, caption, _ in rows:
        words = [word.strip(".,!?;:()[]{}\"'-") for word in caption.replace("</s>", "").split()]

        def said(tag, words=words):
            return tag in words or tag[1:-1] in words

        for tag in tags:
            labels += 1
            if said(tag):
                right, guesses = right + 1, guesses + 1
            elif any(said(other) for other in known.difference(tags)):
                guesses += 1
    return right, guesses, labels


def counts(rows) -> tuple[int, int, int]:
    found = score(rows, "repic-2")
    return found.correct, found.predicted, found.total


def test_a_made_up_file_by_hand(tmp_path):
    path = tmp_path / "made-up.json"
    path.write_text(json.dumps(MADE_UP))
    assert counts(load_captions(path)) == as_their_script(MADE_UP) == (4, 7, 10)
    found = score(path, "repic-2")
    assert (found.precision, found.recall) == (4 / 7, 0.4)
    assert found.f1 == pytest.approx(8 / 17)


NAMES = ("Anya", "Bond", "Bluey", "Bingo", "C_dog", "H")
WORDS = [
    form.format(name) for name in NAMES for form in ("{}", "<{}>", "<{}>,", "({})", "{}'s", "-{}-", "<{}>.")
]
WORDS += ["anya", "<bond>", "a", "bond", "</s>", "Bond</s>", "\n", "'", "h"]
PAIRS = st.lists(st.sampled_from(NAMES), min_size=2, max_size=2, unique=True)


@given(st.lists(st.tuples(PAIRS, st.lists(st.sampled_from(WORDS), max_size=6)), min_size=1, max_size=5))
def test_any_file_is_counted_as_by_their_script(rows):
    rows = [["a.jpg", [f"<{name}>" for name in pair], " ".join(said), ""] for pair, said in rows]
    assert counts(rows) == as_their_script(rows)


def test_the_table_from_their_files(double_concept_root):
    files, path = published_files(double_concept_root, concepts=2)
    database = ConceptDatabase.load(path, double_concept_root, check_images=False)
    assert list(files) == list(TABLE)
    for method, wanted in TABLE.items():
        records = load_captions(files[method])
        assert len(records) == len({record.query for record in records}) == 82
        rows = [[r.query, r.tags, r.caption, r.question] for r in records]
        assert counts(records) == as_their_script(rows)
        for protocol, want in zip(("repic-2", "span"), wanted, strict=True):
            found = score_intervals(records, protocol, database)
            precision, recall = (f"{100 * found[name].value:.1f}" for name in ("precision", "recall"))
            assert f"{precision} / {recall} / {found['f1']}" == want, (method, protocol)


def test_methods_are_called_by_their_file_not_by_the_order_of_the_folder(tmp_path):
    for name in ("2-concepts", "4-concepts"):
        one = SETS[name]
        folder = tmp_path / one.captions
        folder.mkdir(parents=True)
        for stem in (*one.methods, "another"):
            (folder / f"{stem}.json").write_text("[]")
        (tmp_path / "data/database_tot" / one.database).mkdir(parents=True)
        (tmp_path / "data/database_tot" / one.database / "database_mod.json").write_text("{}")
        files, database = published_files(tmp_path, int(name[0]))
        assert list(files) == [*one.methods.values(), "another"]
        assert database == database_file(tmp_path, name)
        for method, path in files.items():
            if method.startswith("RAP-LLaVA"):
                assert ("2k" in path.stem) == method.endswith(" 2K")
