"""Watches what operations make and how long it lives; shapes are enough, on fake tensors and the meta device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorLifetimes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch 2.13 leaves it without types
    """Counts the bytes of all storages that operations made and that still live.

    Attributes:
        held_bytes: now.
        peak_bytes: the most there were since `begin`.
        num_operations: those that compute.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held_bytes = self.peak_bytes = self.num_operations = 0
        self._known: set[int] = set()

    def begin(self) -> int:
        """Forget the peak; what is held."""
        self.peak_bytes = self.held_bytes
        return self.held_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):  # what was there before, and may be given back
            if isinstance(tensor, Tensor):
                self._add(tensor, 0)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor, tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0)
        self.num_operations += 0 if func.is_view else 1
        return out

    def _add(self, tensor: Tensor, size: int) -> None:
        if (
            tensor.layout is not torch.strided
        ):  # a sparse gradient: what it holds follows from data, which are not there
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held_bytes -= size
