"""Vectors in faiss: exact up to `FLAT_LIMIT`; above it, lists (IVF) of short codes, of which the best are checked.

Vectors have length 1, so inner products are cosine similarities.

Above the limit a search goes through the codes (half a byte for 4 numbers) in half of the lists. For each hit that
is asked for, it then compares the `LOOKED_UP` best with the vectors themselves, in half precision. Measured on one
thread with a million vectors without categories, the hardest case of `benchmarks.large_index`:

- this index finds 97% of the ten nearest in 5 ms and is built in 46 s;
- a graph (HNSW, M 32, efSearch 512) finds 87% in 5 ms and is built in 13 minutes;
- lists of whole vectors find 68% in 8 ms and are built in 3 minutes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.io.files import replaced

# Up to this number of vectors, every search is exact.
FLAT_LIMIT = 100_000
LOOKED_UP, LOOKED_UP_MOST = 100, 20_000
TRAINING = 60  # vectors for each list, from which centres and codes are learned
CHUNK = 50_000  # vectors moved at a time
logger = logging.getLogger(__name__)


class IndexFileError(ValueError):
    """An index on disk that can't be used; the message names the file and says how to fix it."""


def is_exact(count: int) -> bool:
    """Whether an index of `count` vectors compares a query with every one of them."""
    return count <= FLAT_LIMIT


def make_faiss(count: int, sample: Any) -> Any:
    """An empty faiss index for `count` vectors such as those of `sample` (n, dimensions)."""
    import faiss

    dimensions = sample.shape[1]
    if is_exact(count):
        return faiss.IndexFlatIP(dimensions)
    lists, parts = round(math.sqrt(count)), dimensions // math.gcd(dimensions, 4)
    about = f"IVF{lists},PQ{parts}x4fs,Refine(SQfp16)"
    index = faiss.index_factory(dimensions, about, faiss.METRIC_INNER_PRODUCT)
    index.train(sample[: TRAINING * lists])
    faiss.extract_index_ivf(index).nprobe = max(1, lists // 2)
    logger.info("%d vectors, more than %d: searches may miss some (%s)", count, FLAT_LIMIT, about)
    return index


def search_faiss(index: Any, vectors: Any, k: int) -> tuple[Any, Any]:
    """Similarities and numbers (n, k) of the nearest vectors, nearest first; -1 if there are no more."""
    import faiss

    if not hasattr(index, "k_factor"):
        return index.search(vectors, k)
    looked_up = max(1.0, min(LOOKED_UP, LOOKED_UP_MOST / k))
    return index.search(vectors, k, params=faiss.IndexRefineSearchParameters(k_factor=looked_up))


def repacked(index: Any, numbers: Sequence[int]) -> Any:
    """A faiss index of the vectors with these numbers, of the kind for their count."""
    import numpy as np

    # An index of codes keeps the vectors in what it refines with.
    def vectors(wanted: Any) -> Any:
        return getattr(index, "refine_index", index).reconstruct_batch(wanted)

    order = np.asarray(numbers, np.int64)
    mixed = np.random.default_rng(0).permutation(order)[: TRAINING * round(math.sqrt(len(order)))]
    packed = make_faiss(len(order), vectors(np.sort(mixed)))
    for start in range(0, len(order), CHUNK):
        packed.add(vectors(order[start : start + CHUNK]))
    return packed


def write_faiss(index: Any, path: Path) -> None:
    """Write a faiss index, whole or not at all."""
    import faiss

    with replaced(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_faiss(path: Path) -> Any:
    """Read a faiss index.

    Raises:
        IndexFileError: there is no such file, or it is not of faiss.
    """
    import faiss

    if not path.is_file():
        raise IndexFileError(f"{path}: no such file: build the index again")
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:160]
        raise IndexFileError(f"{path}: not a faiss index ({reason}): build it again") from None
