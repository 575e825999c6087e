"""What a split holds, as a short digest: two runs that saw other data show other digests."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator

from modules.data.base import Split

NUM_IN_MEMORY, NUM_READ = 1000, 16


def fingerprint(split: Split) -> str:
    """Sixteen hexadecimal digits over the number of examples and the first of them as the model gets them.

    Files are held against their sha256 when they are read; this tells apart what was made of them.
    """
    count = min(len(split), NUM_IN_MEMORY if split.in_memory else NUM_READ)
    digest = hashlib.sha256(str(len(split)).encode())
    for tensors in split.batch(torch.arange(count), Generator().manual_seed(0)):
        for tensor in tensors if isinstance(tensors, tuple) else (tensors,):
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
