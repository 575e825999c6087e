"""An order of training examples in which those of a batch have similar lengths."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_WINDOW = 50  # batches that are sorted by length together


def order_by_length(lengths: Tensor, batch_size: int, generator: Generator) -> Tensor:
    """Return a random order in which windows of 50 batches are sorted by length, and their batches shuffled.

    The examples of the last, incomplete batch are taken before sorting; otherwise they would always be the longest.

    Args:
        lengths: of the examples, [examples].
        batch_size: examples of a step, over all devices.
        generator: the only source of randomness.

    Returns:
        int64 [examples]: every example once.
    """
    indices = torch.randperm(len(lengths), generator=generator)
    whole = len(lengths) // batch_size * batch_size
    windows = torch.split(indices[:whole], _WINDOW * batch_size)
    batches = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows]).view(-1, batch_size)
    shuffled = batches[torch.randperm(len(batches), generator=generator)]
    return torch.cat([shuffled.flatten(), indices[whole:]])
