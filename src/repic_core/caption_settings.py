"""What a caption file was made with, in ``<name>.settings.json`` beside it: only its own run goes on with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repic_core.images import image_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repic_core.captioner import CaptionItem

HASHED_VALUES = 65536  # of a weight, evenly spread; the toy's are no larger, so all of them count
SETTINGS_SUFFIX = ".settings.json"
START_AFRESH = "delete the file or write to another"


def settings_path(out: str | Path) -> Path:
    """Where the settings stand with which the caption file `out` was made."""
    out = Path(out)
    return out.with_name(f"{out.stem}{SETTINGS_SUFFIX}")


def hash_weights(model: Any) -> str:
    """A hash of the weights: every tensor's name, shape and type, up to `HASHED_VALUES` of its values, evenly
    spread (all of the toy's; of 7B about one in 200, in a second or so), and how adapters are applied."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        values = tensor.detach().reshape(-1)
        values = values[:: max(1, -(-values.numel() // HASHED_VALUES))].contiguous().cpu()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scaling", None), dict):  # a LoRA layer
            digest.update(f"{name} {module.scaling} {module.disable_adapters}".encode())
    return digest.hexdigest()


def check_settings(out: Path, settings: dict[str, Any], finished: int) -> None:
    """`ValueError` where the first `finished` rows of `out` were made with other settings."""
    path = settings_path(out)
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in settings if k not in ("model", "items") and old[k] != settings[k]]
        row = next((i for i in range(finished) if old["items"][i] != settings["items"][i]), None)
    except FileNotFoundError:
        raise ValueError(
            f"{out}: no {path.name} beside it, so how its captions were made is unknown: {START_AFRESH}"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(f"{path}: not the settings of {out.name}'s captions: {START_AFRESH}") from None
    if changed:
        name = changed[0]
        was, now = (f"{s['model']}, {s[name]}" if name == "weights" else s[name] for s in (old, settings))
        raise ValueError(f"{out}: made with other {name} (was {was!r}, is {now!r}): {START_AFRESH}")
    if row is not None:
        raise ValueError(
            f"{out}, row {row + 1}: made with another photo, reference, info or question: {START_AFRESH}"
        )


def item_hashes(items: Sequence[CaptionItem]) -> list[str]:
    """A hash an item: the bytes of its photos (each file is read once) and its texts."""
    files: dict[str, str] = {}

    def hash_once(image: Any) -> str:
        if not isinstance(image, str | Path):
            return image_hash(image)
        if str(image) not in files:
            try:
                files[str(image)] = image_hash(image)
            except OSError:  # captioning says so when it comes to it
                files[str(image)] = "unreadable"
        return files[str(image)]

    hashes = []
    for item in items:
        references = [[c.tag, c.info, *map(hash_once, c.images)] for c in item.references]
        parts = json.dumps([hash_once(item.query), references, item.question, item.reference_photos])
        hashes.append(hashlib.sha256(parts.encode()).hexdigest())
    return hashes
