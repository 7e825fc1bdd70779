"""Records of JSON lists and JSON Lines, and every file that can't be read, with the caller's error class."""

import json

import pytest

from repic_core.io.files import (
    read_json,
    read_records,
    read_text,
    write_json_atomic,
    write_records,
    write_text_atomic,
)


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


CODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("coding", [*CODINGS, "utf-16-be with a mark"])
def test_every_coding_that_says_itself_is_read(tmp_path, coding):
    def written(text):
        return (
            "\ufeff".encode("utf-16-be") + text.encode("utf-16-be") if " " in coding else text.encode(coding)
        )

    value = {"name": "Zoë 각 😀", "n": [1]}
    for name, text in (
        ("a.json", json.dumps([value], ensure_ascii=False)),
        ("a.JSONL", json.dumps(value) + "\r\n"),
    ):
        (tmp_path / name).write_bytes(written(text))
        assert [record for _, record in read_records(tmp_path / name, FileError)] == [value]
    (tmp_path / "a.json").write_bytes(written(json.dumps(value)))
    assert read_json(tmp_path / "a.json", FileError) == value
    (tmp_path / "info.txt").write_bytes(written("a dog\r\n"))
    assert read_text(tmp_path / "info.txt", FileError) == "a dog\n"


def test_joined_files_have_several_marks(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(2 * "\ufeff{}\n".encode() + "\ufeff\n".encode())
    assert len(list(read_records(tmp_path / "a.jsonl", FileError))) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]".encode("utf-16")[:-1], "not UTF-16 text (truncated data at byte 6): was it cut off?"),
        (b'"caf\xe9 noir"', "not UTF-8 text (invalid continuation byte at byte 4): save it as UTF-8"),
        (b'"caf\xc3', "not UTF-8 text (unexpected end of data at byte 4): was it cut off?"),
        (b'"\xed\xa0\xbd"', "not UTF-8 text"),
        (b"[" * 100_000, "not valid JSON (line 1: too deeply nested)"),
        (b"1" * 5000, "not valid JSON (line 1: Exceeds the limit"),
    ],
)
def test_other_texts_are_named(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    for read in (read_json, lambda *given: list(read_records(*given))):
        with pytest.raises(FileError) as error:
            read(tmp_path / "a.json", FileError)
        assert str(error.value).startswith(str(tmp_path / "a.json"))
        assert said.partition("(line")[0] in str(error.value)


def test_half_a_character_is_written_and_read_again(tmp_path):
    value = ["a \ud83d dog", "photo-\udce4.jpg", "😀"]
    for path in (write_json_atomic(tmp_path / "a.json", value), write_records(tmp_path / "b.json", value)):
        assert read_json(path, FileError) == value
    path = write_records(tmp_path / "b.jsonl", value)
    assert [record for _, record in read_records(path, FileError)] == value
    assert write_text_atomic(tmp_path / "a.md", value[0]).read_text() == "a \\ud83d dog"
