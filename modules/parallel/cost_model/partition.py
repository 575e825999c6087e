"""Cuts a list of layers into stages of nearly equal weight; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def partition_balanced(weights: Sequence[float], num_parts: int) -> list[int]:
    """Cut a list into parts that are not empty, so that the heaviest is as light as it can be.

    Args:
        weights: one of every layer, none negative.
        num_parts: from 1 to the number of layers.

    Returns:
        The first layer of every part, and the number of layers: ``num_parts + 1`` numbers.

    Raises:
        ValueError: there are more parts than layers.
    """
    if not 1 <= num_parts <= len(weights):
        raise ValueError(f"balanced wants from 1 to {len(weights)} parts, one a layer at most, but got {num_parts}")
    sums = [0.0, *accumulate(weights)]
    # best[k][i]: weight of the heaviest part when the first i layers make k parts, and where the last of them begins
    best: list[tuple[float, int]] = [(sums[i], 0) for i in range(len(sums))]
    begins: list[list[int]] = []
    for k in range(2, num_parts + 1):
        row: list[tuple[float, int]] = [(float("inf"), 0)] * len(sums)
        for i in range(k, len(sums)):
            row[i] = min((max(best[j][0], sums[i] - sums[j]), j) for j in range(k - 1, i))
        begins.append([begin for _, begin in row])
        best = row
    bounds = [len(weights)]
    for row_begins in reversed(begins):
        bounds.append(row_begins[bounds[-1]])
    return [0, *reversed(bounds)]
