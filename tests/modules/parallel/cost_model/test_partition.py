from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from modules.parallel.cost_model.partition import partition_balanced


def find_heaviest(weights: list[float], bounds: list[int]) -> float:
    return max(sum(weights[first:last]) for first, last in pairwise(bounds))


@pytest.mark.parametrize("weights", [[1.0] * 7, [0, 5, 0, 0, 3, 9, 1], [9, 1, 1, 1, 1, 1, 9], [0, 0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 5, 7])
def test_no_other_cut_is_lighter(weights: list[float], num_parts: int) -> None:
    bounds = partition_balanced(weights, num_parts)
    assert bounds[0] == 0
    assert bounds[-1] == len(weights)
    assert len(bounds) == num_parts + 1
    assert all(first < last for first, last in pairwise(bounds))
    cuts = combinations(range(1, len(weights)), num_parts - 1)
    assert find_heaviest(weights, bounds) == min(find_heaviest(weights, [0, *cut, len(weights)]) for cut in cuts)


@pytest.mark.parametrize("num_parts", [0, 4])
def test_more_parts_than_layers_are_refused(num_parts: int) -> None:
    with pytest.raises(ValueError, match=f"num_parts={num_parts} is not between 1 and 3, the number of layers"):
        partition_balanced([1, 2, 3], num_parts)
