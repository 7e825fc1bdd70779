"""How many bytes of tensors are held at a time: in go the operations of a block, out come the bytes at its peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORK, LOGITS = "working memory", "logits"


class LiveBytes(TorchDispatchMode):
    """Context manager that counts the storages which operations make, until nothing holds them.

    known: tensors that are counted elsewhere; vocabulary: the last dimension of what counts as logits.
    `at_peak`: bytes by label when most were held.
    """

    def __init__(self, known: list[Any], vocabulary: int) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.vocabulary = vocabulary
        self.label = WORK
        self.live: dict[int, tuple[int, str, Any]] = {}  # by storage: bytes, label, a weak reference
        self.sums: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                wide = leaf.ndim >= 2 and leaf.shape[-1] == self.vocabulary and self.label == WORK
                self.see(leaf, LOGITS if wide else self.label)
        return out

    @contextmanager
    def under(self, label: str) -> Iterator[None]:
        """Context manager, or decorator of a function, in which new storages count under `label`."""
        self.label = label
        yield
        self.label = WORK

    def see(self, tensor: Any, label: str) -> None:
        """Count the storage of `tensor` under `label`, whether it is new or not."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        if key in self.live:
            if label in (WORK, LOGITS):  # a view, or written in place
                return
            self._gone(key)
        held = weakref.ref(storage, lambda _: self._gone(key))
        self.live[key] = storage.nbytes(), label, held
        self.sums[label] += storage.nbytes()
        if sum(self.sums.values()) > sum(self.at_peak.values()):
            self.at_peak = dict(self.sums)

    def keep(self, label: str) -> None:
        """Count all working memory that is still held under another label."""
        for key, (size, old, held) in list(self.live.items()):
            if old == WORK:
                self.live[key] = size, label, held
                self.sums[old] -= size
                self.sums[label] += size

    def _gone(self, key: int) -> None:
        size, label, _ = self.live.pop(key, (0, WORK, None))
        self.sums[label] -= size
