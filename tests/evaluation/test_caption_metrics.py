"""Hallucinated names, copied words and length: by hand, by properties, and on the published captions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.captioner.caption_files import CaptionRecord, load_captions
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.caption_metrics import copied_share, hallucinated_names, measure
from repic_core.evaluation.intervals import mean_interval

INFO = "a small brown dog with a red collar"
DATABASE = ConceptDatabase(
    [Concept("<bo>", image="bo.png", info=INFO), Concept("<mia>", "Mia Rose", "mia.png")]
)


def row(caption, photo="a.jpg"):
    return CaptionRecord(photo, ("<bo>",), caption)


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        ("<bo> naps.", 0),
        ("<bo> and <bo> nap.", 0),
        ("<bo> and Mia Rose, and Mia Rose again", 1),
        ("<mia> and <zoe>", 2),  # <zoe> is not in the database
        ("a dog", 0),
        ("<bo></s>", 0),
    ],
)
def test_hallucinated_names_by_hand(caption, count):
    assert hallucinated_names([row(caption)], DATABASE) == [count]


@pytest.mark.parametrize(
    ("caption", "infos", "share"),
    [
        (INFO, [INFO], 1.0),
        ("A SMALL, brown dog!", [INFO], 1.0),  # case and punctuation do not hide a copy
        ("a small brown cat", [INFO], 0.0),  # three words in a row are not a copy
        ("<bo> is a small brown dog in the sun", [INFO], 4 / 9),
        ("a small brown dog meets a dog with a red", [INFO], 4 / 10 + 4 / 10),
        ("brown dog with a red collar", ["a small brown dog", "dog with a red collar"], 5 / 6),
        ("", [INFO], 0.0),
        ("a dog", [], 0.0),
        ("这里有一只戴着红色项圈的棕色小狗在草地上", ["一只戴着红色项圈的棕色小狗"], 13 / 20),
        (
            "这里有一只戴着项圈的小狗",
            ["一只戴着红色项圈的棕色小狗"],
            0.0,
        ),  # runs of five characters are no copy
        ("ここに赤い首輪をした茶色の犬がいる", ["赤い首輪をした茶色の犬"], 11 / 17),
        ("วันนี้หมาสีน้ำตาลใส่ปลอกคอสีแดงวิ่ง", ["หมาสีน้ำตาลใส่ปลอกคอสีแดง"], 16 / 21),
        ("它是a small brown dog在玩", ["a small brown dog"], 4 / 6),  # four words and four characters
        ("<think>a small brown dog</think>A cat.", [INFO], 0.0),
        ("**A small** &quot;brown&quot; dog</s>", [INFO], 1.0),
    ],
)
def test_copied_share_by_hand(caption, infos, share):
    assert copied_share(caption, infos) == pytest.approx(share)


words = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(words, words, words)
def test_copied_share_is_a_share_and_grows_with_what_is_told(caption, info, other):
    shares = [
        copied_share(" ".join(caption), [" ".join(i) for i in infos]) for infos in ([info], [info, other])
    ]
    assert 0 <= shares[0] <= shares[1] <= 1
    assert copied_share(" ".join(caption), [" ".join(caption)]) == (len(caption) >= 4)


def test_means_and_their_intervals():
    rows = [row("<bo> naps.", "a"), row("<mia> naps.", "a"), row(INFO, "b"), row("<zoe> <mia>", "c")]
    found = measure(rows, DATABASE)
    assert found["hallucinated"].value == 3 / 4 and found["copied"].value == 1 / 4
    assert found["words"].value == (2 + 2 + 8 + 2) / 4
    assert found["hallucinated"].low == 0 and found["hallucinated"].high == 2
    assert found == measure(rows, DATABASE)  # seeded


def test_length_in_words():
    texts = {
        "<bo> naps.</s>": 2,
        "**Bo** naps<br>": 2,
        "小明在公园": 5,
        "Bo在公园": 4,
        "มะลิวิ่ง": 4,
        "철수가 웃는다": 2,
    }
    for caption, length in texts.items():
        assert measure([row(caption)], DATABASE)["words"].value == length


def test_photos_weigh_as_many_captions_as_they_have():
    found = mean_interval([0, 0, 0, 1], ["a", "a", "a", "b"])
    assert (found.value, found.low, found.high) == (0.25, 0, 1)


def test_published_captions(official_root):
    from repic_core.evaluation.published import published_files

    files, database = published_files(official_root)
    known = ConceptDatabase.load(database, root=official_root, check_images=False)
    found = {method: measure(load_captions(path), known, "caption") for method, path in files.items()}
    ours, base = found["RePIC 7B"], found["Qwen2.5-VL 7B zero-shot"]
    # 74 concepts of other rows, <Wanda Maximoff> four times and <Wolverine>
    assert ours["hallucinated"].value == pytest.approx((74 + 5) / 105)
    assert ours["words"].value == pytest.approx(54.6, abs=0.1) and base["words"].value < ours["words"].low
    assert all(0 <= one["copied"].low <= one["copied"].high <= 1 for one in found.values())
