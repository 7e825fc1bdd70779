"""How many captions a second: ``repic benchmark captions --preset cpu``.

The rows are shaped as the paper's 4-concept setting: 105 rows about four query photos, each with four of the eight
concepts of its query, so that a photo is shown fifteen times on average. Photos are noise. Each run captions all of
them in each case, one case after the other:

- each row on its own: batches of `Captioner`, in which every row's photos are opened and encoded again;
- photos once: the same batches, in which each photo is opened and encoded once (the default);
- kept references: `PrefixCaptioner`, a row at a time, which keeps the references of the last four prompts;
- server: `EndpointCaptioner`, if an address is given.

Captions must be the same in all cases. Those of random weights run to the full length. Beside the ratio of the
times is that of the CPU times of this process, which other work on the machine disturbs less.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from repic_core.benchmarks.presets import PRESETS, build_model
from repic_core.benchmarks.training_step import machine, timed
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.endpoint import EndpointCaptioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.concept import Concept
from repic_core.models.parts import conditional_model

ROWS, QUERIES, CONCEPTS = 105, 4, 8
FIRST = "each row on its own"


def draw(folder: Path, side: int, rows: int, references: int) -> list[CaptionItem]:
    """Rows about photos of noise, `side` pixels wide and high (0: the toy world's sizes)."""
    import numpy as np
    from PIL import Image

    from repic_core.toyworld.photos import REFERENCE_SIDE, SCENE_SIDE

    rng = np.random.default_rng(0)

    def photo(name: str, size: int) -> Path:
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        return folder / f"{name}.png"

    queries = [photo(f"query{place}", side or SCENE_SIDE) for place in range(QUERIES)]
    known = [
        [
            Concept(f"<mira{q}{c}>", f"mira{q}{c}", photo(f"{q}_{c}", side or REFERENCE_SIDE), "a little toy")
            for c in range(max(CONCEPTS, references))
        ]
        for q in range(QUERIES)
    ]
    items = []
    for row in range(rows):
        query = row * QUERIES // rows
        chosen = rng.permutation(len(known[query]))[:references]
        items.append(CaptionItem(queries[query], [known[query][place] for place in chosen]))
    return items


def run(
    preset: str,
    repeats: int = 3,
    rows: int = ROWS,
    references: int = 4,
    tokens: int = 64,
    batch_size: int = 8,
    server: str | None = None,
    model_name: str | None = None,
) -> dict[str, Any]:
    """Caption all rows in each case, `repeats` times after one round with a few rows to warm up.

    Args:
        server: the address of a server with the preset's model, which it calls `model_name`.

    In half precision captions of random weights may differ by rounding; ``other captions`` names those cases.

    Raises:
        RuntimeError: two cases give different captions in float32.
    """
    import torch

    from repic_core.models.vision import use_batched_vision

    model, processor = build_model(preset)
    use_batched_vision(model.eval())
    shared = {"system": None, "max_new_tokens": tokens}
    cases: dict[str, Any] = {
        FIRST: Captioner(model, processor, batch_size=batch_size, photos_once=False, **shared),
        "photos once": Captioner(model, processor, batch_size=batch_size, **shared),
        "kept references": PrefixCaptioner(model, processor, batch_size=1, **shared),
    }
    if server:
        cases["server"] = EndpointCaptioner(server, model_name or "", **shared)
    generation: dict[str, Any] = {}
    if preset != "toy":  # random weights would choose the tokens of photos
        never = [model.config.image_token_id, model.config.video_token_id]
        generation = {"min_new_tokens": tokens, "suppress_tokens": never}
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    cpu: dict[str, list[float]] = {case: [] for case in cases}
    captions: dict[str, list[str]] = {}
    spent = _watched(conditional_model(model).model.visual)
    vision: dict[str, list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        items = draw(Path(folder), PRESETS[preset]["side"], rows, references)
        for repeat in range(repeats + 1):
            for case, captioner in cases.items():
                if case == "kept references":
                    captioner.forget()
                options = {} if case == "server" else generation
                before, started, busy = spent[0], time.perf_counter(), time.process_time()
                found = captioner.caption_many(
                    items if repeat else items[:batch_size], progress=False, **options
                )
                if repeat:
                    seconds[case].append(time.perf_counter() - started)
                    cpu[case].append(time.process_time() - busy)
                    vision[case].append(spent[0] - before)
                    captions[case] = [row[2] for row in found]
    others = [case for case in cases if captions[case] != captions[FIRST]]
    if others and model.dtype == torch.float32:
        raise RuntimeError(f"{others[0]}: its captions are not those of `{FIRST}`")
    medians = {case: statistics.median(runs) for case, runs in seconds.items()}
    busy_medians = {case: statistics.median(runs) for case, runs in cpu.items()}
    return {
        "preset": preset,
        "settings": {"rows": rows, "references": references, "tokens": tokens, "batch size": batch_size},
        "seconds": medians,
        "vision_seconds": {case: statistics.median(runs) for case, runs in vision.items()},
        "cpu_seconds": busy_medians,
        "raw_seconds": seconds,
        "other captions": others,
        "ratios": {case: medians[FIRST] / value for case, value in medians.items()},
        "cpu_ratios": {case: busy_medians[FIRST] / value for case, value in busy_medians.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": machine(),
    }


def _watched(tower: Any) -> list[float]:
    """The seconds spent in `tower` from now on, as a list of one."""
    spent, forward = [0.0], tower.forward

    def timed_forward(*args: Any, **kwargs: Any) -> Any:
        took, out = timed(lambda: forward(*args, **kwargs))
        spent[0] += took
        return out

    tower.forward = timed_forward
    return spent


def report(found: dict[str, Any]) -> str:
    """What was measured, on what, and a Markdown table."""
    where = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    rows = found["settings"]["rows"]
    lines = [
        f"{found['preset']}: {found['parameters']:,} parameters, {found['settings']}",
        where,
        "",
        f"| {found['preset']} | captions a second | of it in the vision tower | ratio | ratio of CPU times |",
        "|---" * 5 + "|",
    ]
    for case, spent in found["seconds"].items():
        share, busy = f"{found['vision_seconds'][case] / spent:.0%}", f"{found['cpu_ratios'][case]:.2f}"
        if case == "server":  # which computes in a process of its own
            share = busy = ""
        lines.append(f"| {case} | {rows / spent:.1f} | {share} | **{found['ratios'][case]:.2f}** | {busy} |")
    return "\n".join(lines)
