"""A table with a row for each example of a split, as sums of an evaluator: for metrics that rank the whole split.

Each batch fills its own rows, so adding the tables of all batches and replicas gives the whole table.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fill_table(places: Tensor, values: Tensor) -> Tensor:
    """Make the table of one batch.

    Args:
        places: int64 [batch, 2], as `modules.data.tensors.make_places` returns them.
        values: [batch, columns].

    Returns:
        float64 [2 + examples * (1 + columns)]: 1 and the number of columns; and for each example of the split how often it is
        in the batch, and its values.
    """
    num_columns = values.shape[1]
    table = torch.zeros(int(places[0, 1]), 1 + num_columns, dtype=torch.float64, device=values.device)
    table.index_add_(0, places[:, 0], torch.cat([torch.ones_like(values[:, :1]), values], dim=1).double())
    return torch.cat([table.new_tensor([1, num_columns]), table.flatten()])


def read_table(owner: str, sums: Tensor) -> Tensor:
    """Read the values of the examples that were counted, float64 [examples, columns].

    Raises:
        ValueError: there is none.
    """
    num_columns = round(float(sums[1] / sums[0].clamp_min(1)))
    table = sums[2:].view(-1, 1 + num_columns)
    counted = table[table[:, 0] > 0]
    if len(counted) == 0:
        raise ValueError(f"{owner} wants at least 1 example, but got 0; evaluate on a split that is not empty")
    return counted[:, 1:] / counted[:, :1]  # an example that was counted twice has twice its values
