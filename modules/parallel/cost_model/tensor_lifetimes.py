"""Tracks the tensors that operations create and free; also works with fake tensors and on the meta device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorLifetimes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # no types in torch 2.13
    """Counts the bytes of all storages that operations have created and that are alive.

    Attributes:
        held_bytes: current total.
        peak_bytes: maximum since `reset_peak`.
        num_operations: operations that are not views.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held_bytes = self.peak_bytes = self.num_operations = 0
        self._known: set[int] = set()

    def reset_peak(self) -> int:
        """Set the peak to the current total, and return it."""
        self.peak_bytes = self.held_bytes
        return self.held_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):  # mark inputs as known: an operation may return them
            if isinstance(tensor, Tensor):
                self._add(tensor, 0)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor, tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0)
        self.num_operations += 0 if func.is_view else 1
        return out

    def _add(self, tensor: Tensor, size: int) -> None:
        if tensor.layout is not torch.strided:  # a sparse gradient: its size depends on data, which do not exist here
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
