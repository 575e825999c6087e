"""Cuts a list of layers into stages of similar weight. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def partition_balanced(weights: Sequence[float], num_parts: int) -> list[int]:
    """Cut a list into non-empty parts such that the weight of the heaviest part is minimal.

    Args:
        weights: one per layer, not negative.
        num_parts: from 1 to the number of layers.

    Returns:
        The first layer of each part, then the number of layers: ``num_parts + 1`` numbers.

    Raises:
        ValueError: there are more parts than layers.
    """
    if not 1 <= num_parts <= len(weights):
        raise ValueError(
            f"num_parts={num_parts} is not between 1 and {len(weights)}, the number of layers; use fewer parts"
        )
    sums = [0.0, *accumulate(weights)]
    # best[i]: weight of the heaviest of k parts of the first i layers, and the first layer of the last part
    best: list[tuple[float, int]] = [(sums[i], 0) for i in range(len(sums))]
    starts: list[list[int]] = []
    for k in range(2, num_parts + 1):
        row: list[tuple[float, int]] = [(float("inf"), 0)] * len(sums)
        for i in range(k, len(sums)):
            row[i] = min((max(best[j][0], sums[i] - sums[j]), j) for j in range(k - 1, i))
        starts.append([start for _, start in row])
        best = row
    bounds = [len(weights)]
    for row_starts in reversed(starts):
        bounds.append(row_starts[bounds[-1]])
    return [0, *reversed(bounds)]
