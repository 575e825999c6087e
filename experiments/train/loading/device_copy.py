"""Copies batches to the GPU while it computes the step before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from modules.data.base import Batch

Started = TypeVar("Started")


def copy_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Return the batches on the device. Each is pinned and copied one step ahead, on a stream of its own.

    Args:
        batches: on the CPU.
        device: of the model; on a CPU the batches are returned unchanged.
    """
    if device.type != "cuda":
        return batches
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            copies = tree_map(lambda leaf: _copy(leaf, device), batch)
            return copies, stream.record_event()

    def finish(started: tuple[Batch, torch.cuda.Event]) -> Batch:
        copies, event = started
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for leaf in tree_leaves(copies):
            if isinstance(leaf, Tensor):
                leaf.record_stream(current)  # else its memory could be reused while the step still reads it
        return copies

    return one_ahead(batches, start, finish)


def one_ahead(
    batches: Iterator[Batch], start: Callable[[Batch], Started], finish: Callable[[Started], Batch]
) -> Iterator[Batch]:
    """Yield ``finish(start(batch))`` for each batch, with each start before the batch in front of it is yielded."""
    waiting: list[Started] = []
    for batch in batches:
        waiting.append(start(batch))
        if len(waiting) == 2:
            yield finish(waiting.pop(0))
    for started in waiting:
        yield finish(started)


def _copy(leaf: object, device: torch.device) -> object:
    return leaf.pin_memory().to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf
