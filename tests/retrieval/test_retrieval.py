"""Retrieval: the index against brute force, under edits, on disk, and on the authors' vectors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repic_core.captioner.caption_files import CaptionItem
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.retrieval import faiss_index as vectors_module
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.faiss_index import IndexFileError
from repic_core.retrieval.find import ConceptIndex, find_concepts, with_retrieved
from repic_core.retrieval.regions import tiles


class Colors:
    """An embedder by mean colour."""

    name = "mean colour"

    def __init__(self):
        self.seen = 0

    def images(self, photos):
        self.seen += len(photos)
        return unit([np.asarray(photo, np.float32).mean((0, 1)) + 1 for photo in photos])


COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "yellow": (250, 250, 0)}


def paint(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)
    return str(path)


@pytest.fixture
def database(tmp_path):
    concepts = [Concept(name=name, image=paint(tmp_path / f"{name}.png", c)) for name, c in COLORS.items()]
    return ConceptDatabase(concepts, root=tmp_path, path=tmp_path / "database.json")


def nearest(index, color):
    hits = index.search([np.array(color, float) + 1], k=1)[0]
    return hits[0].tag if hits else None


def test_each_photo_finds_its_own_concept(database):
    index = ConceptIndex.build(database, Colors())
    assert [nearest(index, color) for color in COLORS.values()] == [f"<{name}>" for name in COLORS]
    hits = index.search([(250, 120, 0)], k=3)[0]
    assert [hit.tag for hit in hits] == ["<yellow>", "<red>", "<green>"]
    red = np.array([251, 1, 1]) / np.linalg.norm([251, 1, 1])
    query = np.array([250, 120, 0]) / np.linalg.norm([250, 120, 0])
    assert hits[1].similarity == pytest.approx(red @ query, abs=1e-6)
    assert len(index) == 4 and "<RED>" in index and "<mia>" not in index


def test_edits_never_shift_another_concept(database):
    embedder = Colors()
    index = ConceptIndex.build(database, embedder)
    database.remove("<green>")
    database.rename("<red>", "ruby")
    grey = paint(database.root / "grey.png", (90, 90, 90))
    database.add(Concept(name="grey", image=[grey, paint(database.root / "dark.png", (9, 9, 30))]))
    changes = index.update(database, embedder)
    assert (changes.added, changes.removed) == (3, 2)  # ruby's photo is embedded again, under its tag
    assert embedder.seen == 4 + 3
    assert [nearest(index, COLORS[c]) for c in ("red", "blue", "yellow")] == ["<ruby>", "<blue>", "<yellow>"]
    assert nearest(index, (90, 90, 90)) == "<grey>" and "<green>" not in index
    assert [hit.tag for hit in index.search([(10, 10, 31)], k=9)[0]].count("<grey>") == 1
    assert index.update(database, embedder).added == 0 and embedder.seen == 7
    paint(database.root / "blue.png", (0, 60, 250))  # the photo itself changes
    assert index.update(database, embedder).added == 1


def test_photos_that_fail_are_left_out_with_a_warning(database, caplog):
    (database.root / "green.png").write_bytes(b"no photo")
    (database.root / "blue.png").unlink()
    index = ConceptIndex("none yet")
    changes = index.update(database, Colors())
    assert sorted(tag for tag, _, _ in changes.skipped) == ["<blue>", "<green>"]
    assert "blue.png left out" in caplog.text and "green.png left out" in caplog.text
    assert sorted(index.tags) == ["<red>", "<yellow>"] and nearest(index, COLORS["yellow"]) == "<yellow>"


def test_add_rename_and_remove_by_tag():
    index = ConceptIndex("numbers")
    assert index.search([[1.0, 2.0]], k=3) == [[]]
    index.add("<bo>", [[1, 0], [0.9, 0.1]])
    index.add("<mia>", [[0, 1]])
    index.rename("<bo>", "<Zoe>")
    assert [hit.tag for hit in index.search([[1, 0.1]], k=2)[0]] == ["<Zoe>", "<mia>"]
    with pytest.raises(ValueError, match="<MIA> is taken"):
        index.rename("<zoe>", "<MIA>")
    index.remove("<zoe>")
    assert [hit.tag for hit in index.search([[1, 0.1]], k=2)[0]] == ["<mia>"] and index.tags == ["<mia>"]
    with pytest.raises(KeyError):
        index.remove("<zoe>")
    with pytest.raises(ValueError, match="3 dimensions in an index of 2"):
        index.search([[1, 2, 3]], k=1)
    with pytest.raises(ValueError, match="vector 1 is zero or not finite"):
        index.add("<nan>", [[1, 0], [0, 0]])
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search([[1, 2]], k=0)
    assert index.tags == ["<mia>"]


edits = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "rename"]), st.integers(0, 9), st.integers(0, 9)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(edits, st.integers(1, 4), st.integers(0, 5))
def test_search_equals_brute_force_after_any_edits(script, k, seed):
    rng = np.random.default_rng(seed)
    index, kept = ConceptIndex("random"), {}
    for what, one, two in script:
        tag, other = f"<c{one}>", f"<c{two}>"
        if what == "add":
            rows = rng.normal(size=(1 + two % 3, 6))
            index.add(tag, rows)
            kept[tag] = [*kept.get(tag, []), *unit(rows)]
        elif what == "remove" and tag in kept:
            index.remove(tag)
            del kept[tag]
        elif what == "rename" and tag in kept and other not in kept:
            index.rename(tag, other)
            kept[other] = kept.pop(tag)
    queries = unit(rng.normal(size=(3, 6)))
    for query, hits in zip(queries, index.search(queries, k), strict=True):
        expected = sorted(
            ((max(float(query @ v) for v in rows), tag) for tag, rows in kept.items()), reverse=True
        )
        assert [hit.tag for hit in hits] == [tag for _, tag in expected[:k]]
        assert [hit.similarity for hit in hits] == pytest.approx([s for s, _ in expected[:k]], abs=1e-5)


def test_threshold_abstains():
    index = ConceptIndex("numbers")
    index.add("<bo>", [[1, 0, 0]])
    index.add("<mia>", [[0, 1, 0]])
    # nearest similarities: right .8 .96; wrong .6 (a stranger), .28 (a stranger), and .8 (bo taken for mia)
    labelled = [[0.8, 0, 0.6], [0, 0.96, 0.28], [0.6, 0, 0.8], [0.28, 0, 0.96], [0.6, 0.8, 0]]
    tags = ["<bo>", "<mia>", None, None, "<bo>"]
    assert index.fit_threshold(labelled, tags, false_accepts=0.4) == pytest.approx(0.6, abs=1e-6)
    found = [[hit.tag for hit in hits] for hits in index.search(labelled, k=1)]
    assert found == [["<bo>"], ["<mia>"], [], [], ["<mia>"]]
    assert index.fit_threshold(labelled, tags, false_accepts=0) > 0.8 - 1e-6
    assert index.search(labelled[2:4], k=2) == [[], []]
    assert [len(hits) for hits in index.search(labelled, k=2, threshold=-1.0)] == [2] * 5
    with pytest.raises(ValueError, match="photos of no known concept"):
        index.fit_threshold(labelled[:2], tags[:2])


def test_saved_and_read_again(database, tmp_path):
    embedder, folder = Colors(), tmp_path / "index"
    index = ConceptIndex.open(folder, database, embedder)
    index.fit_threshold([(90, 90, 90)], [None])
    index.save(folder)
    again = ConceptIndex.open(folder, database, embedder)
    assert embedder.seen == 4 and again.threshold == index.threshold
    queries = [(250, 120, 0), (0, 9, 80)]
    assert again.search(queries, 3, -1.0) == index.search(queries, 3, -1.0)
    database.remove("<red>")
    assert "<red>" not in ConceptIndex.open(folder, database, embedder) and embedder.seen == 4
    assert "<red>" not in ConceptIndex.load(folder)
    assert len(list(folder.glob("*.faiss"))) == 1

    other = Colors()
    other.name = "another"
    assert ConceptIndex.open(folder, database, other).threshold is None and other.seen == 3
    assert ConceptIndex.load(folder).embedder_name == "another"


def test_broken_files_are_named(database, tmp_path):
    folder = tmp_path / "index"
    ConceptIndex.build(database, Colors()).save(folder)
    about = json.loads((folder / "concepts.json").read_text())
    (folder / "concepts.json").write_text(json.dumps({**about, "rows": about["rows"][:-1]}))
    with pytest.raises(IndexFileError, match="does not belong to the vectors beside it"):
        ConceptIndex.load(folder)
    (folder / "concepts.json").write_text("[]")
    with pytest.raises(IndexFileError, match="not a saved concept index"):
        ConceptIndex.load(folder)
    (folder / "concepts.json").write_text(json.dumps(about))
    (folder / about["vectors"]).write_bytes(b"nothing")
    with pytest.raises(IndexFileError, match="not a faiss index"):
        ConceptIndex.load(folder)
    (folder / about["vectors"]).unlink()
    with pytest.raises(IndexFileError, match="no such file"):
        ConceptIndex.load(folder)


def test_each_photo_has_a_vector_and_each_vector_a_photo():
    index = ConceptIndex("numbers")
    for tags, vectors in ((["<a>", "<b>"], [[1.0, 0.0]]), (["<a>"], [[1.0, 0.0], [0.0, 1.0]])):
        with pytest.raises(ValueError, match="give one each"):
            index.add_many(tags, vectors)
    index.add("<none>", np.empty((0, 2)))
    assert index.tags == [] and index.search([[1, 2]], 1) == [[]]
    index.add("<c>", [[0.0, 1.0]])
    assert index.search([[0.0, 1.0]], 1)[0][0].tag == "<c>" and index.search(np.empty((0, 2)), 3) == []


def test_a_threshold_fitted_on_the_same_vectors_lets_none_through():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 48))
    index = ConceptIndex("random")
    index.add_many([f"<c{n}>" for n in range(200)], vectors)
    index.fit_threshold(vectors, [None] * 200, false_accepts=0.0)
    assert index.search(vectors, 1) == [[]] * 200
    with pytest.raises(ValueError, match="not a number"):
        index.search(vectors, 1, float("nan"))
    with pytest.raises(ValueError, match="a share from 0 to 1"):
        index.fit_threshold(vectors, [None] * 200, false_accepts=float("nan"))
    with pytest.raises(ValueError, match="200 vectors, but 3 tags"):
        index.fit_threshold(vectors, [None] * 3)


def test_asking_for_more_concepts_than_there_are_reads_no_further(monkeypatch):
    from repic_core.retrieval import index as concept_index

    asked = []
    real = concept_index.search_faiss
    monkeypatch.setattr(concept_index, "search_faiss", lambda i, v, k: asked.append(k) or real(i, v, k))
    index = ConceptIndex("random")
    index.add_many([f"<c{n % 3}>" for n in range(3000)], np.random.default_rng(0).normal(size=(3000, 8)))
    assert [len(hits) for hits in index.search(np.eye(8), 5)] == [3] * 8
    assert max(asked) < 3000


def test_a_broken_index_is_built_again_and_other_files_stay(database, tmp_path, caplog):
    folder, embedder = tmp_path / "index", Colors()
    ConceptIndex.open(folder, database, embedder)
    vectors = next(folder.glob("*.faiss"))
    (folder / "vectors-of-another-process.faiss").write_bytes(b"just being written")
    vectors.write_bytes(b"cut off")
    index = ConceptIndex.open(folder, database, embedder)
    assert "built again" in caplog.text and len(index) == 4 and embedder.seen == 8
    assert (folder / "vectors-of-another-process.faiss").exists()
    assert len(ConceptIndex.load(folder)) == 4
    about = json.loads((folder / "concepts.json").read_text())
    (folder / "concepts.json").write_text(json.dumps({**about, "threshold": "high"}))
    with pytest.raises(IndexFileError, match="not a saved concept index"):
        ConceptIndex.load(folder)


def test_many_vectors_go_into_lists(monkeypatch, tmp_path):
    """The larger kind, at a size that a test can make: what it finds is nearly what an exact search does."""
    monkeypatch.setattr(vectors_module, "FLAT_LIMIT", 500)
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(3000, 8)) @ rng.normal(size=(8, 32)))
    index = ConceptIndex("random")
    index.add_many([f"<c{i // 2}>" for i in range(3000)], rows)  # two photos a concept
    assert not index.exact and "lists of codes" in repr(index)
    queries = unit(rows[:50] + 0.01 * rng.normal(size=(50, 32)))
    expected = [(-(queries @ rows.T)[i]).argsort()[:1] // 2 for i in range(50)]
    found = [[int(hit.tag[2:-1]) for hit in hits] for hits in index.search(queries, 1)]
    assert np.mean([e.tolist() == f for e, f in zip(expected, found, strict=True)]) >= 0.95
    gone = {hits[0] for hits in found}
    for number in gone:
        index.remove(f"<c{number}>")
    index.add("<new>", queries[:1])
    found = [[hit.tag for hit in hits] for hits in index.search(queries, 2)]
    assert found[0][0] == "<new>" and not {f"<c{n}>" for n in gone} & {t for tags in found for t in tags}
    for number in range(1490):
        if f"<c{number}>" in index:
            index.remove(f"<c{number}>")
    index.save(tmp_path)
    again = ConceptIndex.load(tmp_path)  # few are left: exact, and what was removed is not in it
    assert again.exact and len(again) == again._faiss.ntotal == 2 * len(again.tags) - 1
    left = np.array([number for number in range(1490, 1500) if f"<c{number}>" in again])
    best = (
        (queries @ rows.reshape(1500, 2, 32)[left].transpose(2, 0, 1).reshape(32, -1))
        .reshape(50, -1, 2)
        .max(2)
    )
    found = [hits[0].tag for hits in again.search(queries[1:], 2, -1.0)]
    expected = [f"<c{left[row.argmax()]}>" for row in best[1:]]
    fresh = queries[1:] @ queries[0]  # of the concept that was added
    assert found == [
        "<new>" if new > row.max() else tag for new, row, tag in zip(fresh, best[1:], expected, strict=True)
    ]


def test_concepts_of_a_photo(database):
    photo = Image.new("RGB", (40, 20), COLORS["blue"])
    photo.paste(COLORS["yellow"], (20, 0, 40, 20))
    index = ConceptIndex.build(database, Colors())
    found = find_concepts(photo, index, Colors(), tiles, k=4, threshold=0.99)
    assert {hit.tag for hit in found} == {"<blue>", "<yellow>"}
    assert [hit.tag for hit in find_concepts(photo, index, Colors(), k=1)] == ["<yellow>"]  # grey as a whole
    items = [
        CaptionItem(photo, [], tags=["<blue>"]),
        CaptionItem(Image.new("RGB", (9, 9), "grey"), [], tags=[]),
    ]
    both, none = with_retrieved(items, database, index, Colors(), tiles, k=2, threshold=0.99)
    assert {c.tag for c in both.references} == {"<blue>", "<yellow>"} and both.shown == ["<blue>"]
    assert none.references == [] and none.shown == []


def test_odd_regions_odd_photos_and_another_embedder(database, tmp_path):
    index = ConceptIndex.build(database, Colors())
    photo = Image.new("RGB", (640, 480), COLORS["blue"])
    for boxes in ([], [(0, 10, 640, 13)], [(5, 5, 5, 9)]):  # then the whole photo
        assert find_concepts(photo, index, Colors(), lambda _, b=boxes: b, k=1)[0].tag == "<blue>"
    other = Colors()
    other.name = "another"
    with pytest.raises(ValueError, match="the index is of mean colour, not of another: update it"):
        find_concepts(photo, index, other)
    index.add("<BLUE>", [np.array(COLORS["blue"]) + 1.0])  # the same concept, otherwise written
    assert len(find_concepts(photo, index, Colors(), k=4)) == 4
    long = ConceptDatabase([Concept(name="long", image=Image.new("RGB", (1000, 2))), *database])
    changes = ConceptIndex("x").update(long, Colors())
    assert changes.added == 4 and [tag for tag, _, _ in changes.skipped] == ["<long>"]
    near = ConceptDatabase([Concept(name="near", image="red.png")], root=database.root)  # under its root
    assert ConceptIndex.build(near, Colors()).tags == ["<near>"]


def test_the_authors_index(official_root, tmp_path):
    folder = official_root / "data/database_tot/database_dreambooth"
    known = ConceptDatabase.load(folder / "database_mod.json", root=official_root)
    index = ConceptIndex.read_upstream(folder, known)
    assert sorted(index.tags) == sorted(concept.tag for concept in known) and len(index) == 30

    import faiss

    stored = faiss.read_index(str(folder / "image.faiss"))
    rows = stored.reconstruct_n(0, 30)
    names = json.loads((folder / "id2filename.json").read_text())
    for number, hits in enumerate(index.search(rows, k=30)):
        concept = known[hits[0].tag]
        assert concept.images[0].endswith(names[str(number)].removeprefix("."))  # finds itself,
        assert hits[0].similarity == pytest.approx(1, abs=1e-5)
        assert [hit.similarity for hit in hits] == pytest.approx(
            sorted(rows @ rows[number], reverse=True), abs=1e-5
        )

    # and its neighbours are of its kind: each of the 8 dogs and 2 cats has an animal next, each sneaker the other,
    # and of the plush toys most another toy.
    kinds = {concept.tag: concept.category for concept in known}
    following = {hits[0].tag: kinds[hits[1].tag] for hits in index.search(rows, k=2)}
    animals = [tag for tag in following if kinds[tag] in ("dog", "cat")]
    assert len(animals) == 9 and {following[tag] for tag in animals} <= {"dog", "cat"}
    assert following["<shiny_sneaker>"] == following["<colorful_sneaker>"] == "sneakers"
    assert following["<backpack>"] == following["<backpack_dog>"] == "backpack"
    same = np.mean([kinds[tag] == kind for tag, kind in following.items()])
    shares = [list(kinds.values()).count(kind) - 1 for kind in kinds.values()]
    assert same >= 0.5 > 3 * np.mean(shares) / 29  # half by likeness; a tenth by chance

    # the same from another root, and from absolute paths
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    moved = {n: f"/home/someone/RePIC/{name.removeprefix('./')}" for n, name in names.items()}
    (copy / "id2filename.json").chmod(0o644)
    (copy / "id2filename.json").write_text(json.dumps(moved))
    again = ConceptIndex.read_upstream(copy, known)
    assert again.search(rows, k=3) == index.search(rows, k=3)

    # a photo that failed when the index was made shifts upstream's names: noticed
    short = faiss.IndexFlatL2(768)
    short.add(rows[:-1])
    (copy / "image.faiss").chmod(0o644)
    faiss.write_index(short, str(copy / "image.faiss"))
    with pytest.raises(IndexFileError, match="30 names for the 29 vectors"):
        ConceptIndex.read_upstream(copy, known)


def test_photos_that_are_no_concepts_are_left_out_of_the_authors_index(official_root):
    folder = official_root / "data/database_tot/database_4_concepts"
    known = ConceptDatabase.load(folder / "database_mod.json", root=official_root)
    index = ConceptIndex.read_upstream(folder, known)
    assert len(index) == 32 and sorted(index.tags) == sorted(concept.tag for concept in known)


def test_names_are_matched_to_photos_or_refused(tmp_path, caplog):
    import faiss

    concepts = [Concept(name=n, image=paint(tmp_path / n / "photo.png", COLORS[n])) for n in ("red", "blue")]
    known = ConceptDatabase(concepts, root=tmp_path)
    index = faiss.IndexFlatL2(2)
    index.add(np.eye(2, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "image.faiss"))

    def read(*names, of=known):
        (tmp_path / "id2filename.json").write_text(json.dumps(dict(enumerate(names))))
        return ConceptIndex.read_upstream(tmp_path, of)

    assert read("red/photo.png", "C:\\x\\blue\\photo.png").search([[0, 1]], 1)[0][0].tag == "<blue>"
    assert read("red/photo.png", "/other/photo.png").tags == ["<red>"]  # another photo of that file name
    assert "1 of 2 photos are of no concept" in caplog.text
    deeper = [
        Concept(name=n, image=paint(tmp_path / n / "in" / "photo.png", COLORS[n])) for n in ("red", "blue")
    ]
    with pytest.raises(IndexFileError, match="may be the photo of <blue> or <red>"):
        read("/x/in/photo.png", "other.png", of=ConceptDatabase(deeper, root=tmp_path))
    alone = ConceptDatabase(
        [Concept(name="red", image=paint(tmp_path / "a" / "only.png", "red"))], root=tmp_path
    )
    assert read("/b/only.png", "other.png", of=alone).tags == ["<red>"]  # nothing else has that name
    assert read("/b/only.png", "/c/only.png", of=alone).tags == []
    (tmp_path / "id2filename.json").write_text('{"1": "a.png", "2": "b.png"}')
    with pytest.raises(IndexFileError, match="numbered from 0 to 1"):
        ConceptIndex.read_upstream(tmp_path, known)


def test_the_benchmark_compares_with_an_exact_search(monkeypatch):
    from repic_core.benchmarks import large_index as retrieval_benchmark

    monkeypatch.setattr(retrieval_benchmark, "QUERIES", 20)
    monkeypatch.setattr(retrieval_benchmark, "EDITS", 5)
    found = retrieval_benchmark.measure("categories", 400)
    assert found["exact"] and found["recall@10"] == found["own concept in 10"] == 1.0
    monkeypatch.setattr(vectors_module, "FLAT_LIMIT", 300)
    walked = retrieval_benchmark.measure("spread", 400)
    assert not walked["exact"] and walked["recall@10"] >= 0.85
    table = retrieval_benchmark.table([found, walked]).splitlines()
    assert len(table) == 4 and table[2].startswith("| 400 | categories, exact |")


def test_texts_find_photos_where_the_embedder_has_a_text_side():
    class TwoSides:
        name = "two sides"

        def texts(self, texts):
            return unit([[1.0, 0.1] if text == "a dog" else [0.0, 1.0] for text in texts])

    index = ConceptIndex(TwoSides.name)
    index.add_many(["<bo>", "<mia>"], [[1.0, 0.0], [0.1, 1.0]])
    found = index.search(TwoSides().texts(["a dog", "a cat"]), k=1)
    assert [hits[0].tag for hits in found] == ["<bo>", "<mia>"]


def test_the_authors_index_made_on_macos(tmp_path):
    import faiss

    photo = paint(tmp_path / "Zo\u00eb" / "1.png", COLORS["red"])
    known = ConceptDatabase([Concept(name="zoe", image=photo)], root=tmp_path)
    index = faiss.IndexFlatL2(2)
    index.add(np.eye(2, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "image.faiss"))
    (tmp_path / "id2filename.json").write_bytes(
        json.dumps({"0": "Zo\u00eb2/1.png", "1": "./Zoe\u0308/1.png"}).encode("utf-16")
    )
    assert ConceptIndex.read_upstream(tmp_path, known).search([[0, 1]], 1)[0][0].similarity == 1


def test_large_photos_are_held_small(tmp_path, monkeypatch):
    Image.new("RGB", (5000, 3000), "red").save(tmp_path / "a.jpg")
    sizes = []

    class Sizes(Colors):
        def images(self, photos):
            sizes.extend(photo.size for photo in photos)
            return super().images(photos)

    ConceptIndex.build(ConceptDatabase([Concept(name="a", image=str(tmp_path / "a.jpg"))]), Sizes())
    assert sizes == [(2048, 1229)]
