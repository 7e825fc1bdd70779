"""What kept references save: ``repic benchmark kept-references --preset cpu``.

Each run draws new photos of noise, four references and two queries, and times captions:

- without: of the first query, by `Captioner`;
- miss: of the same query, by `PrefixCaptioner`, which has not seen these references yet;
- hit: of the second query, by `PrefixCaptioner`, which has kept the references.

*First token* is the time from the call to the logits of the first token, where a logits processor reads the clock.
It is that of ``caption`` or, *streamed*, that of the thread that ``stream`` starts, which on a CPU first makes a
new team of OpenMP threads. *Total* is that of ``caption``. All times include opening the photos. The report has
medians over the runs and their ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from repic_core.benchmarks.presets import PRESETS, build_model
from repic_core.benchmarks.training_step import machine
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.concept import Concept

CASES = ("without", "miss", "hit")
TIMES = {"first": "first token", "streamed": "first token, streamed", "total": "total"}


def measure(write: Callable[..., Iterable[str]], *prompt: Any, **generation: Any) -> tuple[float, float]:
    """Seconds from the call of `write` to the first token's logits, and to the caption's end."""
    import torch

    first: list[float] = []

    def read_clock(input_ids: Any, scores: Any) -> Any:
        if not first:
            if scores.is_cuda:
                torch.cuda.synchronize()
            first.append(time.perf_counter())
        return scores

    started = time.perf_counter()
    for _ in write(*prompt, logits_processor=[read_clock], **generation):
        pass
    return first[0] - started, time.perf_counter() - started


def draw(folder: Path, seed: int, references: int, side: int) -> tuple[list[Concept], list[Path]]:
    """References and two queries: photos of noise, `side` pixels wide and high (0: the toy world's sizes)."""
    import numpy as np
    from PIL import Image

    from repic_core.toyworld.photos import REFERENCE_SIDE, SCENE_SIDE

    rng = np.random.default_rng(seed)
    paths = []
    for number in range(references + 2):
        size = side or (REFERENCE_SIDE if number < references else SCENE_SIDE)
        paths.append(folder / f"{seed}_{number}.png")
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(paths[-1])
    concepts = [Concept(f"<mira{i}>", f"mira{i}", paths[i], "a little toy") for i in range(references)]
    return concepts, paths[references:]


def run(preset: str, repeats: int = 5, references: int = 4, tokens: int = 64) -> dict[str, Any]:
    """Measure the three cases one after the other, `repeats` times, after one round to warm up.

    Raises:
        RuntimeError: references were not reused in a hit, or were reused in a miss.
    """
    from repic_core.models.vision import use_batched_vision

    model, processor = build_model(preset)
    use_batched_vision(model.eval())
    plain = Captioner(model, processor, max_new_tokens=tokens)
    keeping = PrefixCaptioner(model, processor, max_new_tokens=tokens)
    never = [model.config.image_token_id, model.config.video_token_id]  # random weights would choose them
    generation = {"min_new_tokens": tokens, "suppress_tokens": never}
    seconds: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            concepts, (one, two) = draw(Path(folder), repeat, references, PRESETS[preset]["side"])
            cases = {"without": (plain, one), "miss": (keeping, one), "hit": (keeping, two)}
            for case, (captioner, query) in cases.items():
                spent = _caption_times(case, captioner, query, concepts, generation)
                if repeat:  # the first round is the warm-up
                    seconds[case].append(spent)
            prompt = plain.inputs([CaptionItem(one, concepts)])["input_ids"][0]
    medians = {
        case: {name: statistics.median(one[name] for one in runs) for name in TIMES}
        for case, runs in seconds.items()
    }
    return {
        "preset": preset,
        "settings": {"references": references, "side": PRESETS[preset]["side"], "tokens": tokens},
        "seconds": medians,
        "raw_seconds": seconds,
        **{f"{name}_ratio": medians["without"][name] / medians["hit"][name] for name in TIMES},
        "prompt_tokens": len(prompt),
        "prefix_tokens": (prompt == model.config.vision_start_token_id).nonzero().max().item(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": machine(),
    }


def _caption_times(
    case: str, captioner: Any, query: Path, concepts: list[Concept], generation: Any
) -> dict[str, float]:
    """Seconds of one case, by the keys of `TIMES`; RuntimeError if it did not reuse references as it should."""
    times = []
    for write in (captioner.caption, captioner.stream):
        if case == "miss":
            captioner.forget()
        times.append(measure(write, query, concepts, **generation))
        if case != "without" and captioner.reused is not (case == "hit"):
            raise RuntimeError(f"{case}: reused is {captioner.reused}")
    (first, total), (streamed, _) = times
    return {"first": first, "total": total, "streamed": streamed}


def report(found: dict[str, Any]) -> str:
    """What was measured, on what, and a Markdown table."""
    shape = f"P = {found['prompt_tokens']}, of which {found['prefix_tokens']} before the query"
    where = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = [
        f"{found['preset']}: {found['parameters']:,} parameters, {shape}, {found['settings']}",
        where,
        "",
        f"| {found['preset']} | " + " | ".join(CASES) + " | without / hit |",
        "|---" * 5 + "|",
    ]
    for name, shown in TIMES.items():
        cells = [f"{found['seconds'][case][name]:.3f} s" for case in CASES]
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | **{found[f'{name}_ratio']:.1f}** |")
    return "\n".join(lines)
