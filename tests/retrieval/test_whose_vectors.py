"""Vectors of one embedder are never compared with another's, also those of the authors' index, which names none."""

import json

import numpy as np
import pytest
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.retrieval.embedders import unit
from repic_core.retrieval.faiss_index import IndexFileError
from repic_core.retrieval.find import ConceptIndex, find_concepts
from repic_core.retrieval.upstream import UPSTREAM

SIZE = 768


class Seeing:
    """An embedder of 768 dimensions that tells photos apart by their pixels; each seed is another model."""

    def __init__(self, seed, noise=0.0):
        self.name, self.noise = f"model {seed}", noise
        self.lens = np.random.default_rng(seed).normal(size=(48, SIZE))

    def images(self, photos):
        small = [np.asarray(photo.convert("RGB").resize((4, 4)), float).ravel() - 128 for photo in photos]
        seen = np.array(small) @ self.lens
        return unit(seen + self.noise * np.random.default_rng(9).normal(size=seen.shape) * abs(seen).mean())


@pytest.fixture
def known(tmp_path):
    rng = np.random.default_rng(1)
    concepts = []
    for name in ("bo", "mia", "zoe", "kim", "ann"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
        concepts.append(Concept(name=name, image=str(tmp_path / f"{name}.png"), info="a toy"))
    return ConceptDatabase(concepts, root=tmp_path)


@pytest.fixture
def folder(tmp_path, known):
    """An index as the authors' script writes it, of model 0."""
    import faiss

    names = [concept.images[0] for concept in known]
    vectors = Seeing(0).images([Image.open(name) for name in names])
    index = faiss.IndexFlatL2(SIZE)
    index.add(np.asarray(vectors, np.float32))
    faiss.write_index(index, str(tmp_path / "image.faiss"))
    (tmp_path / "id2filename.json").write_text(json.dumps(dict(enumerate(names))))
    return tmp_path


@pytest.mark.parametrize("noise", [0.0, 0.2])  # another decoder, another resizing
def test_the_embedder_that_made_it_is_known_by_its_vectors(folder, known, noise):
    embedder = Seeing(0, noise)
    index = ConceptIndex.read_upstream(folder, known, embedder)
    assert index.embedder_name == embedder.name and len(index) == 5
    for concept in known:
        assert find_concepts(concept.images[0], index, embedder, k=1)[0].tag == concept.tag
    with pytest.raises(ValueError, match="the index is of model 0, not of model 1"):
        find_concepts(known["<bo>"].images[0], index, Seeing(1))


def test_a_stranger_of_the_same_size_is_refused(folder, known):
    with pytest.raises(
        IndexFileError,
        match=r"image\.faiss: its vectors are not those of model 1, which gives others for 5 of 5",
    ) as error:
        ConceptIndex.read_upstream(folder, known, Seeing(1))
    assert "clip-vit-large-patch14-336" in str(error.value)


def test_a_stranger_of_another_size_is_refused(folder, known):
    class Small(Seeing):
        def images(self, photos):
            return super().images(photos)[:, :5]

    with pytest.raises(IndexFileError, match="its vectors are not those of model 0"):
        ConceptIndex.read_upstream(folder, known, Small(0))


def test_without_an_embedder_it_takes_no_queries(folder, known):
    index = ConceptIndex.read_upstream(folder, known)
    assert index.embedder_name == UPSTREAM
    for embedder in (Seeing(0), Seeing(1)):
        with pytest.raises(ValueError, match=f"give read_upstream the embedder {embedder.name}, to check"):
            find_concepts(known["<bo>"].images[0], index, embedder)
    index.save(folder / "saved")
    with pytest.raises(ValueError, match="give read_upstream the embedder"):
        find_concepts(known["<bo>"].images[0], ConceptIndex.load(folder / "saved"), Seeing(0))


def test_photos_that_are_gone_can_not_be_compared(folder, known):
    (folder / "bo.png").unlink()
    Image.open(folder / "mia.png").rotate(180).save(folder / "mia.png")  # has been edited
    assert len(ConceptIndex.read_upstream(folder, known, Seeing(0))) == 5  # the others can
    for concept in known:
        (folder / f"{concept.name}.png").write_bytes(b"")
    with pytest.raises(IndexFileError, match="none of its photos can be read"):
        ConceptIndex.read_upstream(folder, known, Seeing(0))


@pytest.mark.parametrize("name", ["database_4_concepts", "database_dreambooth"])
def test_the_authors_own_vectors_refuse_a_stranger(official_root, name):
    folder = official_root / "data/database_tot" / name
    known = ConceptDatabase.load(folder / "database_mod.json", root=official_root)
    with pytest.raises(IndexFileError, match="its vectors are not those of model 0"):
        ConceptIndex.read_upstream(folder, known, Seeing(0))
    with pytest.raises(ValueError, match="does not say what made its vectors"):
        find_concepts(next(iter(known)).images[0], ConceptIndex.read_upstream(folder, known), Seeing(0))
