"""Retrieval on the toy world: find held-out toys in scenes, among more and more concepts, and refuse strangers.

`STRANGERS` identities of a split are in no database. A database first holds the other identities of the split (200
of test, 109 of validation), which are the ones that scenes show; beyond them, identities of the training split fill
it up as distractors that no scene shows. The regions searched are `windows`. For each size, the threshold is fitted
on the validation split. ``repic toyworld retrieval`` prints the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
from repic_core.models.parts import hash_weights
from repic_core.retrieval.embedders import TowerEmbedder
from repic_core.retrieval.find import ConceptIndex, Found, Hit, find_concepts, with_retrieved
from repic_core.retrieval.regions import Box, windows
from repic_core.retrieval.threshold import least_score
from repic_core.retrieval.verify import Verifier
from repic_core.toyworld.arms import cell, over_seeds
from repic_core.toyworld.dataset import SETTINGS, heldout_number, save_image
from repic_core.toyworld.drawings import identities
from repic_core.toyworld.photos import REFERENCE_SIDE, draw_reference, draw_scene
from repic_core.toyworld.world import GENERIC_INFO, new_names

STRANGERS = 20
# Up to 100, every concept is held out, in both splits.
SIZES = (10, 30, 100, 300, 900)
# Concepts searched for in a scene, which shows up to as many.
K = 4
# Of the wrong concepts among the `K` found in each validation scene, the shares that are accepted by similarity
# (`fitted_threshold`) and by the model (`fitted_sureness`).
FALSE_ACCEPTS, FALSE_CONFIRMS = 0.05, 0.03
HEAD = ("concepts", "regions")


def toy_embedder(model: Any, processor: Any) -> TowerEmbedder:
    """The vision tower of the shipped model; crops are seen at the size of reference photos."""
    return TowerEmbedder(model, processor, side=REFERENCE_SIDE)


def write_retrieval(
    folder: str | Path, split: str, size: int, n: int = 150, seed: int = 0
) -> ConceptDatabase:
    """Write a database of `size` concepts, with `n` scenes of 1 to `K` held-out ones and `n` of strangers.

    ``queries.json`` is ``{"known" | "strangers": [{"query", "shown", "boxes"}]}``: a tag and a box for each thing
    in the scene; the tag of a stranger is null. Names are of the split and infos are generic, so that concepts can
    be found only by sight.
    """
    number = heldout_number(split)
    folder = Path(folder).resolve()
    own = identities(split)
    order = np.random.default_rng([seed, 50]).permutation(len(own))
    strangers, known = [own[i] for i in order[:STRANGERS]], [own[i] for i in order[STRANGERS:]]
    rng = np.random.default_rng([seed, 51, number, size])
    train = identities("train")
    drawings = [*known, *(train[i] for i in rng.permutation(len(train)))][:size]
    names = dict(zip(drawings, new_names(len(drawings), rng, split), strict=True))
    concepts = []
    for drawing, name in names.items():
        photo = save_image(draw_reference(drawing, rng), folder, f"concept_{len(concepts):03d}")
        concepts.append(Concept(name=name, image=str(folder / photo), info=GENERIC_INFO, category="toy"))
    database = ConceptDatabase(concepts, root=folder)
    database.save(folder / "database.json")
    queries: dict[str, list[dict[str, Any]]] = {}
    for group, pool in (("known", known[:size]), ("strangers", strangers)):
        queries[group] = []
        for i in range(n):
            things = [pool[j] for j in rng.permutation(len(pool))[: rng.integers(1, K + 1)]]
            scene = draw_scene(things, rng)
            path = save_image(scene.image, folder, f"{group}_{i:03d}")
            shown = [f"<{names[thing]}>" if thing in names else None for thing in things]
            queries[group].append({"query": path, "shown": shown, "boxes": scene.boxes})
    write_json_atomic(folder / "queries.json", queries)
    return database


def _queries(folder: Path) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The group, the query and the photo of each scene under `folder`."""
    for group, queries in json.loads((folder / "queries.json").read_text(encoding="utf-8")).items():
        for query in queries:
            yield group, query, open_image(folder / query["query"])


def wrong_hits(index: ConceptIndex, embedder: Any, folder: str | Path) -> list[Found]:
    """Of the `K` concepts that are found in each scene under `folder`, those that it does not show."""
    wrong: list[Found] = []
    for _, query, scene in _queries(Path(folder)):
        found: list[Found] = []
        find_concepts(scene, index, embedder, windows, K, -1.0, confirm=partial(_keep, found))
        wrong += [(hit, crop) for hit, crop in found if hit.tag not in query["shown"]]
    return wrong


def _keep(kept: list[Found], found: list[Found]) -> list[Hit]:
    """A `confirm` for `find_concepts` that confirms nothing and adds what was found to `kept`."""
    kept += found
    return []


def fitted_threshold(index: ConceptIndex, embedder: Any, folder: str | Path) -> float:
    """The least similarity with which a share `FALSE_ACCEPTS` of `wrong_hits` is accepted."""
    wrong = wrong_hits(index, embedder, folder)
    return least_score([hit.similarity for hit, _ in wrong], FALSE_ACCEPTS)


def fitted_sureness(
    captioner: Captioner, embedder: Any, folder: str | Path, false_accepts: float = FALSE_CONFIRMS
) -> float:
    """The least sureness (`Verifier`) with which at most a share `false_accepts` of `wrong_hits` is confirmed."""
    database = ConceptDatabase.load(Path(folder) / "database.json")
    wrong = wrong_hits(ConceptIndex.build(database, embedder), embedder, folder)
    verifier = Verifier(captioner.model, captioner.processor, database, batch_size=captioner.batch_size)
    return least_score(verifier.sureness(wrong), false_accepts)


def measure_retrieval(
    embedder: Any, folder: str | Path, threshold: float, known_boxes: bool = False
) -> dict[str, float]:
    """How well the toys in the scenes under `folder` are found, and what a threshold lets through.

    Regions are `windows`, or with `known_boxes` the true boxes of the toys. The scores:

    - ``first``: share of scenes that show the first concept found;
    - ``recall@N``: share of shown toys among the N concepts found;
    - ``accepted``: recall@4 with the threshold;
    - ``false_accepts``: concepts found in strangers' scenes, over the `K` that may be;
    - ``abstained``: share of strangers' scenes in which no concept is found.
    """
    folder = Path(folder)
    database = ConceptDatabase.load(folder / "database.json")
    index = ConceptIndex.build(database, embedder)
    names = ("first", "recall@4", "recall@8", "accepted", "false_accepts", "abstained")
    found: dict[str, list[float]] = {name: [] for name in names}
    for group, query, scene in _queries(folder):
        regions = partial(_given_boxes, query["boxes"]) if known_boxes else windows
        accepted = {hit.tag for hit in find_concepts(scene, index, embedder, regions, K, threshold)}
        if group == "strangers":
            found["false_accepts"].append(len(accepted) / min(K, len(database)))
            found["abstained"].append(not accepted)
            continue
        tags = [hit.tag for hit in find_concepts(scene, index, embedder, regions, 8, -1.0)]
        found["first"].append(tags[0] in query["shown"])
        for tag in query["shown"]:
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
            rows.append({"regions": "true boxes" if known_boxes else "windows", **row})
    return rows


def run(
    model: str | Path,
    out: str | Path,
    adapter: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    sizes: Sequence[int] = SIZES,
) -> list[dict[str, Any]]:
    """`retrieval_table` over `seeds`, with the scores of `caption_found` for windows: a row for each size and
    kind of region. What is finished under `out` with the same weights is not measured again."""
    loaded = load_model(model, adapter)
    weights = hash_weights(loaded[0])
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for seed in seeds:
        for size in sizes:
            folder = Path(out) / str(seed)
            path = folder / f"scores_{size}.json"
            kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if kept.get("weights") != weights:
                kept = {"weights": weights, "rows": _size_rows(*loaded, folder, size, seed)}
                write_json_atomic(path, kept)
            for row in kept["rows"]:
                rows.setdefault((size, row["regions"]), []).append(row)
    return [
        {"concepts": size, "regions": regions, **over_seeds(found, [k for k in found[0] if k not in HEAD])}
        for (size, regions), found in rows.items()
    ]


def _size_rows(model: Any, processor: Any, folder: Path, size: int, seed: int) -> list[dict[str, Any]]:
    """The rows of one size and seed: windows, with the scores of captions, and true boxes."""
    embedder, captioner = toy_embedder(model, processor), SETTINGS.captioner(model, processor, batch_size=50)
    windowed, boxed = retrieval_table(embedder, folder, [size], seed=seed)
    found = caption_found(
        captioner,
        embedder,
        folder / f"test_{size}",
        folder / f"captions_{size}",
        windowed["threshold"],
        resume=False,
        sureness=fitted_sureness(captioner, embedder, folder / f"val_{size}"),
    )
    for way, share in found.items():
        windowed[way if way.startswith("strangers") else f"F1 {way}"] = share.value
    return [windowed, boxed]


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
    - ``retrieved``: the first `K` concepts found are;
    - ``accepted``: those of them above `threshold` are;
    - ``strangers named``: share of strangers' scenes whose caption names a concept, with accepted references.

    With `sureness` also:

    - ``verified``: those of them are the references that the captioner's model confirms (`Verifier`);
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
        "retrieved": with_retrieved(known, database, index, embedder, windows, K, -1.0),
        "accepted": with_retrieved(known, database, index, embedder, windows, K, threshold),
        "strangers": with_retrieved(strangers, database, index, embedder, windows, K, threshold),
    }
    if sureness is not None:
        confirm = Verifier(
            captioner.model, captioner.processor, database, sureness, batch_size=captioner.batch_size
        )
        found_in = (database, index, embedder, windows, K, -1.0)
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
    tags = [tag for tag in query["shown"] if tag]
    return CaptionItem(folder / query["query"], database.select(*tags), tags=tags, label=query["query"])
