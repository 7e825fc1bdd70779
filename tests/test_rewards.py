"""Each reward against hand-worked values; each hole of the paper's rewards with the completion that uses it."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.rewards import (
    ict_reward,
    iou,
    oct_reward,
    paper_ict_multi_reward,
    paper_ict_single_reward,
    paper_iou,
    personalization_reward,
    vlt_reward,
)
from repic_core.tasks import read_solution

LONG = "He lies on a white rug in the living room and looks at the camera, happy and relaxed, his tongue out."


@pytest.mark.parametrize(
    ("completion", "solution", "paper", "strict"),
    [
        ("yes", "yes", 1, 1),
        ("No.", "no", 1, 1),
        ("no", "yes", 0, 0),
        ("I know, yes", "yes", 0, 1),  # "no" hides in "know"
        ("yes or no", "yes", 1, 0),  # both, so nothing is said
        ("Yesterday it rained", "yes", 1, 0),  # "yes" hides in "yesterday"
        ("maybe", "yes", 0, 0),
        ("", "no", 0, 0),
        ("yes", "Yes.", 1, 1),
        ("yes", "", 0, 0),
        ("The answer is not yes.", "yes", 0, 0),
        ("not yes", "yes", 0, 0),
        ("It isn\u2019t a yes.", "yes", 1, 0),
        ("either yes or no", "no", 0, 0),
        ("yes, no", "yes", 1, 0),
        ("yes/no", "yes", 1, 0),
        ("Yes or no, I cannot tell", "yes", 1, 0),
        ("Yes, there is no difference.", "yes", 1, 1),
        ("Yes, there is no difference.", "no", 0, 0),
        ("I see no difference, so it is the same object", "no", 1, 0),
        ("There is no doubt: the same object.", "no", 1, 0),
        ("I have no idea.", "no", 1, 0),
        ("No doubt, it is the same", "no", 1, 0),
        ("No difference, so yes.", "yes", 0, 1),
        ("No, it is another dog.", "no", 1, 1),
        ("No they differ", "no", 1, 1),
        ("They are not alike so no.", "no", 1, 1),
        ('{"answer": "no"}', "no", 1, 1),
        ("The answer is **yes**", "yes", 1, 1),
        ("ye\u017f, no", "no", 0, 0),  # a long s: one "yes" to upstream's regex, which equals no answer
        ("No because the fur differs.", "no", 1, 1),
        ("No it's a different dog", "no", 1, 1),
        ("No both differ", "no", 1, 1),
        ("Answer: Yes, both show the same dog.", "yes", 1, 1),
        ("1. Yes, same", "yes", 1, 1),
        ("### Answer\n\nNo, it is another.", "no", 1, 1),
        ("The answer is yes, since the fur agrees.", "yes", 1, 1),
        ('{"answer": "yes", "reason": "same fur"}', "yes", 1, 1),
        ("I'd say no, they differ.", "no", 1, 1),
        ("The same? Yes, it is the same.", "yes", 1, 1),
        ("\uff39\uff25\uff33", "yes", 0, 1),  # full width
        ("If it were yes, they would be alike.", "yes", 1, 0),
        ("Yes they are. No they are not.", "yes", 1, 0),
        ("Yes it is, no it isn't", "yes", 1, 0),
        ("no yes", "yes", 0, 0),
        ("no yes", "no", 1, 0),
        ("no maybe yes", "yes", 0, 0),
        ("well no yes", "yes", 0, 0),
        ("I say yes to no", "no", 0, 0),
        ("<think>It looks like no.</think>yes", "yes", 0, 1),
        ("<think>It looks like no.</think>\n\n<answer>yes</answer>", "yes", 0, 1),
        ("It looks like no.</think>yes", "yes", 0, 1),
        ("<think>yes", "yes", 1, 0),  # cut off in its reasoning
        ("\\boxed{yes}", "yes", 1, 1),
        ("_yes_</s>", "yes", 1, 1),
        ("no.&nbsp;", "no", 1, 1),
    ],
)
def test_oct(completion, solution, paper, strict):
    assert oct_reward(completion, solution, "paper") == paper
    assert oct_reward(completion, solution, "strict") == strict


@pytest.mark.parametrize(
    ("completion", "paper", "strict"),
    [
        ("[10, 10, 50, 50]", 1, 1),
        ('```json\n[{"bbox_2d": [10, 12, 50, 50], "label": "cat"}]\n```', 1, 1),
        ("[60, 60, 90, 90]", 0, 0),
        ("[10, 10, 50, 50] [0, 0, 5, 5]", 1, 0),  # one of several guesses
        ("[10.5, 10.0, 50.0, 50.0]", 0, 1),  # upstream reads integers only
        ("[50, 50, 10, 10]", 0, 0),  # corners swapped
        ("[10, 10, 10, 50]", 0, 0),  # no width
        ("the cat is at the left", 0, 0),
        ("[[10, 10, 50, 50], [60, 60, 90, 90]]", 1, 0),
        ("[10, 10, 50, 50, 60, 60, 90, 90]", 0, 0),  # not a box of four
        (f"[0, 0, {'9' * 5000}, 9]", 0, 0),  # int() would refuse so long a number
        (f"[10, 10, 50, {'0' * 5000}50]", 1, 1),  # zeros in front add nothing
        ("[10, 10, 50, 0]", 0, 0),
    ],
)
def test_vlt(completion, paper, strict):
    assert vlt_reward(completion, [10, 10, 50, 50], "paper") == paper
    assert vlt_reward(completion, [10, 10, 50, 50], "strict") == strict


def test_covip_wants_boxes_under_their_name():
    right = [10, 10, 50, 50]
    assert vlt_reward('[{"bbox_2d" : [ 10, 10 ,50, 50 ]}]', right, "covip") == 1
    assert vlt_reward("[10, 10, 50, 50]", right, "covip") == 0
    assert vlt_reward('[1, 1, 2, 2] {"bbox_2d": [10, 10, 50, 50]}', right, "covip") == 1
    assert vlt_reward('{"bbox_2d": [1, 1, 2, 2]} {"bbox_2d": [10, 10, 50, 50]}', right, "covip") == 0
    assert oct_reward("Yesterday it rained", "yes", "covip") == 1
    short = personalization_reward(["<bo>!"], ["<bo>"], ["yes_no_name"], profile="covip", min_length=0)
    assert short == [1.0]


def test_paper_iou_by_hand():
    # overlap 5..9 x 0..9 inclusive = 5 * 10; areas 100 + 100; union 150
    assert paper_iou([0, 0, 10, 10], [5, 0, 15, 10]) == 50 / 150
    # an overlap of one column (9..9) is no overlap for upstream: its far side must be greater
    assert paper_iou([0, 0, 10, 10], [9, 0, 19, 10]) == 0
    assert iou([0, 0, 10, 10], [9, 0, 19, 10]) == 10 / 190
    for profile in ("paper", "strict"):
        assert vlt_reward("[0, 0, 10, 10]", [0, 0, 10, 20], profile) == 1  # exactly 0.5 counts
        assert vlt_reward("[0, 0, 10, 10]", [0, 0, 10, 21], profile) == 0
    assert vlt_reward("[0,0,10,0000000000000000000010]", [0, 0, 10, 10], "paper") == 1


def test_paper_ict_single_by_hand():
    assert len(LONG) >= 100
    assert paper_ict_single_reward(f"<bo>: {LONG}", "<bo>") == 1
    assert paper_ict_single_reward("<bo> sleeps.", "<bo>") == 0  # shorter than 100 characters
    assert paper_ict_single_reward(f"<Bo>: {LONG}", "<bo>") == 0  # exact string
    assert paper_ict_single_reward(f"<bo>{LONG}</bo>", "<bo>") == 0  # the guard
    assert paper_ict_single_reward(f"bo/ {LONG}", "bo") == 1  # the guard is for solutions beginning with <


def test_paper_ict_multi_by_hand():
    assert paper_ict_multi_reward(f"<bo> and <mia>: {LONG}", ["<bo>", "<mia>"]) == 1
    assert paper_ict_multi_reward(f"<bo>: {LONG}", ["<bo>", "<mia>", "<zoe>", "<kim>"]) == 0.25
    assert paper_ict_multi_reward(f"<bo>{LONG}</bo>", ["<bo>", "<mia>"]) == 0.5  # no guard here
    assert paper_ict_multi_reward(LONG, []) == 0


TWO = ["<bo>", "<black widow>"]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<bo> runs after <black widow> in the snow.", 1.0),
        ("<BO> runs after <Black Widow> in the snow.", 1.0),
        ("<bo> runs after someone in the snow.", 0.5),
        ("A dog runs after someone in the snow.", 0.0),
        ("<bo> runs after <mia> in the deep snow.", 0.25),  # (1 - 0.5) / 2: a wrong name
        ("<bo> runs after <bo>, and <bo> is fast.", 0.0),  # (1 - 2 * 0.5) / 2: repeats
        ("<bo> <black widow> snow.", 0.0),  # a list of names, not a sentence
        ("bo runs after someone else in the snow.", 0.0),  # names of the prompt count as tags only
        ("<bo> runs, mia and zoe are watching him.", 0.25),  # wrong candidate without brackets
        ("<bo> runs, an anemiac looks on.", 0.5),  # "mia" inside a word is not a name
        ("<bo> runs after a widow in the park.", 0.25),  # the wrong candidate "widow", but not "park"
        ("<bo> runs after black widow in the snow.", 0.5),  # longest first: the widow here is black widow
        ("<bo> runs after < black\n widow > in the snow.", 1.0),
        ("<bo> runs after <black widow> </bo> in the snow.", 0.0),  # a closing tag, which "paper" lets pass
        ("<mia> sits.", -0.25),  # wrong names cost in a short caption,
        ("<mia> <zoe>, two friends.", -0.5),  # and in a list
        ("<black> runs after the spider in the snow.", -0.25),  # part of a tag is another tag
        ("<bo> runs after someone in the snow, Bo is fast.", 0.25),  # a repeat without brackets
        ("<bo> runs after someone </mia> in the snow.", 0.25),  # a wrong name in a closing tag: once
        ("<bo> runs after someone </ Eve> in the snow.", 0.25),  # not a candidate
        ("<bo> in <black widow>'s snow", 0.0),  # three words for two names
        ("<bo> in <black widow>'s snow now", 1.0),  # four
        ("<bo> in in in in <black widow>'s snow", 0.0),  # a word counts once
        ("<bo> sits, <mia> mia mia mia mia mia.", -1.0),  # six wrong names: (1 - 3) / 2
        ("<bo> sits, <mia> mia mia mia mia mia mia.", -1.0),  # and no less
    ],
)
def test_strict_ict(completion, value):
    candidates = [*TWO, "<mia>", "<widow>", "<park>"]
    assert ict_reward(completion, TWO, candidates, min_length=10) == pytest.approx(value)


JUNK = [
    "<bo>" + " bo" * 40,
    "<bo> is here." + " " * 100,
    "<bo> is here." + "." * 100,
    "<bo> is here" + " ." * 100,
    "<bo> " + "a " * 60,
    "<bo> is here, " + "a " * 60,
    "<bo> is here, " + "one two three four " * 10,
]


@pytest.mark.parametrize("completion", JUNK)
def test_padding_is_no_caption(completion):
    assert paper_ict_single_reward(completion, "<bo>") == 1  # upstream's hole
    assert ict_reward(completion, ["<bo>"]) <= 0


def test_padding_with_several_names_is_no_caption():
    names = ["<bo>", "<mia>", "<zoe>", "<kim>"]
    listed = "<bo>, <mia>, <zoe>, <kim> one two three four five six seven eight"
    assert ict_reward(listed + "." * 100, names) == 0
    assert ict_reward(f"{', '.join(names)}: {LONG}", names) == 1


@pytest.mark.parametrize(
    ("told", "info", "copied"),
    [
        ("一只戴着红色项圈、毛色棕白相间、喜欢在公园草地上追球的柴犬小狗", "same", True),
        ("a_well_groomed_medium_sized_Shiba_Inu", "same", True),
        ("awellgroomedmediumsizedShibaInu", "a well-groomed, medium-sized Shiba Inu", True),
        ("abcdefghijkl-mnopqrstuvwx", "abcdefghijklmnopqrstuvwx", True),  # 24 characters
        ("abcdefghijkl-mnopqrstuvw", "abcdefghijklmnopqrstuvwx", False),  # 23
        ("a dog on a red rug", "a dog on a red rug by me", True),  # six words in a row
        ("a dog on a red", "a dog on a red rug by me", False),  # five
        ("a dog on rugs", "same", True),  # all four words of an info
        ("a red dog", "same", False),  # three words are a description
    ],
)
def test_what_is_a_copy(told, info, copied):
    caption = f"<bo>: here we can see {told}, far away from home."
    value = ict_reward(caption, ["<bo>"], infos=[told if info == "same" else info], min_length=20)
    assert value == (0 if copied else 1)


def test_strict_ict_copying_and_length():
    info = "a well-groomed, medium-sized Shiba Inu with a black collar"
    copied = "<bo> is a well-groomed, medium-sized Shiba Inu with a black collar on a rug."
    assert ict_reward(copied, ["<bo>"], infos=[info], min_length=20) == 0
    assert ict_reward(copied, ["<bo>"], infos=["a cat"], min_length=20) == 1
    assert ict_reward("<bo> naps here.", ["<bo>"], min_length=100) == 0
    assert ict_reward("<bo> naps here.", ["<bo>"], min_length=15) == 1  # exactly met
    assert ict_reward("<bo> naps here.", ["<bo>"], min_length=16) == 0
    assert ict_reward("  <bo> naps here.  ", ["<bo>"], min_length=16) == 0
    info = "bo the red dog, bo the old dog"  # its names are part of it
    caption = f"<mia> sits in the sun today, {info}."
    assert ict_reward(caption, ["<mia>"], ["<bo>"], [info], min_length=0, penalty=0) == 0
    assert ict_reward(caption, ["<mia>"], ["<bo>"], [], min_length=0, penalty=0) == 1
    assert ict_reward("Kim met <Zoe\u0308> here.", ["<Zoë>"], min_length=10) == 1  # two ways to write ë
    assert ict_reward("<철수> liest <Zoë> ein Buch vor.", ["<철수>", "<ZOË>"], min_length=10) == 1


SALAD = "umbrella seven quickly purple engine under because table music river without forty lamp eleven often"


def test_what_no_rule_sees():
    """The open list of the module's docstring: each of these gets the reward of a faultless caption."""
    info = "a small brown dog with a red collar and white paws"
    shuffled = "collar paws brown a white with and small red dog"
    for open_hole in (
        f"<bo> {SALAD}",
        "I can't say whether <bo> is in this picture, as the photo is too dark for me to see who is in it, sorry.",
        f"<bo>: {LONG}",  # whatever the photo shows
        f"<bo>, {shuffled}, and this is what everybody can see here in the picture of today.",
        f"<bo> miacat aim: {LONG}",
    ):
        assert ict_reward(open_hole, ["<bo>"], ["<bo>", "<mia>"], [info]) == 1


@pytest.mark.parametrize(
    ("sentence", "listed"),
    [
        ("<小明>在公园的草地上追着红色的皮球，后面跟着<小红>", "<小明>、<小红>、和"),
        ("<ポチ>は公園の芝生で赤いボールを追いかけ、<タマ>がそれを見ている", "<ポチ>と<タマ>です"),
        ("<มะลิ>กำลังวิ่งเล่นในสวนกับ<โบ้>อย่างมีความสุข", "<มะลิ>และ<โบ้>"),
        ("<ມາລີ>ກຳລັງແລ່ນຢູ່ສວນກັບ<ໂບ>ຢ່າງມີຄວາມສຸກ", "<ມາລີ>ແລະ<ໂບ>"),
        ("<សុភា>កំពុងរត់លេងនៅក្នុងសួនជាមួយ<បូរ៉ា>", "<សុភា>និង<បូរ៉ា>"),
        ("<မေ>သည်ပန်းခြံထဲတွင်<ဘို>နှင့်အတူကစားနေသည်", "<မေ>နှင့်<ဘို>"),
        ("<小明>在公园里追着Frisbee飞盘，后面是<Bo>", "<小明>, <Bo>和"),
    ],
)
def test_scripts_without_spaces(sentence, listed):
    names = re.findall("<[^<>]+>", sentence)
    assert ict_reward(sentence, names, names, min_length=10) == 1
    assert ict_reward(sentence, names[:1], names, min_length=10) == 0.5  # the other one is not on the photo
    assert ict_reward(listed, names, names, min_length=0) <= 0  # a list, no sentence


def test_a_copy_in_a_script_without_spaces():
    info = "一只戴着红色项圈的棕色小狗"  # 13 characters: six words and a half
    caption = "<小明>是一只戴着红色项圈的棕色小狗，在公园的草地上玩"
    assert ict_reward(caption, ["<小明>"], infos=[info], min_length=10) == 0
    caption = "<小明>戴着项圈，这只棕色的狗在公园的草地上玩"
    assert ict_reward(caption, ["<小明>"], infos=[info], min_length=10) == 1


def test_reasoning_is_not_part_of_a_caption():
    thought = "<think>The photo shows a dog; the candidates are <bo> and <mia>. It's <bo>.</think>"
    caption = f"<bo>: {LONG}"
    assert ict_reward(thought + caption, ["<bo>"], ["<bo>", "<mia>"]) == 1
    assert ict_reward(thought + "<bo> naps.", ["<bo>"], ["<bo>", "<mia>"]) == 0  # too short without it
    assert ict_reward(thought.removesuffix("</think>") + caption, ["<bo>"]) == 0  # never ended: no caption


def test_one_text_is_a_list_of_one():
    good = "<bo> runs over a wide green meadow in the sun"
    assert ict_reward(good, "<bo>", min_length=10) == 1
    assert ict_reward(f"{good} with mia", "<bo>", '["<bo>", "<mia>"]', min_length=10) == 0.5
    rows = {"solution": ["<bo>"], "accu_reward_method": ["yes_no_name"], "min_length": 10}
    for candidates in ("<mia>", '["<bo>", "<mia>"]'):
        assert personalization_reward([f"{good} with mia"], candidates=[candidates], **rows) == [0.5]
    assert personalization_reward([good], infos=["a wide green meadow in the sun"], **rows) == [0]


def test_solutions_as_arrays_and_as_python_writes_them():
    assert read_solution(np.array([0, 0, 9, 9]), "iou") == [0, 0, 9, 9]
    assert read_solution(np.array(["<bo>", "<mia>"]), "yes_no_name_multi") == ["<bo>", "<mia>"]
    assert read_solution("['<bo>', \"<O'Brien>\"]", "yes_no_name_multi") == ["<bo>", "<O'Brien>"]


def test_the_floor_is_as_high_in_every_script():
    """Faultless captions of about the content of 100 English characters."""
    for caption in (
        "<小明>在公园的草地上追着一个红色的皮球开心地奔跑，后面是高高的树和蓝天",
        "<ポチ>は晴れた日の公園の芝生の上で、赤いボールを追いかけて楽しそうに走っています。後ろには木があります",
        "<철수>는 맑은 날 공원 잔디밭에서 빨간 공을 쫓아 신나게 달리고 있고, 뒤에는 커다란 나무들이 나란히 서 있다",
    ):
        assert ict_reward(caption, [caption[: caption.index(">") + 1]]) == 1
    assert ict_reward("<小明>在公园里跑", ["<小明>"]) == 0


def test_each_name_costs_what_the_parameters_say():
    text = "<bo> runs after <mia>, and <bo> is the faster one."
    assert ict_reward(text, ["<bo>"], min_length=10) == 0  # 1 - 0.5 * (a wrong name + a repeat)
    assert ict_reward(text, ["<bo>"], min_length=10, max_repeats=2) == 0.5
    assert ict_reward(text, ["<bo>"], min_length=10, penalty=0.25) == 0.5
    rows = {"completions": [text], "solution": ["<bo>"], "accu_reward_method": ["yes_no_name"]}
    assert personalization_reward(**rows, min_length=10, penalty=0.25) == [0.5]
    assert personalization_reward(**rows, min_length=10, candidates=[None], infos=[[]]) == [0]
    assert personalization_reward(**rows) == [0]  # below 100 characters
    rows["completions"] = ["<bo> runs after mia, with a black collar around the neck."]
    assert personalization_reward(**rows, min_length=10) == [1]
    assert personalization_reward(**rows, min_length=10, candidates=[["<bo>", "<mia>"]]) == [0.5]
    assert personalization_reward(**rows, min_length=10, infos=[["with a black collar around the neck"]]) == [
        0
    ]


def test_a_solution_without_brackets_is_a_whole_phrase():
    assert ict_reward("In the bowl sleeps bo, quietly.", ["bo"], min_length=10) == 1
    assert ict_reward("In the bowl sleeps a dog.", ["bo"], min_length=10) == 0
    assert paper_ict_single_reward(f"bowl {LONG}", "bo") == 1  # upstream's hole


NAMES = ["<bo>", "<mia>", "<zoe>", "<kim>"]


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(["<eve>", "<ann>", "<max>"]), max_size=2))
def test_the_strict_reward_is_graded(right, wrong):
    """One more right name is worth 1/4 and a wrong one costs 1/8, so that a group of captions always differs."""
    places = ["left of it", "far behind us", "on top", "under trees", "at home", "in rain"]
    caption = " ".join(f"{n} stands {p}." for n, p in zip(sorted(right | wrong), places, strict=False))
    value = ict_reward(caption, NAMES, [*NAMES, *wrong], min_length=0)
    assert value == pytest.approx(len(right) / 4 - len(wrong) / 8)


def test_routes_by_method_and_reads_every_form():
    completions = [
        "yes",
        [{"role": "assistant", "content": "[0, 0, 9, 9]"}],
        f"<bo>: {LONG}",
        f"<bo>: {LONG}",
        "x",
    ]
    solutions = ["yes", "[0, 0, 9, 9]", "<bo>", json.dumps(["<bo>", "<mia>"]), "?"]
    methods = ["yes_no", "iou", "yes_no_name", "yes_no_name_multi", "something else"]
    for profile in ("paper", "strict"):
        got = personalization_reward(completions, solutions, methods, profile=profile, trainer_state=None)
        assert got == [1.0, 1.0, 1.0, 0.5, None]
    with pytest.raises(ValueError, match="profile 'lenient'"):
        personalization_reward(completions, solutions, methods, profile="lenient")


@given(st.text(), st.sampled_from(["yes_no", "iou", "yes_no_name", "yes_no_name_multi"]), st.booleans())
def test_any_text_gets_a_bounded_reward(text, method, paper):
    solution = {
        "yes_no": "yes",
        "iou": [1, 2, 3, 4],
        "yes_no_name": "<bo>",
        "yes_no_name_multi": ["<bo>", "<a>"],
    }
    profile = "paper" if paper else "strict"
    (value,) = personalization_reward([text], [solution[method]], [method], profile=profile, min_length=0)
    assert -1 <= value <= 1


@given(st.lists(st.integers(0, 60), min_size=8, max_size=8))
def test_iou_is_symmetric_and_at_most_one(v):
    assert iou(v[:4], v[4:]) == iou(v[4:], v[:4]) <= 1
    assert paper_iou(v[:4], v[4:]) == paper_iou(v[4:], v[:4])


@given(st.lists(st.text(min_size=1), min_size=1))
def test_read_solution_round_trip(names):
    assert read_solution(json.dumps(names), "yes_no_name_multi") == names
    assert read_solution(names, "yes_no_name_multi") == names


def test_read_solution_by_hand():
    assert read_solution("[1, 2, 3.5, 4]", "iou") == [1, 2, 3.5, 4]
    assert read_solution("somewhere", "iou") == read_solution("5", "iou") == []
    assert read_solution("<bo>", "yes_no_name_multi") == ["<bo>"]
    one = [read_solution(s, "yes_no_name") for s in ("<bo>", ["<bo>"], '["<bo>"]')]
    assert one == ["<bo>"] * 3
    assert read_solution("[bo", "yes_no_name") == "[bo"
