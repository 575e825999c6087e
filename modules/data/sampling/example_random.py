"""Random numbers from a seed for each example, drawn for a whole batch at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Generator, Tensor

_INCREMENT: Final = 0x9E3779B97F4A7C15
_SHIFTS_AND_FACTORS: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class ExampleRandom:
    """The random numbers of a batch. Those of an example depend on its own seed only, not on the rest of the batch.

    Each call draws new numbers, also from the same shape. The numbers come from SplitMix64, a hash of the seed and a counter.
    Source: Steele et al. 2014, doi:10.1145/2660193.2660195, section 4.

    Example::

        def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
            random = ExampleRandom(seeds)
            noise = random.uniform(self.num_features)  # [batch, num_features]
            return self.inputs[indices] + noise, self.targets[indices]
    """

    def __init__(self, seeds: Tensor) -> None:
        """
        Args:
            seeds: int64 [batch].
        """
        self.seeds = seeds
        self._states = _mix(seeds.numpy().astype(np.uint64))
        self._num_calls = 0

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers of ``[0, 1)``, float32 [batch, *shape]."""
        return torch.from_numpy((self._draw(shape) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))

    def integers(self, limit: int, *shape: int) -> Tensor:
        """Draw whole numbers of ``[0, limit)``, int64 [batch, *shape].

        Args:
            limit: from 1 to 2**32.
            shape: of the numbers of one example.
        """
        high_bits = self._draw(shape) >> np.uint64(32)
        return torch.from_numpy(((high_bits * np.uint64(limit)) >> np.uint64(32)).astype(np.int64))

    def generator(self, row: int) -> Generator:
        """Return a generator for one example, for functions that want one; it costs more than the methods above."""
        return Generator().manual_seed(int(self.seeds[row]))

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """64 random bits for each number, uint64 [batch, *shape]."""
        self._num_calls += 1
        keys = _mix(self._states + np.uint64(self._num_calls * _INCREMENT % 2**64))
        if not shape:
            return keys
        counters = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(_INCREMENT)
        return _mix(keys[:, None] + counters).reshape(-1, *shape)


def example_seeds(seed: int, first: int, count: int) -> Tensor:
    """Return the seeds of consecutive examples of a stream, int64 [count], at least 0.

    Args:
        seed: of the stream.
        first: position of the first example.
        count: number of examples.
    """
    key = _mix(np.array([seed % 2**64], np.uint64))
    positions = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    return torch.from_numpy((_mix(key + positions * np.uint64(_INCREMENT)) >> np.uint64(1)).astype(np.int64))


def _mix(bits: np.ndarray) -> np.ndarray:
    mixed = bits.copy()
    for shift, factor in _SHIFTS_AND_FACTORS:
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed
