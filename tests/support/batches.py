"""Fetches examples of a split with seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.base import Batch, Split


def fetch(split: Split, indices: Tensor, seed: int = 0) -> Batch:
    """Fetch examples. Each row has a seed of its own, which follows from ``seed``."""
    return split.batch(indices, torch.arange(len(indices)) + 1000 * seed)
