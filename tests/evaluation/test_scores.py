"""The published numbers from the published captions, both protocols by hand, and bad caption files."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import CaptionFileError, CaptionRecord, load_captions
from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.names import find_names
from repic_core.evaluation.scores import disagreements, score, score_caption

PUBLISHED = {  # the paper's 4-concept table, skip-retrieval: precision, recall, F1 in percent
    "captioning-skip-retrieval-ours": (88.0, 59.5, 71.0),
    "captioning-skip-retrieval-zero_shot": (73.3, 22.9, 34.8),
    "captioning-skip-retrieval-qwen_sft": (49.6, 13.6, 21.3),
    "caption-rap-llava-skip-retreival_RAP-llava-skip-full": (52.9, 4.3, 7.9),
    "caption-rap-llava-skip-retreival_RAP-llava-2k-skip-full": (36.4, 1.9, 3.6),
}


def row(tags, caption, query="a.jpg"):
    return CaptionRecord(query, tuple(tags), caption)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_table(official_root, name):
    records = load_captions(official_root / "captioning" / "quad_concept" / f"{name}.json")
    assert len(records) == 105
    found = score(records, "repic-4")
    assert tuple(round(100 * v, 1) for v in (found.precision, found.recall, found.f1)) == PUBLISHED[name]


def test_span_finds_the_names_with_spaces(official_root):
    records = load_captions(official_root / "captioning/quad_concept/captioning-skip-retrieval-ours.json")
    path = official_root / "data/database_tot/database_4_concepts/database_mod.json"
    database = ConceptDatabase.load(path, root=official_root)
    assert sum(" " in tag for r in records for tag in r.tags) == 51
    published, span = score(records, "repic-4"), score(records, "span", database)
    assert span.total == published.total == 420
    assert (published.correct, published.predicted) == (250, 284)
    assert (span.correct, span.predicted) == (365, 439)
    rap = "caption-rap-llava-skip-retreival_RAP-llava-skip-full.json"  # its <The Hulk> is another tag
    found = score(load_captions(official_root / "captioning/quad_concept" / rap), "span", database)
    assert (found.correct, found.predicted) == (31, 45)
    # each published find is one of span's, and all of span's wrong names are on the photo (in another row)
    on_photo = {
        r.query: {t for other in records if other.query == r.query for t in other.tags} for r in records
    }
    for record in records:
        tags = sorted({t for r in records for t in r.tags})
        one, two = score_caption(record, tags, "repic-4"), score_caption(record, database)
        assert set(one.correct) <= set(two.correct)
        assert set(two.hallucinated) <= on_photo[record.query]
    worst = disagreements(records, database=database)
    assert len(worst) == 10
    assert all(set(one.correct) != set(two.correct) for _, one, two in worst)
    assert len({r.query for r, _, _ in worst}) >= 3  # several photos: several reasons


def test_disagreements_show_each_reason_before_one_comes_again():
    widow, hulk = ["<black widow>"], ["<hulk>"]
    records = [row(widow, "black widow", f"{i}.jpg") for i in range(5)]
    records += [row(hulk, "Hulk's fist", "h.jpg"), row(hulk, "<hulk>", "same.jpg")]
    assert [r.query for r, _, _ in disagreements(records, n=3)] == ["0.jpg", "h.jpg", "1.jpg"]
    assert len(disagreements(records, n=10)) == 6  # without the one in which they agree


def test_published_protocols_by_hand():
    records = [
        row(["<Thor>", "<hulk>"], "Thor, and (hulk)</s>"),  # both named
        row(["<thor>", "<black widow>"], "<THOR> beside Black Widow"),  # the space: never found
        row(["<loki>", "<odin>"], "A hulk."),  # another candidate: two misses
        row(["<loki>"], "Nobody."),  # no signal
    ]
    found = score(records, "repic-4")
    # row 2: thor is correct; black widow is a miss, for <Thor> (row 1) is named and isn't spelt like <thor>
    assert (found.correct, found.predicted, found.total) == (3, 6, 7)
    case = score(records, "repic-2")  # case matters: "Thor" and "<THOR>" are not "<thor>"
    assert (case.correct, case.predicted, case.total) == (2, 4, 7)
    # only the first tag of each row counts: thor, thor, a miss (hulk isn't one), none
    single = score(records, "repic-single")
    assert (single.correct, single.predicted, single.total) == (2, 2, 4)


def test_published_protocols_strip_tokens_of_their_punctuation():
    for caption in ("'bo'", "-bo-", '"(bo)"', "[bo]!?", "{bo};:", "bo,."):
        assert score([row(["<bo>"], caption)], "repic-4").correct == 1
    for caption in ("bo's", "*bo*", "x-bo"):
        assert score([row(["<bo>"], caption)], "repic-4").correct == 0


def test_another_spelling_is_another_concept_except_in_repic_single():
    record, known = row(["<thor>"], "Thor lands."), ["<Thor>", "<thor>"]
    assert score_caption(record, known, "repic-single").hallucinated == ()
    assert score_caption(record, known, "repic-4").hallucinated == ("<Thor>",)


def test_an_unknown_protocol_is_refused_without_records_too():
    for records in ([], [row(["<bo>"], "Bo.")]):
        with pytest.raises(ValueError, match="protocol 'nope': use one of repic-single"):
            score(records, "nope")


def test_span_by_hand():
    database = [Concept("<ironman>", "Iron Man", "x.jpg"), Concept("<man>", "Man", "x.jpg")]
    records = [
        row(["<ironman>", "<black widow>"], "Iron Man and BLACK WIDOW land; the Manhattan skyline glows."),
        row(["<man>"], "<ironman> looks at <stranger>."),
    ]
    found = score(records, "span", database)
    assert (found.correct, found.predicted, found.total) == (2, 3, 3)
    assert score(records, "span", database, unknown_tags=True).predicted == 4
    assert score_caption(records[1], database).hallucinated == ("<ironman>",)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("We walk in the park.", []),  # an ordinary word, not as stored
        ("Park smiles.", ["<park>"]),
        ("<PARK> smiles.", ["<park>"]),
        ("H waves.", ["<H>"]),
        ("h waves.", []),  # a single letter, not as stored
        ("the hulking thing, a superhulk, a hulk\u0302", []),  # inside another word
        ("Hulk's fist", ["<hulk>"]),
        ("black\n widow", ["<black widow>"]),
        ("ＨＵＬＫ!", ["<hulk>"]),  # compatibility forms
        ("a black widow and a widow", ["<black widow>", "<widow>"]),  # the longest match comes first
        ("Mr. Krabs and Mr.Krabs", ["<mr.krab>", "<mr.krab>"]),  # a full stop needs no space
        ("Zoe\u0308, Zoë", ["<Zoë>", "<Zoë>"]),  # a letter and a mark are that letter
        ("Zoe\u0302 and Zoe\u0308s", []),  # another letter; inside another word
        ("a dog, A dog, Dog", []),  # stored as the ordinary word itself: only in brackets
        ("<Dog>, < DOG > and <a>", ["<dog>", "<dog>", "<A>"]),
        ("Mia", ["<mia>"]),  # a tag takes precedence over another concept's name
        ("a hulk-like man, Anti-Hulk, non\u2011hulk", []),  # one word by its hyphen
        ("- hulk -\n-Hulk: the Hulk- and--hulk", ["<hulk>"] * 4),  # a bullet, dashes
        ("H-beam, H&M, H.B., J.H., e@hulk.com, hulk@e.com, @hulk, hulk_1", []),
        ("the hulk.", ["<hulk>"]),
        ("the hulk...Mia", ["<hulk>", "<mia>"]),
        ("hulk's 'hulk' hulk' Hulk\u2019s \u2018hulk\u2019", ["<hulk>"] * 5),  # possessives and quotes
        ("hulk't, hulk'sy, o'hulk, L\u2019hulk", []),
        ("<baby hulk>, <hulk hogan> </hulk>", []),  # another tag
        ("< hulk >", ["<hulk>"]),
        ("hulk\u093e, \u0915\u093ehulk, hulk\u20dd", []),  # a vowel sign (Mc, before and after), Me
        ("\u2764\ufe0fhulk\u2764\ufe0f", ["<hulk>"]),  # emoji are not letters
        ("hulk hulk-x hulk", ["<hulk>", "<hulk>"]),
    ],
)
def test_find_names(text, tags):
    known = [Concept("<park>", "Park", "x.jpg"), Concept("<mr.krab>", "Mr.Krabs", "x.jpg"), "<Zoë>", "<A>"]
    known += ["<H>", "<hulk>", "<black widow>", "<widow>", "<dog>", Concept("<m>", "Mia", "x.jpg"), "<mia>"]
    assert [tag for _, _, tag in find_names(text, known)] == tags


@pytest.mark.parametrize(
    ("text", "tag", "n"),
    [
        ("O\u2019Brien and O'Brien", "<O'Brien>", 2),
        ("O'Brien, <o'brien>", "<O\u2019Brien>", 2),
        ("小明在公园", "<小明>", 1),
        ("철수가 웃는다", "<철수>", 1),
        ("李子", "<李>", 0),  # one character: only on its own
        ("李 笑", "<李>", 1),
        ("マリアンナ", "<マリア>", 0),  # a katakana word
        ("कमल", "<मल>", 0),
        ("की मत, कीमत", "<मत>", 1),  # after a vowel sign no word begins
        ("İstanbul, ISTANBUL, istanbul", "<istanbul>", 3),
        ("T-shirt", "<T>", 0),
        ("X-ray", "<X>", 0),
        ("J.Crew", "<J>", 0),
        ("U.S. and the U.S.A.", "<U>", 0),
        ("U.S. and the U.S.A.", "<S>", 0),
        ("don't, DON\u2019T, Don's", "<Don>", 1),
        ("Spider-Man", "<spider>", 0),
        ("anna@bo.com", "<bo>", 0),
        ("J. Crew met J.", "<J>", 2),
        ("xbo bo bo", "<bo bo>", 1),  # a match that overlaps a refused one
    ],
)
def test_find_names_at_word_bounds(text, tag, n):
    assert len(find_names(text, [tag])) == n


@pytest.mark.parametrize("name", ["Bond", "Bingo", "Parrot", "Vision", "Plankton", "Otter", "Song"])
def test_names_that_are_ordinary_words(name):
    assert find_names(f"a {name.lower()}, {name}", [f"<{name}>"]) == [
        (len(name) + 4, 2 * len(name) + 4, f"<{name}>")
    ]


@given(st.text(), st.lists(st.text(st.characters(exclude_characters="<>"), min_size=1), max_size=4))
def test_find_names_gives_ordered_spans_in_the_text(text, names):
    candidates = [f"<{name}>" for name in names if name.strip()]
    spans = find_names(text, candidates)
    assert all(0 <= a < b <= len(text) for a, b, _ in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


@given(st.lists(st.sampled_from(["<bo>", "<mia>", "<black widow>"]), min_size=1, max_size=3, unique=True))
def test_naming_all_is_perfect_and_none_is_zero(tags):
    full = [row(tags, " and ".join(tags))]
    assert score(full).f1 == 1
    assert score([row(tags, "a quiet street")]).f1 == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[["a.jpg", ["<bo>"], "a do', "was it cut off"),
        ('{"a": 1}', "must hold a list of rows"),
        ('[["a.jpg", ["<bo>"], "x", "q"], ["b.jpg", ["<bo>"]]]', "row 2: must be"),
        ('[["a.jpg", [], "x", "q"]]', "row 1, tags"),
        ('[["a.jpg", ["<>"], "x", "q"]]', "row 1, tags"),
        ('[["a.jpg", 4, "x", "q"]]', "row 1, tags"),
        ('[[4, ["<bo>"], "x", "q"]]', "row 1, query"),
        ('[["a.jpg", ["<bo>"], null, "q"]]', "row 1, caption"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(CaptionFileError, match=message) as error:
        load_captions(path)
    assert str(path) in str(error.value)


def test_command_prints_and_writes_latex(tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([["a.jpg", ["<bo>"], "<bo> naps.", "q"]]))
    assert main(["score", str(path), "--latex", str(tmp_path / "table.tex")]) == 0
    assert "| mine | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 |" in capsys.readouterr().out
    assert r"mine & 100.0" in (tmp_path / "table.tex").read_text()


def test_command_on_a_bad_file_prints_one_line(tmp_path):
    (tmp_path / "half.json").write_text('[["a.jpg", ["<bo>"], "<b')
    command = [sys.executable, "-m", "repic_core", "score", str(tmp_path / "half.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r".*half\.json: not valid JSON .*was it cut off.*\n", done.stderr)
    with pytest.raises(CaptionFileError, match="can't be read"):
        load_captions(tmp_path)
    with pytest.raises(CaptionFileError, match=r"gone\.json: can't be read \(No such file"):
        load_captions(tmp_path / "gone.json")


def test_two_files_of_one_name_keep_both_rows(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x_1.json").write_text(json.dumps([["a.jpg", ["<bo>"], "<bo> & co.", "q"]]))
    assert main(["score", *(str(tmp_path / f / "x_1.json") for f in "ab"), "--protocol", "span"]) == 0
    assert capsys.readouterr().out.count("| 100.0 | 100.0 | 100.0 |") == 2
