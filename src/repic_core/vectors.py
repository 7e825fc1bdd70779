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
logger = logging.getLogger(__name__)


class IndexFileError(ValueError):
    """An index on disk that can't be used; the message names the file and the mend."""


def is_exact(count: int) -> bool:
    """Whether an index of `count` vectors compares a query with every one."""
    return count <= FLAT_LIMIT


def make_faiss(vectors: Any) -> Any:
    """An empty faiss index for as many and such vectors as these (n, dimensions).

    Past `FLAT_LIMIT`: IVF with 4 sqrt(n) lists (faiss' guidelines, "Guidelines to choose an index"), whose vectors
    are in half precision: half the memory, and faster than single precision.
    """
    import faiss
    import numpy as np

    count, dimensions = vectors.shape
    if is_exact(count):
        return faiss.IndexFlatIP(dimensions)
    lists = round(4 * math.sqrt(count))
    metric = faiss.METRIC_INNER_PRODUCT
    centres = faiss.IndexFlatIP(dimensions)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(centres, dimensions, lists, half, metric)
    centres.this.disown()  # the index frees it
    index.own_fields = True
    index.cp.niter = 10
    chosen = np.random.default_rng(0).permutation(count)[: TRAINING * lists]
    index.train(vectors[np.sort(chosen)])
    index.nprobe = PROBES
    logger.info(
        "%d vectors are more than %d: a search looks into %d of %d lists", count, FLAT_LIMIT, PROBES, lists
    )
    return index


def vectors_of(index: Any, numbers: Sequence[int]) -> Any:
    """The vectors with these numbers (as kept: in half precision in an IVF index), float32."""
    import numpy as np

    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    return np.stack([index.reconstruct(number) for number in numbers]) if numbers else np.empty((0, index.d))


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
