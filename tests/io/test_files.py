"""Records of JSON lists and JSON Lines, and every file that can't be read, with the caller's error class."""

import json

import pytest

from repic_core.io.files import read_records


class FileError(ValueError):
    pass


RECORDS = [{"a": 1}, ["b"], 3]


def test_both_forms_give_the_records_and_where_they_are(tmp_path):
    one, many = tmp_path / "one.json", tmp_path / "many.jsonl"
    one.write_text(json.dumps(RECORDS, indent=1), encoding="utf-8-sig")
    many.write_text("\n".join([json.dumps(RECORDS[0]), "", *map(json.dumps, RECORDS[1:]), ""]))
    assert list(read_records(one, FileError)) == [
        (f"{one}, row {number}", record) for number, record in enumerate(RECORDS, 1)
    ]
    assert list(read_records(many, FileError)) == [
        (f"{many}, line {number}", record) for number, record in zip((1, 3, 4), RECORDS, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "can't be read (No such file or directory): give a JSON or JSONL file"),
        ("cp1252.jsonl", b'"\xe4"', "not UTF-8 text (invalid continuation byte at byte 1)"),
        ("a.json", b"{}", "must hold a list of questions"),
        (
            "a.json",
            b'[{"a": 1},\n{"b',
            "line 2: not valid JSON (Unterminated string starting at): was it cut off?",
        ),
        ("a.json", b"[1]\n[2]", "line 2: not valid JSON (Extra data): if it holds questions line by line"),
        ("a.jsonl", b'1\n\n{"a', "line 3: not valid JSON (Unterminated string starting at): was it cut off?"),
        ("a.jsonl", b"[\n1]", "or, if it is one list of questions, name it .json"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError) as error:
        list(read_records(path, FileError, "questions"))
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileError, match="Is a directory"):
        list(read_records(tmp_path, FileError))
