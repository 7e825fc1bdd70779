"""What a large `ConceptIndex` costs and finds: ``repic benchmark large-index``.

The vectors are made up, with 768 dimensions like those of CLIP ViT-L/14. A concept is a point in `LATENT`
dimensions. A photo is that point with noise, rotated into 768 dimensions and shifted in one common direction, which
such embeddings have. So photos of one concept have a cosine of 0.95, and those of different concepts up to 0.9, as
in the authors' index. ``spread`` concepts are drawn independently; those in ``categories`` are grouped around 2,000
centres. Queries are further photos of known concepts. Each size runs in its own process.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from repic_core.benchmarks import index_memory
from repic_core.benchmarks.training_step import machine, peak_rss
from repic_core.io.tables import markdown
from repic_core.retrieval.index import ConceptIndex

DIMENSIONS, LATENT, CATEGORIES = 768, 64, 2000
PHOTO_NOISE, COMMON = 0.35, 12.0
SIZES = (1_000, 100_000, 1_000_000)
ESTIMATED = 10_000_000
KINDS = ("spread", "categories")
QUERIES, K, EDITS = 500, 10, 200
CHUNK = 20_000


class World:
    """Made-up concepts, and vectors of their photos."""

    def __init__(self, kind: str, count: int, seed: int = 0) -> None:
        import numpy as np

        self._rng = np.random.default_rng(seed)
        self.concepts = self._rng.normal(size=(count, LATENT)).astype(np.float32)
        if kind == "categories":
            centres = self._rng.normal(size=(CATEGORIES, LATENT)).astype(np.float32)
            self.concepts = centres[self._rng.integers(CATEGORIES, size=count)] + 0.7 * self.concepts
        turned = np.linalg.qr(self._rng.normal(size=(DIMENSIONS, LATENT + 1)))[0].T
        self._turn, self._common = turned[:-1].astype(np.float32), COMMON * turned[-1].astype(np.float32)

    def photos(self, concepts: Any) -> Any:
        """A photo of each of these concepts, as unit vectors (concepts, `DIMENSIONS`)."""
        import numpy as np

        from repic_core.retrieval.embedders import unit

        noise = self._rng.normal(size=concepts.shape).astype(np.float32)
        small = self._rng.normal(size=(len(concepts), DIMENSIONS)).astype(np.float32)
        return unit((concepts + PHOTO_NOISE * noise) @ self._turn + self._common + 0.08 * small)

    def chunks(self) -> Iterator[tuple[int, Any]]:
        """A photo of every concept, in chunks: the first concept's number, and the vectors."""
        for start in range(0, len(self.concepts), CHUNK):
            yield start, self.photos(self.concepts[start : start + CHUNK])


def measure(kind: str, count: int) -> dict[str, Any]:
    """Build an index of `count` photos, search it, compare with an exact search, and edit it."""
    import numpy as np
    import psutil

    world = World(kind, count)
    chosen = np.random.default_rng(1).integers(count, size=QUERIES)
    queries = world.photos(world.concepts[chosen])
    process = psutil.Process()
    before = process.memory_info().rss
    index = ConceptIndex("made up")
    build_seconds, nearest = _build(index, world, queries)
    resident = process.memory_info().rss
    query_seconds, found = _search(index, queries)
    recall = np.mean([len(f & set(b)) / K for f, b in zip(found, nearest.tolist(), strict=True)])
    own = np.mean([c in f for c, f in zip(chosen.tolist(), found, strict=True)])
    edit_seconds = _edit(index, world)
    milliseconds = {"query": 1000 * np.array(query_seconds), "edit": 1000 * np.array(edit_seconds)}
    return {
        "kind": kind,
        "vectors": count,
        "exact": index.exact,
        "index": repr(index),
        "build_s": build_seconds,
        "resident_gib": (resident - before) / 2**30,
        "peak_gib": (peak_rss() - before) / 2**30,
        **{f"{n}_p{p}_ms": float(np.percentile(v, p)) for n, v in milliseconds.items() for p in (50, 95)},
        "recall@10": float(recall),
        "own concept in 10": float(own),
    }


def _build(index: ConceptIndex, world: World, queries: Any) -> tuple[float, Any]:
    """Fill `index` and pack it; the seconds for that, and each query's K nearest concepts by an exact search."""
    import numpy as np

    seconds = 0.0
    similarities = np.empty((len(queries), 0), np.float32)
    nearest = np.empty((len(queries), 0), np.int64)
    for start, photos in world.chunks():
        tags = [f"<c{start + i}>" for i in range(len(photos))]
        seconds += _seconds(index.add_many, tags, photos)
        similarities = np.concatenate([similarities, queries @ photos.T], 1)
        numbers = np.arange(start, start + len(photos))
        nearest = np.concatenate([nearest, np.broadcast_to(numbers, (len(queries), len(photos)))], 1)
        order = np.argpartition(-similarities, K - 1, axis=1)[:, :K]
        similarities = np.take_along_axis(similarities, order, 1)
        nearest = np.take_along_axis(nearest, order, 1)
    return seconds + _seconds(index.pack), nearest


def _search(index: ConceptIndex, queries: Any) -> tuple[list[float], list[set[int]]]:
    """The seconds of each query alone, and the K concepts that it finds."""
    index.search(queries[:20], K)  # warm-up
    seconds, found = [], []
    for query in queries:
        began = time.perf_counter()
        hits = index.search(query[None], K)[0]
        seconds.append(time.perf_counter() - began)
        found.append({int(hit.tag[2:-1]) for hit in hits})
    return seconds, found


def _edit(index: ConceptIndex, world: World) -> list[float]:
    """The seconds of each edit: a concept is added, another renamed, and that one removed, `EDITS` times."""
    rng = random.Random(0)
    step = len(world.concepts) // EDITS
    seconds = []
    for number, vector in enumerate(world.photos(world.concepts[:EDITS])):
        old = f"<c{rng.randrange(step) + number * step}>"  # each concept at most once
        seconds.append(_seconds(index.add, f"<new{number}>", vector[None]))
        seconds.append(_seconds(index.rename, old, f"<renamed{number}>"))
        seconds.append(_seconds(index.remove, f"<renamed{number}>"))
    return seconds


def _seconds(work: Callable[..., Any], *args: Any) -> float:
    began = time.perf_counter()
    work(*args)
    return time.perf_counter() - began


def run(
    sizes: Sequence[int] = SIZES, kinds: Sequence[str] = KINDS, tell: Callable[[str], Any] = print
) -> dict[str, Any]:
    """`measure` for each size and kind, in a process of its own; `tell` is given each row of the table as it comes.

    Returns:
        ``{"machine": ..., "found": [what `measure` returned, ...]}``

    Raises:
        ValueError: a size below `EDITS`.
        RuntimeError: a process failed, with its last lines.
    """
    if min(sizes) < EDITS:
        raise ValueError(f"sizes must be at least {EDITS}")
    found = []
    for size in sizes:
        for kind in kinds:
            command = [sys.executable, "-m", "repic_core.benchmarks.large_index", json.dumps([kind, size])]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{size:,} vectors, {kind}: the run failed\n{done.stderr[-2000:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
            tell(table(found[-1:]).splitlines()[-1])
    return {"machine": machine(), "found": found}


def report(measured: dict[str, Any]) -> str:
    """The machine, a Markdown table, and an estimate of the memory for `ESTIMATED` vectors."""
    where = ", ".join(f"{name} {value}" for name, value in measured["machine"].items())
    return f"{where}\n\n{table(measured['found'])}\n\n{index_memory.table(ESTIMATED, DIMENSIONS)}"


def table(found: list[dict[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    head = ["vectors", "kind", "build", "memory", "peak", "query p50", "p95", "edit p95", "recall@10"]
    head.append("own concept found")
    rows = [
        [
            f"{one['vectors']:,}",
            one["kind"] + (", exact" if one["exact"] else ""),
            f"{one['build_s']:.1f} s",
            f"{one['resident_gib']:.2f} GiB",
            f"{one['peak_gib']:.2f} GiB",
            f"{one['query_p50_ms']:.2f} ms",
            f"{one['query_p95_ms']:.2f} ms",
            f"{one['edit_p95_ms']:.2f} ms",
            f"{one['recall@10']:.3f}",
            f"{one['own concept in 10']:.3f}",
        ]
        for one in found
    ]
    return markdown(head, rows)


if __name__ == "__main__":  # a process of `run`
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
