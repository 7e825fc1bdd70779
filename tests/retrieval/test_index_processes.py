"""One index, several processes: no reader fails, and nothing is left over."""

import re

import numpy as np
import pytest

from helpers.writers import together
from repic_core.retrieval import index_files
from repic_core.retrieval.faiss_index import IndexFileError
from repic_core.retrieval.find import ConceptIndex

PREPARE = """
import numpy as np
from repic_core.retrieval.find import ConceptIndex
vectors = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
"""
WORK = """
for turn in range(12):
    if number < 2:
        index = ConceptIndex("numbers")
        count = 100 * (number + 1) + turn
        index.add_many([f"<{number} {row}>" for row in range(count)], vectors[:count])
        index.save(folder / "index")
    else:
        for again in range(3):
            index = ConceptIndex.load(folder / "index")
            whose = {tag[1] for tag in index.tags}
            assert len(whose) == 1 and len(index.tags) == len(index), (whose, len(index))
"""


def test_writers_and_a_reader_at_once(tmp_path):
    index = ConceptIndex("numbers")
    index.add("<0 0>", np.ones((1, 64)))
    index.save(tmp_path / "index")
    together(tmp_path, 3, PREPARE, WORK)
    files = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert len(files) == 2 and files[0] == "concepts.json"
    assert re.fullmatch(r"vectors-[0-9a-f]{8}\.faiss", files[1])
    assert len(ConceptIndex.load(tmp_path / "index")) in (111, 211)


def test_a_killed_writers_vectors_are_deleted_by_the_next(tmp_path):
    index = ConceptIndex("numbers")
    index.add("<bo>", np.ones((1, 4)))
    index.save(tmp_path)
    (tmp_path / "vectors-0123abcd.faiss").write_bytes(b"whole, but nothing names it")
    (tmp_path / "vectors-of-mine.faiss").write_bytes(b"not the index's")
    index.save(tmp_path)
    assert len(list(tmp_path.glob("vectors-*.faiss"))) == 2 and (tmp_path / "vectors-of-mine.faiss").exists()
    assert ConceptIndex.load(tmp_path).tags == ["<bo>"]


def test_a_reader_between_the_two_files(tmp_path, monkeypatch):
    """Another process saves after the names are read, before the vectors are."""
    old, new = ConceptIndex("numbers"), ConceptIndex("numbers")
    old.add("<bo>", np.ones((1, 4)))
    new.add_many(["<mia>", "<zoe>"], np.ones((2, 4)))
    old.save(tmp_path)
    read, saved = index_files.read_faiss, []

    def late(path):
        if not saved:
            saved.append(new.save(tmp_path))
        return read(path)

    monkeypatch.setattr(index_files, "read_faiss", late)
    assert ConceptIndex.load(tmp_path).tags == ["<mia>", "<zoe>"]
    for file in tmp_path.glob("*.faiss"):
        file.unlink()
    with pytest.raises(IndexFileError, match="no such file: build the index again"):
        ConceptIndex.load(tmp_path)
