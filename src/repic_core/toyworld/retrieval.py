"""Retrieval on the toy world: held-out toys found in scenes, among ever more concepts, and strangers refused.

`STRANGERS` identities of a split are in no database. A database holds the split's other identities first and then
those of the other splits; the largest of `SIZES` has all but the strangers. The threshold is fitted on the
validation split for each size: ``repic toyworld retrieval``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.captioner.caption_files import CaptionItem, load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.names import find_names
from repic_core.evaluation.intervals import Interval, mean_interval, score_intervals
from repic_core.io import tables
from repic_core.io.files import write_json_atomic
from repic_core.io.images import open_image
from repic_core.models.loading import load_model
from repic_core.retrieval.embedders import TowerEmbedder
from repic_core.retrieval.find import ConceptIndex, find_concepts, with_retrieved
from repic_core.retrieval.regions import tiles
from repic_core.toyworld.arms import cell, over_seeds
from repic_core.toyworld.dataset import heldout_number, save_image
from repic_core.toyworld.draw import PLACES, draw_reference, draw_scene
from repic_core.toyworld.world import GENERIC_INFO, identities, new_name

STRANGERS = 20
SIZES = (10, 40, 150, 300, 580)
# Chosen on the validation split with 150 concepts (recall@4, and how often a known toy is more similar to its
# concept than a stranger to any): 32, the side of a reference photo, .825 and .919; 40, .864 and .963.
SIDE = 40
FALSE_ACCEPTS = 0.05
HEAD = ("concepts", "regions")


def toy_embedder(model: Any, processor: Any) -> TowerEmbedder:
    """The shipped model's own vision tower, at the side that suits toys."""
    return TowerEmbedder(model, processor, side=SIDE)


def write_finding(folder: str | Path, split: str, size: int, n: int = 150, seed: int = 0) -> ConceptDatabase:
    """Write a database of `size` toys of a held-out split, and `n` scenes of 1 to 4 of them, and `n` of strangers.

    ``queries.json``: ``{"known" | "strangers": [{"query", "shown": {place: tag}, "boxes"}]}``; of a stranger, the
    tag is null. Names are of the split, infos generic, so concepts must be found by sight.
    """
    number = heldout_number(split)
    folder = Path(folder).resolve()
    own = list(identities(split))
    order = np.random.default_rng([seed, 50]).permutation(len(own))
    strangers, known = [own[i] for i in order[:STRANGERS]], [own[i] for i in order[STRANGERS:]]
    others = [toy for other in ("val", "test", "train") if other != split for toy in identities(other)]
    rng = np.random.default_rng([seed, 51, number, size])
    tags: dict[Any, str] = {}
    concepts = []
    for toy in (known + others)[:size]:
        name = new_name(rng, split)
        while f"<{name}>" in tags.values():
            name = new_name(rng, split)
        tags[toy] = f"<{name}>"
        photo = save_image(draw_reference(toy, rng), folder, f"concept_{len(concepts):03d}")
        concepts.append(Concept(name=name, image=str(folder / photo), info=GENERIC_INFO, category="toy"))
    database = ConceptDatabase(concepts, root=folder)
    database.save(folder / "database.json")
    queries: dict[str, list[dict[str, Any]]] = {}
    for group, pool in (("known", known[:size]), ("strangers", strangers)):
        queries[group] = []
        for i in range(n):
            toys = [pool[j] for j in rng.permutation(len(pool))[: rng.integers(1, 5)]]
            scene, _, places, boxes = draw_scene(toys, rng)
            shown = {place: tags.get(toy) for place, toy in zip(places, toys, strict=True)}
            path = save_image(scene, folder, f"{group}_{i:03d}")
            queries[group].append({"query": path, "shown": shown, "boxes": boxes})
    write_json_atomic(folder / "queries.json", queries)
    return database


def fitted_threshold(index: ConceptIndex, embedder: Any, folder: str | Path) -> float:
    """`ConceptIndex.fit_threshold` on the quarters of the scenes under `folder`; empty quarters show nobody."""
    crops, tags = [], []
    for queries in json.loads((Path(folder) / "queries.json").read_text()).values():
        for query in queries:
            scene = open_image(Path(folder) / query["query"])
            crops += [scene.crop(box) for box in tiles(scene)]
            tags += [query["shown"].get(place) for place in PLACES]
    return index.fit_threshold(embedder.images(crops), tags, FALSE_ACCEPTS)


def measure_finding(
    embedder: Any, folder: str | Path, threshold: float, known_boxes: bool = False
) -> dict[str, float]:
    """How well shown toys are found, and what a threshold lets through, in the scenes under `folder`.

    ``first``: share of scenes whose first concept is shown; ``recall@K``: share of shown toys among the K concepts
    found; ``accepted``: recall@4 with the threshold; ``false_accepts``: share of the regions of strangers' scenes
    that get a concept; ``abstained``: share of those scenes that get none. Regions are the scene's quarters, or the
    toys' true boxes (`known_boxes`).
    """
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json")
    index = ConceptIndex.build(database, embedder)
    found: dict[str, list[bool]] = {
        name: [] for name in ("first", "recall@4", "recall@8", "accepted", "false_accepts", "abstained")
    }
    for group, queries in json.loads((folder / "queries.json").read_text()).items():
        for query in queries:
            scene = open_image(folder / query["query"])
            boxes = query["boxes"] if known_boxes else tiles(scene)
            accepted = {
                hit.tag for hit in find_concepts(scene, index, embedder, lambda _, b=boxes: b, 4, threshold)
            }
            if group == "strangers":
                crops = embedder.images([scene.crop(box) for box in boxes])
                found["false_accepts"] += [bool(hits) for hits in index.search(crops, 1, threshold)]
                found["abstained"].append(not accepted)
                continue
            tags = [h.tag for h in find_concepts(scene, index, embedder, lambda _, b=boxes: b, 8, -1.0)]
            found["first"].append(tags[0] in query["shown"].values())
            for tag in query["shown"].values():
                found["recall@4"].append(tag in tags[:4])
                found["recall@8"].append(tag in tags)
                found["accepted"].append(tag in accepted)
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    return {"concepts": len(database), "threshold": round(threshold, 4), **means}


def finding_table(
    embedder: Any, out: str | Path, sizes: Sequence[int] = SIZES, n: int = 150, seed: int = 0
) -> list[dict[str, Any]]:
    """A row a size and kind of region: thresholds from the validation split, all else from the test split."""
    rows = []
    for size in sizes:
        folders = {split: Path(out) / f"{split}_{size}" for split in ("val", "test")}
        for split, folder in folders.items():
            write_finding(folder, split, size, n, seed)
        threshold = fitted_threshold(
            ConceptIndex.build(ConceptDatabase.load(folders["val"] / "database.json"), embedder),
            embedder,
            folders["val"],
        )
        for known_boxes in (False, True):
            row = measure_finding(embedder, folders["test"], threshold, known_boxes)
            rows.append({"regions": "true boxes" if known_boxes else "quarters", **row})
    return rows


def run(
    model: str | Path, out: str | Path, adapter: str | Path | None = None, seeds: Sequence[int] = (0, 1, 2)
) -> list[dict[str, Any]]:
    """`finding_table`, and `caption_found` for quarters, over `seeds`: a row a size and kind of region."""
    loaded = load_model(model, adapter)
    embedder = toy_embedder(*loaded)
    captioner = Captioner(*loaded, system=None, batch_size=50, max_new_tokens=64)
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for seed in seeds:
        folder = Path(out) / str(seed)
        for row in finding_table(embedder, folder, seed=seed):
            if row["regions"] == "quarters":
                scenes, captions = folder / f"test_{row['concepts']}", folder / f"captions_{row['concepts']}"
                found = caption_found(captioner, embedder, scenes, captions, row["threshold"], resume=False)
                strangers = found.pop("strangers named").value
                row |= {f"F1 {way}": f1.value for way, f1 in found.items()} | {"strangers named": strangers}
            rows.setdefault((row["concepts"], row["regions"]), []).append(row)
    return [
        {"concepts": size, "regions": regions, **over_seeds(found, [k for k in found[0] if k not in HEAD])}
        for (size, regions), found in rows.items()
    ]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, in percent: mean ± standard deviation over seeds."""
    names = [name for name in table[0] if name not in (*HEAD, "threshold") and not name.endswith("_sd")]
    rows = [
        [str(row["concepts"]), row["regions"], *(cell(row, name) if name in row else "" for name in names)]
        for row in table
    ]
    return tables.markdown([*HEAD, *names], rows)


def caption_found(
    captioner: Captioner,
    embedder: Any,
    folder: str | Path,
    out: str | Path,
    threshold: float,
    limit: int | None = None,
    resume: bool = True,
) -> dict[str, Interval]:
    """F1 of names (`span`) in captions of the scenes under `folder`, with references given or retrieved.

    ``given``: the shown toys, as in the paper's *skip-retrieval*; ``retrieved``: the four found first;
    ``accepted``: those of the four above `threshold`. ``strangers named``: share of strangers' scenes, with the
    accepted as references, whose caption names a concept. One caption file each goes into `out`.
    """
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json")
    index = ConceptIndex.build(database, embedder)
    queries = json.loads((folder / "queries.json").read_text())
    known, strangers = (
        [
            CaptionItem(folder / q["query"], database.select(*tags), tags=tags, label=q["query"])
            for q in queries[group][:limit]
            for tags in [[tag for tag in q["shown"].values() if tag]]
        ]
        for group in ("known", "strangers")
    )
    ways = {
        "given": known,
        "retrieved": with_retrieved(known, database, index, embedder, tiles, 4, -1.0),
        "accepted": with_retrieved(known, database, index, embedder, tiles, 4, threshold),
        "strangers": with_retrieved(strangers, database, index, embedder, tiles, 4, threshold),
    }
    found = {}
    for name, items in ways.items():
        path = Path(out) / f"{name}.json"
        rows = captioner.caption_many(items, out=path, resume=resume)
        if name == "strangers":
            named = [float(bool(find_names(row[2], list(database)))) for row in rows]
            found["strangers named"] = mean_interval(named, [row[0] for row in rows])
        else:
            found[name] = score_intervals(load_captions(path), "span", database)["f1"]
    return found
