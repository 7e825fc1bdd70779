"""What a large `ConceptIndex` costs and finds: ``repic benchmark large-index``.

Vectors are made up, of 768 dimensions (CLIP ViT-L/14's): a concept is a point in `LATENT` dimensions, a photo that
point with noise, turned into 768 and given the common direction that such embeddings have, so that photos of one
concept have a cosine of 0.95 and different concepts of up to 0.9, as in the authors' index. ``spread`` concepts are
drawn independently; those in ``categories`` lie around 2,000 centres. Queries are further photos of known concepts.
Each size runs in a process of its own.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from repic_core.benchmarks.training_step import machine, peak_rss
from repic_core.io.tables import markdown
from repic_core.retrieval.index import ConceptIndex

DIMENSIONS, LATENT, CATEGORIES = 768, 64, 2000
PHOTO_NOISE, COMMON = 0.35, 12.0
SIZES = (1_000, 100_000, 1_000_000)
KINDS = ("spread", "categories")
QUERIES, K, EDITS = 500, 10, 200
CHUNK = 20_000


class World:
    """Vectors of made-up photos."""

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
        """A photo of each of these concepts, as unit vectors."""
        import numpy as np

        from repic_core.retrieval.embedders import unit

        noise = self._rng.normal(size=concepts.shape).astype(np.float32)
        small = self._rng.normal(size=(len(concepts), DIMENSIONS)).astype(np.float32)
        return unit((concepts + PHOTO_NOISE * noise) @ self._turn + self._common + 0.08 * small)

    def chunks(self) -> Iterator[tuple[int, Any]]:
        """First number and photos of all concepts, a chunk at a time."""
        for start in range(0, len(self.concepts), CHUNK):
            yield start, self.photos(self.concepts[start : start + CHUNK])


def measure(kind: str, count: int) -> dict[str, Any]:
    """Build an index of `count` photos, search it, compare with an exact search, edit it."""
    import numpy as np
    import psutil

    world = World(kind, count)
    chosen = np.random.default_rng(1).integers(count, size=QUERIES)
    queries = world.photos(world.concepts[chosen])
    process = psutil.Process()
    before = process.memory_info().rss
    index = ConceptIndex("made up")
    seconds = 0.0
    best = np.empty((QUERIES, 0), np.float32), np.empty((QUERIES, 0), np.int64)
    for start, photos in world.chunks():
        began = time.perf_counter()
        index.add_many([f"<c{start + i}>" for i in range(len(photos))], photos)
        seconds += time.perf_counter() - began
        similar = np.concatenate([best[0], queries @ photos.T], 1)  # the exact neighbours, beside the index
        names = np.concatenate(
            [best[1], np.broadcast_to(np.arange(start, start + len(photos)), (QUERIES, len(photos)))], 1
        )
        order = np.argpartition(-similar, K - 1, axis=1)[:, :K]
        best = np.take_along_axis(similar, order, 1), np.take_along_axis(names, order, 1)
    began = time.perf_counter()
    index.pack()
    seconds += time.perf_counter() - began
    resident = process.memory_info().rss
    index.search(queries[:20], K)
    times, found = [], []
    for query in queries:
        began = time.perf_counter()
        hits = index.search(query[None], K)[0]
        times.append(time.perf_counter() - began)
        found.append({int(hit.tag[2:-1]) for hit in hits})
    recall = np.mean([len(f & set(b)) / K for f, b in zip(found, best[1].tolist(), strict=True)])
    own = np.mean([c in f for c, f in zip(chosen.tolist(), found, strict=True)])
    edits = []
    rng = random.Random(0)
    for number, vector in enumerate(world.photos(world.concepts[:EDITS])):
        old = f"<c{rng.randrange(count // EDITS) + number * (count // EDITS)}>"  # each once
        for edit in (
            lambda v=vector, n=number: index.add(f"<new{n}>", v[None]),
            lambda o=old, n=number: index.rename(o, f"<renamed{n}>"),
            lambda n=number: index.remove(f"<renamed{n}>"),
        ):
            began = time.perf_counter()
            edit()
            edits.append(time.perf_counter() - began)
    milliseconds = {name: 1000 * np.array(values) for name, values in (("query", times), ("edit", edits))}
    return {
        "kind": kind,
        "vectors": count,
        "exact": index.exact,
        "index": repr(index),
        "build_s": seconds,
        "resident_gib": (resident - before) / 2**30,
        "peak_gib": (peak_rss() - before) / 2**30,
        **{f"{n}_p{p}_ms": float(np.percentile(v, p)) for n, v in milliseconds.items() for p in (50, 95)},
        "recall@10": float(recall),
        "own concept in 10": float(own),
    }


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
    """The machine, and a Markdown table."""
    where = ", ".join(f"{name} {value}" for name, value in measured["machine"].items())
    return f"{where}\n\n{table(measured['found'])}"


def table(found: list[dict[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    head = [
        "vectors",
        "kind",
        "build",
        "memory",
        "peak",
        "query p50",
        "p95",
        "edit p95",
        "recall@10",
        "own concept found",
    ]
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
