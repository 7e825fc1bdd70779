"""What the memory of an index of many vectors would be: an estimate, and what it was checked with.

For faiss it counts what is kept of each vector: `tests/benchmarks/test_index_memory.py` compares that with the
sizes of small indexes, and assets/results/large-index.md with what up to a million vectors took. For Qdrant it is
the rule of its documentation (capacity planning): vectors * dimensions * 4 bytes * 1.5, for metadata, the graph and
segments that are being rewritten; with int8 copies a quarter of that in memory, the vectors themselves on disk.
"""

from __future__ import annotations

import math

from repic_core.io.tables import markdown
from repic_core.retrieval.faiss_index import TRAINING

# Bytes of a concept with one photo in `ConceptIndex`: its tag, the row, the dictionary from tag to row.
TAG = 360
# Bytes of the libraries' own buffers.
LIBRARIES = 120e6
# While the index of codes is made, the exact one is there, too, a tenth larger than its vectors, and five times the
# sample that the codes are learned from.
SLACK, COPIES = 1.1, 5
GRAPH = 32  # links of an HNSW node; twice as many on the lowest level


def bytes_per_vector(dimensions: int) -> dict[str, tuple[float, float]]:
    """Of each kind of index, the bytes in memory and on disk for a vector, without tags.

    >>> bytes_per_vector(768)["ConceptIndex: lists of codes, vectors in half precision"]
    (1640.0, 0.0)
    """
    whole, codes, number = 4.0 * dimensions, dimensions / 8, 8
    # Links of all levels, and for each node its level (4 bytes) and where its links start (8).
    links = 4 * GRAPH * 2 + 4 * GRAPH / (GRAPH - 1) + 12
    return {
        "faiss: exact": (whole, 0.0),
        "faiss: lists of whole vectors": (whole + number, 0.0),
        f"faiss: graph (HNSW, M {GRAPH})": (whole + links, 0.0),
        "faiss: lists of codes alone": (codes + number, 0.0),
        "ConceptIndex: lists of codes, vectors in half precision": (codes + number + whole / 2, 0.0),
        "Qdrant: everything in memory": (1.5 * whole, 1.5 * whole),
        "Qdrant: int8 copies in memory, vectors on disk": (1.5 * dimensions, 1.5 * (whole + dimensions)),
    }


def concept_index(vectors: int, dimensions: int) -> tuple[float, float]:
    """The bytes of a `ConceptIndex` of lists of codes with its tags, and the most while it is built at once."""
    kept = bytes_per_vector(dimensions)["ConceptIndex: lists of codes, vectors in half precision"][0]
    resident = LIBRARIES + vectors * (kept + TAG)
    sample = min(vectors, TRAINING * math.sqrt(vectors)) * 4 * dimensions
    return resident, resident + SLACK * vectors * 4 * dimensions + COPIES * sample


def table(vectors: int, dimensions: int) -> str:
    """The estimate as a Markdown table, in GiB."""
    gib = vectors / 2**30
    rows = [
        [kind, f"{memory:,.0f}", f"{memory * gib:,.1f}", f"{disk * gib:,.1f}" if disk else "–"]
        for kind, (memory, disk) in bytes_per_vector(dimensions).items()
    ]
    resident, peak = concept_index(vectors, dimensions)
    about = f"with tags; {peak / 2**30:,.1f} GiB while it is built at once"
    rows.append([f"ConceptIndex, {about}", f"{resident / vectors:,.0f}", f"{resident / 2**30:,.1f}", "–"])
    head = [
        f"{vectors:,} vectors of {dimensions} dimensions",
        "bytes a vector",
        "GiB in memory",
        "GiB on disk",
    ]
    return markdown(head, rows)
