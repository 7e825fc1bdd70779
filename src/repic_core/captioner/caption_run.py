"""A run that captions many items into a caption file: saved as it grows, resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import (
    CaptionItem,
    caption_row,
    check_settings,
    finished_rows,
    settings_path,
)
from repic_core.io.files import read_json, write_json_atomic

# Between two writes of a growing caption file.
SAVE_SECONDS = 5


def run_items(
    items: Sequence[CaptionItem],
    captions: Callable[[list[int]], Iterator[tuple[int, str]]],
    settings: Callable[[], dict[str, Any]],
    out: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> list[list[Any]]:
    """Rows ``[query path, tags, caption, question]`` of all items, in order.

    With `out`, they are written there during the run: atomically, every `SAVE_SECONDS` and at the end, even if the
    run ends early. Captions of later items than the first missing one are kept in the settings beside the file, as
    ``ahead``, until it is there.

    Args:
        captions: given the places of the items to caption, yields (place, caption) in any order.
        settings: what the captions depend on; called only with `out`.
        resume: go on with the file if it exists; else the first new rows replace it.

    Raises:
        ValueError: as `caption_files.finished_rows`; or as `captions`, after what was finished is saved.
    """
    from tqdm.auto import tqdm

    out = None if out is None else Path(out)
    made_with = {} if out is None else settings()
    rows: list[list[Any]] = []
    ahead: dict[int, str] = {}
    if out is not None and resume and out.exists():
        rows = finished_rows(items, out, made_with)
        ahead = _finished_ahead(out, made_with, len(rows))
    loaded, resumed = dict(ahead), bool(rows or ahead)
    # How many captions the files hold; and whether the settings are written in this run.
    saved, begun = len(rows) + len(ahead), False

    def save() -> None:
        nonlocal saved, begun
        if out is None or len(rows) + len(ahead) == saved:
            return
        if not begun:  # old rows must never be found beside new settings
            if not resumed:
                out.unlink(missing_ok=True)
            _write_settings(out, made_with, loaded)
        write_json_atomic(out, rows, indent=None)
        if ahead or loaded:
            _write_settings(out, made_with, ahead)
            loaded.update(ahead)
        saved, begun = len(rows) + len(ahead), True

    missing = [place for place in range(len(rows), len(items)) if place not in ahead]
    written = time.monotonic()
    with tqdm(total=len(items), initial=saved, disable=not progress, unit="photo") as bar:
        # A notebook keeps results, not bars.
        bar.leave = not hasattr(bar, "container")
        try:
            for place, caption in captions(missing) if missing else ():
                ahead[place] = caption
                bar.update()
                while len(rows) in ahead:
                    rows.append(caption_row(items[len(rows)], ahead.pop(len(rows))))
                if time.monotonic() - written > SAVE_SECONDS:
                    save()
                    written = time.monotonic()
        finally:  # keeps what was finished before an unreadable photo or an interrupt
            save()
    return rows


def _write_settings(out: Path, settings: dict[str, Any], ahead: dict[int, str]) -> None:
    kept = {"ahead": {str(place): caption for place, caption in ahead.items()}} if ahead else {}
    write_json_atomic(settings_path(out), settings | kept)


def _finished_ahead(out: Path, settings: dict[str, Any], finished: int) -> dict[int, str]:
    """The captions of items after the first `finished` ones that the settings beside `out` keep, by place.

    Raises:
        ValueError: they were made with different settings.
    """
    path = settings_path(out)
    old = read_json(path, ValueError) if path.exists() else {}
    kept = old.get("ahead") if isinstance(old, dict) else None
    if not kept:
        return {}
    check_settings(out, settings, finished)
    same = [old == new for old, new in zip(old["items"], settings["items"], strict=False)]
    return {
        int(place): caption
        for place, caption in kept.items()
        if finished <= int(place) < len(same) and same[int(place)]
    }
