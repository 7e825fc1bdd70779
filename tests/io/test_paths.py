"""What a folder shows, and the file that a path from another system means."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repic_core.io.paths import find_file, is_hidden, shown_entries, shown_members

HIDDEN = (
    ".ipynb_checkpoints",
    "@eaDir",
    "__MACOSX",
    "._bo.jpg",
    "Thumbs.db",
    "thumbs.DB",
    "desktop.ini",
    ".DS_Store",
    "$RECYCLE.BIN",
    "lost+found",
    "System Volume Information",
    "#recycle",
    ".Trash-1000",
    "~$bo.jpg",
)
NAME = "photos/Zoë Müller é/각.png"


def test_hidden_and_system_entries(tmp_path):
    for name in (*HIDDEN, "bo.jpg", "@bo.jpg", "bo.thumbs.db"):
        assert is_hidden(name) == (name in HIDDEN)
        (tmp_path / name).mkdir()
    assert [entry.name for entry in shown_entries(tmp_path)] == ["@bo.jpg", "bo.jpg", "bo.thumbs.db"]
    members = ["a/b.jpg", "__MACOSX/a/._b.jpg", "a/@eaDir/b.jpg", "a\\.hidden\\b.jpg", "c\\d.jpg"]
    assert shown_members(members) == ["a/b.jpg", "c\\d.jpg"]


@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("slash", ["/", "\\", "\\.\\"])
def test_spellings_of_other_systems(tmp_path, disk, written, slash):
    file = tmp_path / unicodedata.normalize(disk, NAME)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert find_file(tmp_path, unicodedata.normalize(written, NAME).replace("/", slash)) == file
    assert find_file(str(tmp_path), str(file)) == file


def test_what_is_there_as_written_comes_first(tmp_path):
    for name in ("a\\b", "\u00e9", "e\u0301"):
        (tmp_path / name).write_text(name)
        assert find_file(tmp_path, name).read_text() == name
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("a/b")
    assert find_file(tmp_path, "a\\b").read_text() == "a\\b"
    assert find_file(tmp_path, "a\\.\\b").read_text() == "a/b"


def test_a_file_that_comes_later_is_found(tmp_path):
    assert not find_file(tmp_path, "Zoë").exists()
    (tmp_path / unicodedata.normalize("NFD", "Zoë")).write_text("")
    assert find_file(tmp_path, "Zoë").exists()


@given(st.text(st.characters(exclude_characters="\0"), max_size=40))
def test_any_text_is_a_path_or_is_not_there(tmp_path_factory, text):
    root = tmp_path_factory.getbasetemp() / "empty"
    root.mkdir(exist_ok=True)
    assert find_file(root, text) == root / text or find_file(root, text).exists()
    assert not find_file(root, "\ud83d\udce4 \0").is_file()
