"""A short digest of a data split, which shows whether two runs used the same data."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator

from modules.data.base import Split

NUM_IN_MEMORY, NUM_READ = 1000, 16


def fingerprint(split: Split) -> str:
    """Return 16 hexadecimal digits over the number of examples and the first examples as the model gets them.

    The sha256 of a file is checked when it is read. This digest also covers the preprocessing.
    """
    count = min(len(split), NUM_IN_MEMORY if split.in_memory else NUM_READ)
    digest = hashlib.sha256(str(len(split)).encode())
    for tensors in split.batch(torch.arange(count), Generator().manual_seed(0)):
        for tensor in tensors if isinstance(tensors, tuple) else (tensors,):
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
