"""How many bytes of tensors are held at a time, counted from the operations that make them."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORK, LOGITS = "working memory", "logits"


class LiveBytes(TorchDispatchMode):
    """Within: bytes of the storages that operations made and that are still held, and their peak, by label.

    known: tensors that are counted elsewhere.
    """

    def __init__(self, known: list[Any], logits: int) -> None:
        super().__init__()
        self.label, self.logits = WORK, logits
        self.live: dict[int, tuple[int, str, Any]] = {}
        self.sums: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                wide = leaf.ndim >= 2 and leaf.shape[-1] == self.logits and self.label == WORK
                self.see(leaf, LOGITS if wide else self.label)
        return out

    def see(self, tensor: Any, label: str) -> None:
        """Count the storage of `tensor` under `label`, whether it is new or not."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        if key in self.live:
            if label in (WORK, LOGITS):  # a view, or written in place
                return
            self.gone(key)
        held = weakref.ref(storage, lambda _: self.gone(key))
        self.live[key] = storage.nbytes(), label, held
        self.sums[label] += storage.nbytes()
        if sum(self.sums.values()) > sum(self.at_peak.values()):
            self.at_peak = dict(self.sums)

    def gone(self, key: int) -> None:
        size, label, _ = self.live.pop(key, (0, WORK, None))
        self.sums[label] -= size

    def keep(self, label: str) -> None:
        """All working memory that is still held gets another label."""
        for key, (size, old, held) in list(self.live.items()):
            if old == WORK:
                self.live[key] = size, label, held
                self.sums[old] -= size
                self.sums[label] += size
