"""The estimated memory of an index is what faiss itself writes of one more vector."""

import numpy as np
import pytest

from repic_core.benchmarks.index_memory import bytes_per_vector, concept_index, table

FACTORY = {
    "faiss: exact": "Flat",
    "faiss: lists of whole vectors": "IVF16,Flat",
    "faiss: graph (HNSW, M 32)": "HNSW32",
    "faiss: lists of codes alone": "IVF16,PQ16x4fs",
    "ConceptIndex: lists of codes, vectors in half precision": "IVF16,PQ16x4fs,Refine(SQfp16)",
}


@pytest.mark.parametrize("kind", FACTORY)
def test_bytes_of_one_more_vector(kind):
    import faiss

    vectors = np.random.default_rng(0).normal(size=(6000, 64)).astype(np.float32)
    index, sizes = faiss.index_factory(64, FACTORY[kind], faiss.METRIC_INNER_PRODUCT), []
    index.train(vectors)
    for start in (0, 3000):
        index.add(vectors[start : start + 3000])
        sizes.append(len(faiss.serialize_index(index)))
    assert (sizes[1] - sizes[0]) / 3000 == pytest.approx(bytes_per_vector(64)[kind][0], rel=0.02)


@pytest.mark.parametrize(
    "vectors, resident, peak", [(250_000, 0.575, 1.76), (500_000, 1.03, 3.23), (1_000_000, 1.98, 6.07)]
)
def test_the_estimate_is_near_what_was_measured(vectors, resident, peak):
    estimated = [bytes / 2**30 for bytes in concept_index(vectors, 768)]
    assert estimated == pytest.approx([resident, peak], rel=0.03)


def test_the_table_has_ten_million():
    rows = table(10_000_000, 768).splitlines()
    assert any("Qdrant: everything in memory | 4,608 | 42.9 | 42.9" in row for row in rows)
    assert any("int8" in row and "| 1,152 | 10.7 | 53.6 |" in row for row in rows)
