"""Shares of files: how they are written, what they take, and VLM-R1's list of them."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.data.rows import RowError
from repic_core.data.shares import Share, parse_shares, read_shares


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("rows.jsonl", Share(Path("rows.jsonl"))),
        ("a:b.jsonl", Share(Path("a:b.jsonl"))),
        (r"C:\rows.jsonl", Share(Path(r"C:\rows.jsonl"))),
        (r"C:\rows.jsonl:first:10", Share(Path(r"C:\rows.jsonl"), "first", 10, False)),
        ("rows.jsonl:end:5", Share(Path("rows.jsonl"), "end", 5, False)),
        ("rows.jsonl:random:20%", Share(Path("rows.jsonl"), "random", 20, True)),
        ("a:first:1:end:2", Share(Path("a:first:1"), "end", 2, False)),
        ("rows.jsonl:last:5", Share(Path("rows.jsonl:last:5"))),
        ("rows.jsonl:first:-1", Share(Path("rows.jsonl:first:-1"))),
    ],
)
def test_how_a_share_is_written(text, share):
    assert parse_shares(text) == [share]


def test_a_file_of_that_name_is_meant_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl:first:1").write_text('{"n": 1}\n{"n": 2}\n')
    assert parse_shares("a.jsonl:first:1") == [Share(Path("a.jsonl:first:1"))]


def upstream(records, strategy):
    """What VLM-R1 takes, for "first" and "end" with a number above 0: restated from its dataset's logic."""
    kind, amount = strategy.split(":")
    n = math.ceil(int(amount[:-1]) * len(records) / 100) if amount.endswith("%") else int(amount)
    return records[:n] if kind == "first" else records[-n:]


AMOUNTS = st.integers(1, 30).map(str) | st.integers(1, 100).map("{}%".format)


@given(st.integers(0, 25), st.sampled_from(["first", "end", "random"]), AMOUNTS, st.integers(0, 9))
def test_what_a_share_takes(count, kind, amount, seed):
    records = list(range(count))
    [share] = parse_shares(f"a.json:{kind}:{amount}")
    taken = share.take(records, random.Random(seed))
    assert taken == share.take(records, random.Random(seed)) == sorted(set(taken))
    assert len(taken) == len(upstream(records, f"first:{amount}"))
    if kind != "random":
        assert taken == upstream(records, f"{kind}:{amount}")


def test_none_of_the_end_is_none():
    assert Share(Path("a"), "end", 0, False).take([1, 2], random.Random(0)) == []


def test_the_yaml_list_of_vlm_r1(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps([f"{name}{n}" for n in range(10)]))
    (tmp_path / "list.yaml").write_text(
        "datasets:\n"
        "  - json_path: in/a.json\n    sampling_strategy: first:2\n"
        "  - json_path: in/b.json\n    sampling_strategy: end:10%\n"
        "  - json_path: in/b.json\n    sampling_strategy: random:3\n"
        "  - json_path: in/a.json\n    sampling_strategy: all\n"
        "  - json_path: in/b.json\n"
    )
    found = read_shares([tmp_path / "list.yaml"], seed=1)
    taken = [record for _, record, _ in found]
    assert taken[:3] == ["a0", "a1", "b9"] and len(taken) == 3 + 3 + 20
    assert {folder for *_, folder in found} == {tmp_path / "in"}
    assert found[1][0] == f"{tmp_path / 'in' / 'a.json'}, row 2"
    assert found[2][0].endswith("b.json, row 10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: []", "must hold `datasets:`"),
        ("- json_path: a.json", "must hold `datasets:`"),
        ("datasets:\n- a.json", "dataset 1, field 'json_path': missing"),
        (
            "datasets:\n- json_path: a.json\n  sampling_strategy: last:3",
            "'last:3' is no share: write first:1000",
        ),
        ("datasets:\n- json_path: a.json\n  sampling_strategy: first:101%", "'first:101%' is no share"),
        ("datasets:\n- json_path: a.json\n  sampling_strategy: 3", "3 is no share"),
        ("datasets: [", "not valid YAML"),
    ],
)
def test_bad_lists_are_named(tmp_path, text, message):
    (tmp_path / "list.yml").write_text(text)
    with pytest.raises(RowError, match=message) as found:
        parse_shares(tmp_path / "list.yml")
    assert "list.yml" in str(found.value)


def test_more_than_all_and_no_file(tmp_path):
    with pytest.raises(RowError, match="'random:200%' is no share"):
        parse_shares("a.json:random:200%")
    with pytest.raises(RowError, match=r"nowhere.json: can't be read"):
        read_shares([f"{tmp_path}/nowhere.json:first:3"])
