"""Names in texts as models and people of many countries write them."""

import unicodedata
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import CaptionRecord
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.names import find_names, read_names
from repic_core.concepts.scripts import length, runs, words
from repic_core.concepts.tags import key
from repic_core.display.named_pieces import named_pieces
from repic_core.evaluation.caption_metrics import hallucinated_names
from repic_core.evaluation.scores import score, score_caption


def unknown_names(text, tags):
    return read_names(text, tags).unknown()


def found(text, *tags):
    return [(text[a:b], tag) for a, b, tag in find_names(text, tags)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (r"\<bo\> naps.", r"\<bo\>"),
        ("_Bo_ naps.", "Bo"),
        ("**<bo>** naps.", "<bo>"),
        ("<**bo**> naps.", "<**bo**>"),
        ("`<bo>` naps.", "<bo>"),
        ("&lt;bo&gt; naps.", "&lt;bo&gt;"),
        ("&amp;lt;bo&amp;gt; naps.", "&amp;lt;bo&amp;gt;"),
        ("Bo&#39;s hat", "Bo"),
        ("Bo&nbsp;naps", "Bo"),
        ("<\u200bbo> naps.", "<\u200bbo>"),
        ("B\u200bo naps.", "B\u200bo"),
        ("B\u00ado naps.", "B\u00ado"),  # a soft hyphen
        ("\u202aBo\u202c naps.", "Bo"),
        ("[Bo](https://a.b) naps.", "Bo"),
        ("# Bo", "Bo"),
        ("<bo/> naps", "<bo/>"),
        ("<|bo|> naps", "bo"),
        ("I <3 bo and :>", "bo"),
        ("a <- bo -> b", "bo"),
        ("1 < bo, and 3 > 2", "bo"),
        ("<bo naps", "bo"),
        ("<bo's> hat", "<bo's>"),
        ("Bo&Zoe nap", "Bo"),
        ("<bo, zoe>", "bo"),
        ("<p>Bo</p>", "Bo"),
        ("M: Bo\u2014the dog\u2014naps", "Bo"),
        ("<think>Is it <bo>?</think><bo> naps", "<bo>"),
        ("One.\\nBo naps", "Bo"),
        ("\uff1cbo\uff1e naps", "\uff1cbo\uff1e"),
    ],
)
def test_a_name_in_markup_is_found_where_it_stands(text, named):
    assert found(text, "<bo>") == [(named, "<bo>")]


@pytest.mark.parametrize(
    "text", ["<think>bo</think> A dog.", "a <bo and mia> b", "bo_1", "<bozo>", "b o", "</bo>"]
)
def test_what_is_no_name(text):
    assert not found(text, "<bo>")


@pytest.mark.parametrize(
    "text", ["I <3 bo and mia :>", "I <3 you, bo & mia >:)", "x <- bo, y -> mia", ">_< bo mia >_<"]
)
def test_signs_hide_nobody(text):
    assert [tag for _, tag in found(text, "<bo>", "<mia>")] == ["<bo>", "<mia>"]
    assert unknown_names(text, ["<bo>", "<mia>"]) == []


MARKUP = [
    "<s>",
    "</s>",
    "<unk>",
    "<br>",
    "<br />",
    "<p>",
    "<pad>",
    "<0x0A>",
    "<|im_end|>",
    "<b>",
    "<eos>",
    "<image>",
    "<div>",
]


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_is_no_name(markup):
    rows = [
        CaptionRecord("a.png", ("<bo>",), caption)
        for caption in (f"<bo> naps.{markup}", f"{markup}<bo> naps.")
    ]
    assert hallucinated_names(rows) == [0, 0]
    assert score(rows, "span", unknown_tags=True).f1 == 1


def test_a_name_with_brackets_of_its_own():
    odd = Concept("<bo>", "<x> & <y>", "bo.png")
    assert find_names("A <x> & <y> naps.", [odd, "<x>"]) == [(2, 11, "<bo>")]
    assert find_names("<x> naps.", [odd, "<x>"]) == [(0, 3, "<x>")]


def test_several_names_in_one_pair_of_brackets():
    assert [tag for _, tag in found("<bo and mia>, <bo, mia>, <bo & mia>", "<bo>", "<mia>")] == [
        "<bo>",
        "<mia>",
    ] * 3
    assert unknown_names("<bo and mia>", ["<bo>", "<mia>"]) == []
    assert found("<bo and mia>", "<bo>", "<mia>", "<bo and mia>") == [("<bo and mia>", "<bo and mia>")]


def test_a_concept_may_have_the_name_of_markup():
    assert found("<S> naps beside <b>.", "<S>", "<B>") == [("<S>", "<S>"), ("<b>", "<B>")]
    assert unknown_names("<Zoe> and <zoe>, <mia>", ["<bo>"]) == ["<Zoe>", "<mia>"]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        *(
            (f"Anne{dash}Marie naps", "<Anne-Marie>")
            for dash in "-\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
        ),
        *(
            (f"O{mark}Brien naps", "<O'Brien>")
            for mark in "'\u2018\u2019\u00b4`\u2032\u02bc\u02bb\uff07\u201b"
        ),
        *(
            (f"{name} naps", tag)
            for name in ("Mr Whiskers", "Mr. Whiskers", "Mr.Whiskers", "MR  WHISKERS")
            for tag in ("<Mr. Whiskers>", "<Mr Whiskers>", "<mr.whiskers>")
        ),
        ("Sammy Davis Jr. sings", "<Sammy Davis Jr>"),
        ("Sammy Davis Jr sings", "<Sammy Davis Jr.>"),
        ("J. R. Smith and J.R. Smith", "<J.R. Smith>"),
        ("Bo'nun şapkası, Bo\u2019yu", "<Bo>"),  # Turkish
        ("Bo'll nap, bo'd, Bo've", "<Bo>"),
        ("le chapeau d'Anna", "<Anna>"),
        ("la gamelle qu\u2019Anna aime", "<Anna>"),
    ],
)
def test_punctuation_of_names(text, tag):
    assert found(text, tag)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("The cat is black. Widow Twankey naps", "<black widow>"),
        ("Don't!", "<Don>"),
        ("Ma'am", "<Ma>"),
        ("O'Brien", "<Brien>"),
        ("D'Angelo", "<Angelo>"),
        ("Anne-Marie", "<Anne>"),
    ],
)
def test_punctuation_that_makes_another_name(text, tag):
    assert not found(text, tag)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKD"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("철수", "철수가 웃는다"),
        ("محمد", "محـــمد نائم"),
        ("মোহন", "মোহন হাসছে"),
        ("மோகன்", "மோகன் சிரிக்கிறான்"),
        ("मोहन", "मोहन हँस रहा है"),
        ("Zoë", "Zoë lacht"),
        ("Nguyễn", "Nguyễn cười"),
        ("ガラ", "ガラは寝ている"),
        ("Ёжик", "Ёжик спит"),
    ],
)
def test_composed_and_decomposed(name, text, form):
    other = unicodedata.normalize(form, name)
    assert found(text, f"<{other}>") and found(unicodedata.normalize(form, text), f"<{name}>")
    with pytest.raises(ConceptError):
        ConceptDatabase([Concept(name=name, image="a.png"), Concept(name=other, image="b.png")])


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("Bo\u2122 naps, Bo\u00b9 too", "<bo>"),
        ("Bo<sup>1</sup> naps", "<bo>"),
        (
            "\u05d1\u05df\u05be\u05d2\u05d5\u05e8\u05d9\u05d5\u05df",
            "<\u05d1\u05df-\u05d2\u05d5\u05e8\u05d9\u05d5\u05df>",
        ),  # a maqaf
        (
            "\u054f\u056b\u0563\u0580\u0561\u0576\u058a\u0531\u0576\u056b",
            "<\u054f\u056b\u0563\u0580\u0561\u0576-\u0531\u0576\u056b>",
        ),
        *((f"哈利{dot}波特在笑", "<哈利·波特>") for dot in "·・•‧"),
        ("قط وصوفيا في الحديقة", "<صوفيا>"),  # "and" is one letter, and one word with the name
        ("החתול ודוד בגן", "<דוד>"),
        ("Bo-san naps", "<Bo>"),
        ("That is Bo.The cat naps", "<Bo>"),
        ("Rose naps, R\u200bose", "<Rose>"),
        ("quell'Anna", "<Anna>"),
        ("R\u200bose", "<Rose>"),  # an ordinary word, written as stored
        ("\uff32ose", "<Rose>"),
        ("É naps", "<E\u0301>"),
        ("❤\ufe0f", "<❤>"),
        ("❤", "<❤\ufe0f>"),
    ],
)
def test_names_of_other_countries_and_forms(text, tag):
    assert found(text, tag)


def test_a_character_that_holds_two_names_is_shown_once():
    pieces, _ = named_pieces("\u337f naps", [], ["<株式>", "<会社>"])
    assert "".join(piece for piece, _ in pieces) == "\u337f naps"


def test_many_marks_on_one_letter():
    assert find_names("\u0301\u0323" * 50_000 + " Bo", ["<bo>"])  # quadratic, this would take a minute


def test_joiners_stay_where_a_script_needs_them():
    persian = "\u0646\u06cc\u0645\u200c\u06a9\u062a"
    assert not found(persian.replace("\u200c", ""), f"<{persian}>")
    assert found(f"{persian} naps", f"<{persian}>")
    assert found("Bo\u200d naps", "<bo>") and found("B\u200co naps", "<bo>")
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert found(f"<{family}>", f"<{family}>") and not found("\U0001f468\U0001f469\U0001f467", f"<{family}>")


@pytest.mark.parametrize(
    ("text", "tag", "n"),
    [
        ("小明在公园，小明笑", "<小明>", 2),
        ("照片里Bo在跑", "<Bo>", 1),
        ("小明Bo2", "<Bo>", 0),
        ("ポチは公園で走る", "<ポチ>", 1),
        ("ポチョムキン", "<ポチ>", 0),  # a longer word of katakana
        ("隣のボーが", "<ボー>", 1),
        ("วันนี้มะลิวิ่งเล่น", "<มะลิ>", 1),  # a tone mark before it
        ("ที่มะลินั่ง", "<มะลิ>", 1),
        ("มะลิ้", "<มะลิ>", 0),  # a tone mark of its last letter
        ("เมยา", "<มยา>", 0),  # the vowel before it is its first letter's
        ("ມາລີແລ່ນຢູ່ສວນ", "<ມາລີ>", 1),
        ("នៅសួនសុភាលេង", "<សុភា>", 1),
        ("ပန်းခြံမှာအောင်အောင်ကစားနေတယ်", "<အောင်အောင်>", 1),
        ("Boวิ่งเล่นกับมะลิ", "<Bo>", 1),
        ("철수랑 Bo가 웃는다", "<Bo>", 1),
    ],
)
def test_scripts_without_spaces(text, tag, n):
    assert len(find_names(text, [tag])) == n


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bo's red ball", ["bo", "s", "red", "ball"]),
        ("戴着red项圈", ["戴", "着", "red", "项", "圈"]),
        ("ボール", ["ボ", "ー", "ル"]),
        ("เล่นที่", ["เล่", "น", "ที่"]),
        ("ກະຕ່າ", ["ກະ", "ຕ່າ"]),
        ("ខ្មែរ", ["ខ្មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("मोहन हँस", ["मोहन", "हँस"]),  # spaces, so whole words with their vowel signs
        ("철수가 웃는다", ["철수가", "웃는다"]),
        ("", []),
        ("\u0e31?! \u0301", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@given(st.text(), st.integers(1, 8))
def test_runs_are_as_long_as_they_must_be(text, size):
    said = words(text)
    for start, end in runs(said, size):
        assert length(said[start:end]) >= size > length(said[start : end - 1])
    assert bool(list(runs(said, size))) == (length(said) >= size)


@pytest.mark.parametrize(
    "two",
    [
        [Concept("<a>", "Max", "a.png"), Concept("<b>", "max", "b.png")],
        [Concept("<ironman>", "Iron Man", "a.png"), Concept("<iron man>", "Tony", "b.png")],
        [Concept(name="Mr. Whiskers", image="a.png"), Concept(name="Mr Whiskers", image="b.png")],
        [Concept(name="Anne-Marie", image="a.png"), Concept(name="Anne\u2013Marie", image="b.png")],
    ],
)
def test_concepts_that_no_caption_could_tell_apart_are_refused(two):
    for pair in (two, two[::-1]):
        with pytest.raises(ConceptError, match=r"can't be told from|is taken already"):
            ConceptDatabase(pair)
    known = ConceptDatabase([two[0], Concept("<c>", "Other", "c.png")])
    with pytest.raises(ConceptError):
        known.rename("<c>", two[1].name, two[1].tag)
    assert known.rename(two[0].tag, "New").name == "New"
    known.add(Concept("<d>", two[0].name, "d.png"))  # the name is free again
    assert known.rename("<d>", two[0].name).tag == f"<{two[0].name}>"


def test_pieces_are_the_caption_again():
    pieces, missing = named_pieces(r"\<bo\> &amp; _Mia_ nap", ["<BO>", "<zoe>"], ["<bo>", "<mia>", "<zoe>"])
    assert pieces == [(r"\<bo\>", "<BO>"), (" &amp; _", None), ("Mia", ""), ("_ nap", None)]
    assert missing == ["<zoe>"]


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("<bo> naps.", []),
        ("<bo> beside <mia> and <bowa>.", ["<mia>", "<bowa>"]),
        ("<Wanda Maximoff> and Wanda; <bowa>, <Bowa>.", ["<Wanda Maximoff>", "<bowa>", "<Bowa>"]),
        ("Mia meets &lt;bowa&gt; and **<zed>**.", ["Mia", "&lt;bowa&gt;", "<zed>"]),
        ("a < b, b > c, 1 <2> 3, <3 and <br> naps</s>", ["<2>"]),
        ("<bo and mia> <|im_end|> <think>Is it <bowa>?</think> naps", ["mia"]),
        ("<bo's> dog, <bo/> and </bowa>", []),
    ],
)
def test_struck_out_is_what_is_counted(caption, wrong):
    pieces, missing = named_pieces(caption, ["<bo>"], ["<mia>"])
    assert [piece for piece, tag in pieces if tag == ""] == wrong
    scored = score_caption(CaptionRecord("a.jpg", ("<bo>",), caption), ["<mia>"])
    counted = {key(unescape(text)) for text in (*scored.hallucinated, *scored.unknown)}
    assert {key(unescape(text)) for text in wrong} == counted
    assert missing == list(scored.missed)
    assert "".join(piece for piece, _ in pieces) == caption


@given(
    st.lists(
        st.sampled_from(
            ["<bo>", "<bowa>", "**", "\\<", "&lt;", "bo", "mia", "<br>", " ", "\u200b", "_", "</think>", ">"]
        )
    )
)
def test_pieces_join_to_the_caption(parts):
    caption = "".join(parts)
    assert "".join(piece for piece, _ in named_pieces(caption, ["<bo>"], ["<bo>", "<mia>"])[0]) == caption
