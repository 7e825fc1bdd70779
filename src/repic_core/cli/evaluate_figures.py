"""``repic evaluate --figures``: the examples of the paper's Figures 1, A.1 and A.2."""

from __future__ import annotations

import argparse
from typing import Any

from repic_core.cli.options import chosen
from repic_core.cli.output import note
from repic_core.cli.server import chosen_captioner, tell_tokens


def draw_figures(options: argparse.Namespace, method: str) -> None:
    """Draw ``figures.png`` and ``.pdf`` with the published answers and, with ``--model``, the model's captions."""
    from repic_core.captioner.caption_files import load_captions
    from repic_core.display.caption_grid import caption_grid
    from repic_core.evaluation.figure_examples import (
        PUBLISHED,
        figure_examples,
        figure_rows,
        published_answers,
    )
    from repic_core.evaluation.paper_settings import SettingError

    if method == PUBLISHED:
        raise ValueError(f"--method {method}: is the name of the authors' answers; give another")
    items = figure_examples(options.root, lambda line: note(options, line))
    if not items:
        raise SettingError(f"{options.root}: holds no example of the figures")
    captions = {PUBLISHED: published_answers(options.root)}
    if options.model:
        file = options.out / "captions" / method / "figures.json"
        captioner = paper_captioner(options, "inference-2025")
        captioner.caption_many(items, file, progress=not options.quiet)
        tell_tokens(options, captioner)
        captions[method] = {record.query: record.caption for record in load_captions(file)}
    rows = figure_rows(items, captions)
    if not rows:
        raise SettingError(
            f"{options.root}: has no inference_example.ipynb, which holds the published answers; give a --model"
        )
    caption_grid(rows, options.out / "figures")
    print(f"{options.out / 'figures.png'}: {len(rows)} of the six examples")


def paper_captioner(options: argparse.Namespace, published: str) -> Any:
    """The captioner that `options` ask for, with photos and prompts as the authors give them.

    Args:
        published: as in `options.defaults_for`.
    """
    return chosen_captioner(options, chosen(options, published), resized_by="qwen-vl-utils")
