"""Retrieval on the toy world: find held-out toys in scenes, among more and more concepts, and refuse strangers.

`STRANGERS` identities of a split are in no database. A database first holds the other identities of the split,
then those of the other splits; the largest of `SIZES` has all identities but the strangers. For each size, the
threshold is fitted on the validation split. ``repic toyworld retrieval`` prints the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
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
from repic_core.retrieval.regions import Box, tiles
from repic_core.retrieval.threshold import least_score
from repic_core.retrieval.verify import Verifier
from repic_core.toyworld.arms import cell, over_seeds
from repic_core.toyworld.dataset import heldout_number, save_image
from repic_core.toyworld.draw import PLACES, draw_reference, draw_scene
from repic_core.toyworld.world import GENERIC_INFO, identities, new_name

STRANGERS = 20
SIZES = (10, 40, 150, 300, 580)
# Chosen on the validation split with 150 concepts, by recall@4 and by how often a known toy is more similar to its
# concept than a stranger is to any concept. With 32, the side of a reference photo, they are .825 and .919; with 40
# they are .864 and .963.
SIDE = 40
FALSE_ACCEPTS = 0.05
# Chosen on the validation split with 580 concepts and three seeds. Of strangers' scenes, 14% keep a reference (by
# similarity: 20%), and F1 of references in known scenes is .70 (.66). With 0.04 they are 19% and .74, with 0.05 24%
# and .77; with every plain yes 53% and .80.
FALSE_CONFIRMS = 0.03
HEAD = ("concepts", "regions")


def toy_embedder(model: Any, processor: Any) -> TowerEmbedder:
    """The vision tower of the shipped model, at the side that suits toys."""
    return TowerEmbedder(model, processor, side=SIDE)


def write_retrieval(
    folder: str | Path, split: str, size: int, n: int = 150, seed: int = 0
) -> ConceptDatabase:
    """Write a database of `size` toys of a held-out split, with `n` scenes of 1 to 4 of them and `n` of strangers.

    ``queries.json`` is ``{"known" | "strangers": [{"query", "shown": {place: tag}, "boxes"}]}``; the tag of a
    stranger is null. Names are of the split and infos are generic, so that concepts can be found only by sight.
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
    """`ConceptIndex.fit_threshold` on the quarters of the scenes under `folder`; empty quarters show no concept."""
    crops, tags = [], []
    for queries in json.loads((Path(folder) / "queries.json").read_text()).values():
        for query in queries:
            scene = open_image(Path(folder) / query["query"])
            crops += [scene.crop(box) for box in tiles(scene)]
            tags += [query["shown"].get(place) for place in PLACES]
    return index.fit_threshold(embedder.images(crops), tags, FALSE_ACCEPTS)


def fitted_sureness(
    captioner: Captioner, embedder: Any, folder: str | Path, false_accepts: float = FALSE_CONFIRMS
) -> float:
    """The least sureness (`Verifier`) with which at most a share `false_accepts` of wrong nearest concepts is
    confirmed, on the quarters of the scenes under `folder`; as `fitted_threshold` does it by similarity."""
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json")
    index = ConceptIndex.build(database, embedder)
    wrong = []
    for queries in json.loads((folder / "queries.json").read_text()).values():
        for query in queries:
            scene = open_image(folder / query["query"])
            crops = [scene.crop(box) for box in tiles(scene)]
            hits = index.search(embedder.images(crops), 1, -1.0)
            for place, crop, (hit,) in zip(PLACES, crops, hits, strict=True):
                if hit.tag != query["shown"].get(place):
                    wrong.append((hit, crop))
    verifier = Verifier(captioner.model, captioner.processor, database, batch_size=captioner.batch_size)
    return least_score(verifier.sureness(wrong), false_accepts)


def measure_retrieval(
    embedder: Any, folder: str | Path, threshold: float, known_boxes: bool = False
) -> dict[str, float]:
    """How well the toys in the scenes under `folder` are found, and what a threshold lets through.

    Regions are the scene's quarters, or with `known_boxes` the true boxes of the toys. The scores:

    - ``first``: share of scenes that show the first concept found;
    - ``recall@K``: share of shown toys among the K concepts found;
    - ``accepted``: recall@4 with the threshold;
    - ``false_accepts``: share of the regions of strangers' scenes in which a concept is found;
    - ``abstained``: share of strangers' scenes in which no concept is found.
    """
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json")
    index = ConceptIndex.build(database, embedder)
    names = ("first", "recall@4", "recall@8", "accepted", "false_accepts", "abstained")
    found: dict[str, list[bool]] = {name: [] for name in names}
    for group, queries in json.loads((folder / "queries.json").read_text()).items():
        for query in queries:
            scene = open_image(folder / query["query"])
            boxes = query["boxes"] if known_boxes else tiles(scene)
            regions = partial(_given_boxes, boxes)
            accepted = {hit.tag for hit in find_concepts(scene, index, embedder, regions, 4, threshold)}
            if group == "strangers":
                crops = embedder.images([scene.crop(box) for box in boxes])
                found["false_accepts"] += [bool(hits) for hits in index.search(crops, 1, threshold)]
                found["abstained"].append(not accepted)
                continue
            tags = [hit.tag for hit in find_concepts(scene, index, embedder, regions, 8, -1.0)]
            found["first"].append(tags[0] in query["shown"].values())
            for tag in query["shown"].values():
                found["recall@4"].append(tag in tags[:4])
                found["recall@8"].append(tag in tags)
                found["accepted"].append(tag in accepted)
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    return {"concepts": len(database), "threshold": round(threshold, 4), **means}


def _given_boxes(boxes: list[Box], scene: Any) -> list[Box]:
    """Regions for `find_concepts` that are known before."""
    return boxes


def retrieval_table(
    embedder: Any, out: str | Path, sizes: Sequence[int] = SIZES, n: int = 150, seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each size and kind of region, on the test split, with thresholds from the validation split."""
    rows = []
    for size in sizes:
        folders = {split: Path(out) / f"{split}_{size}" for split in ("val", "test")}
        for split, folder in folders.items():
            write_retrieval(folder, split, size, n, seed)
        index = ConceptIndex.build(ConceptDatabase.load(folders["val"] / "database.json"), embedder)
        threshold = fitted_threshold(index, embedder, folders["val"])
        for known_boxes in (False, True):
            row = measure_retrieval(embedder, folders["test"], threshold, known_boxes)
            rows.append({"regions": "true boxes" if known_boxes else "quarters", **row})
    return rows


def run(
    model: str | Path,
    out: str | Path,
    adapter: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    sizes: Sequence[int] = SIZES,
) -> list[dict[str, Any]]:
    """`retrieval_table` over `seeds`, with the scores of `caption_found` for quarters: a row for each size and
    kind of region."""
    loaded = load_model(model, adapter)
    embedder = toy_embedder(*loaded)
    captioner = Captioner(*loaded, system=None, batch_size=50, max_new_tokens=64)
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for seed in seeds:
        folder = Path(out) / str(seed)
        for row in retrieval_table(embedder, folder, sizes, seed=seed):
            if row["regions"] == "quarters":
                scenes, captions = folder / f"test_{row['concepts']}", folder / f"captions_{row['concepts']}"
                sureness = fitted_sureness(captioner, embedder, folder / f"val_{row['concepts']}")
                found = caption_found(
                    captioner, embedder, scenes, captions, row["threshold"], resume=False, sureness=sureness
                )
                for way, share in found.items():
                    row[way if way.startswith("strangers") else f"F1 {way}"] = share.value
            rows.setdefault((row["concepts"], row["regions"]), []).append(row)
    return [
        {"concepts": size, "regions": regions, **over_seeds(found, [k for k in found[0] if k not in HEAD])}
        for (size, regions), found in rows.items()
    ]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, in percent: mean ± standard deviation over seeds."""
    names = [name for name in table[0] if name not in (*HEAD, "threshold") and not name.endswith("_sd")]
    rows = []
    for row in table:
        cells = [cell(row, name) if name in row else "" for name in names]
        rows.append([str(row["concepts"]), row["regions"], *cells])
    return tables.markdown([*HEAD, *names], rows)


def caption_found(
    captioner: Captioner,
    embedder: Any,
    folder: str | Path,
    out: str | Path,
    threshold: float,
    limit: int | None = None,
    resume: bool = True,
    sureness: float | None = None,
) -> dict[str, Interval]:
    """F1 of names (`span`) in captions of the scenes under `folder`, with references given or retrieved.

    - ``given``: the shown toys are the references, as in the paper's *skip-retrieval*;
    - ``retrieved``: the first four concepts found are;
    - ``accepted``: those of the four above `threshold` are;
    - ``strangers named``: share of strangers' scenes whose caption names a concept, with accepted references.

    With `sureness` also:

    - ``verified``: those of the four are the references that the captioner's model confirms (`Verifier`);
    - ``strangers named, verified``: as above, with verified references.

    A caption file of each is written to `out`.
    """
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json")
    index = ConceptIndex.build(database, embedder)
    queries = json.loads((folder / "queries.json").read_text())
    known = [_item(query, folder, database) for query in queries["known"][:limit]]
    strangers = [_item(query, folder, database) for query in queries["strangers"][:limit]]
    ways = {
        "given": known,
        "retrieved": with_retrieved(known, database, index, embedder, tiles, 4, -1.0),
        "accepted": with_retrieved(known, database, index, embedder, tiles, 4, threshold),
        "strangers": with_retrieved(strangers, database, index, embedder, tiles, 4, threshold),
    }
    if sureness is not None:
        confirm = Verifier(
            captioner.model, captioner.processor, database, sureness, batch_size=captioner.batch_size
        )
        found_in = (database, index, embedder, tiles, 4, -1.0)
        ways["verified"] = with_retrieved(known, *found_in, confirm=confirm)
        ways["strangers, verified"] = with_retrieved(strangers, *found_in, confirm=confirm)
    found = {}
    for name, items in ways.items():
        path = Path(out) / f"{name}.json"
        rows = captioner.caption_many(items, out=path, resume=resume)
        if name.startswith("strangers"):
            named = [float(bool(find_names(row[2], list(database)))) for row in rows]
            found[name.replace("strangers", "strangers named")] = mean_interval(
                named, [row[0] for row in rows]
            )
        else:
            found[name] = score_intervals(load_captions(path), "span", database)["f1"]
    return found


def _item(query: dict[str, Any], folder: Path, database: ConceptDatabase) -> CaptionItem:
    """A query of ``queries.json`` with the concepts that it shows as references; strangers have none."""
    tags = [tag for tag in query["shown"].values() if tag]
    return CaptionItem(folder / query["query"], database.select(*tags), tags=tags, label=query["query"])
