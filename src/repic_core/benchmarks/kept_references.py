"""What kept references save: ``repic benchmark kept-references --preset cpu``.

In each run new photos of noise are drawn, four references and two queries, and captions are timed:

- without: the first query, by `Captioner`;
- miss: the same, by `PrefixCaptioner`, which has not seen these references yet;
- hit: the second query, whose references are there.

*First token* is the time from the call to the logits of the first token (a logits processor reads the clock there):
of ``caption``, or *streamed*, in the thread that ``stream`` starts, which on a CPU begins with a new team of OpenMP
threads. *Total* is that of ``caption``. All begin with the paths of the photos. Reported are medians over the runs
and ratios of these.
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
    """References and two queries, photos of noise of `side` pixels or, for side 0, of the toy world's sizes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    paths = []
    for number in range(references + 2):
        size = side or (32 if number < references else 96)
        paths.append(folder / f"{seed}_{number}.png")
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(paths[-1])
    concepts = [Concept(f"<mira{i}>", f"mira{i}", paths[i], "a little toy") for i in range(references)]
    return concepts, paths[references:]


def run(preset: str, repeats: int = 5, references: int = 4, tokens: int = 64) -> dict[str, Any]:
    """Measure the three cases in turn, `repeats` times and once before to warm up.

    Raises:
        RuntimeError: a prefix was not reused where it should be, or the other way round.
    """
    from repic_core.models.vision import use_batched_vision

    model, processor = build_model(preset)
    use_batched_vision(model.eval())
    plain, keeping = (kind(model, processor, max_new_tokens=tokens) for kind in (Captioner, PrefixCaptioner))
    never = [model.config.image_token_id, model.config.video_token_id]  # random weights do choose them
    generation = {"min_new_tokens": tokens, "suppress_tokens": never}
    seconds: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            concepts, (one, two) = draw(Path(folder), repeat, references, PRESETS[preset]["side"])
            for case, captioner, query in (
                ("without", plain, one),
                ("miss", keeping, one),
                ("hit", keeping, two),
            ):
                spent = {}
                for write in (captioner.caption, captioner.stream):
                    if case == "miss":
                        keeping.forget()
                    first, total = measure(write, query, concepts, **generation)
                    if captioner is keeping and keeping.reused is not (case == "hit"):
                        raise RuntimeError(f"{case}: reused is {keeping.reused}")
                    spent |= (
                        {"streamed": first} if write == captioner.stream else {"first": first, "total": total}
                    )
                if repeat:  # the first is the warm-up
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
