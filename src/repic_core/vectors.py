"""Vectors in faiss: exact up to `FLAT_LIMIT`, past it in lists of neighbours of which a search looks into some.

Vectors have length 1, so inner products are cosine similarities.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.files import replaced

FLAT_LIMIT = 100_000  # vectors; up to here every search is exact
PROBES = 32  # lists that a search looks into past it
TRAINING = 40  # vectors a list from which the lists' centres are found; faiss warns below 39
CHUNK = 50_000  # vectors moved at a time
logger = logging.getLogger(__name__)


class IndexFileError(ValueError):
    """An index on disk that can't be used; the message names the file and the mend."""


def is_exact(count: int) -> bool:
    """Whether an index of `count` vectors compares a query with every one."""
    return count <= FLAT_LIMIT


def make_faiss(count: int, vectors: Any) -> Any:
    """An empty faiss index for `count` vectors such as these (n, dimensions).

    Past `FLAT_LIMIT`: IVF with 4 sqrt(count) lists (faiss' guidelines to choose an index), whose centres are found
    from `vectors`, and whose vectors are in half precision: half the memory, and faster than single precision.
    """
    import faiss
    import numpy as np

    dimensions = vectors.shape[1]
    if is_exact(count):
        return faiss.IndexFlatIP(dimensions)
    lists = round(4 * math.sqrt(count))
    half = faiss.ScalarQuantizer.QT_fp16
    centres = faiss.IndexFlatIP(dimensions)
    index = faiss.IndexIVFScalarQuantizer(centres, dimensions, lists, half, faiss.METRIC_INNER_PRODUCT)
    centres.this.disown()  # the index frees it
    index.own_fields = True
    index.cp.niter = 10
    chosen = np.random.default_rng(0).permutation(len(vectors))[: TRAINING * lists]
    index.train(vectors[np.sort(chosen)])
    index.nprobe = PROBES
    logger.info(
        "%d vectors, more than %d: a search looks into %d of %d lists", count, FLAT_LIMIT, PROBES, lists
    )
    return index


def repacked(index: Any, numbers: Sequence[int]) -> Any:
    """A faiss index of the vectors with these numbers, of the kind that suits their count."""
    import numpy as np

    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    order = np.asarray(numbers, np.int64)
    sample = order[
        np.random.default_rng(0).permutation(len(order))[: round(TRAINING * 4 * math.sqrt(len(order)))]
    ]
    packed = make_faiss(len(order), index.reconstruct_batch(np.sort(sample)))
    for start in range(0, len(order), CHUNK):
        packed.add(index.reconstruct_batch(order[start : start + CHUNK]))
    return packed


def write_faiss(index: Any, path: Path) -> None:
    """Write a faiss index, whole or not at all."""
    import faiss

    with replaced(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_faiss(path: Path) -> Any:
    """Read a faiss index.

    Raises:
        IndexFileError: no such file, or not one of faiss.
    """
    import faiss

    if not path.is_file():
        raise IndexFileError(f"{path}: no such file: build the index anew")
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:160]
        raise IndexFileError(f"{path}: no faiss index ({reason}): build it anew") from None
