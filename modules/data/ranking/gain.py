"""Discounted cumulative gain of ranked documents.

Source: Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418; gains of Burges et al. 2005.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.base import IGNORED


def compute_gains(grades: Tensor) -> Tensor:
    """Return ``2 ** grade - 1``, and 0 for padding, float of the same shape."""
    return torch.where(grades == IGNORED, 0.0, torch.exp2(grades.clamp_min(0).float()) - 1)


def find_ranks(scores: Tensor, grades: Tensor) -> Tensor:
    """Return the place of every document by its score, from 0; padding comes last. Equal scores keep their order.

    Args:
        scores: float [batch, documents].
        grades: int64 [batch, documents], or `IGNORED` for padding.

    Returns:
        int64 [batch, documents].
    """
    scores = scores.masked_fill(grades == IGNORED, -torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def compute_discounts(ranks: Tensor, cut: int | None = None) -> Tensor:
    """Return ``1 / log2(rank + 2)`` for ranks from 0, and 0 from the rank ``cut`` on, float of the same shape."""
    discounts = 1 / torch.log2(ranks.float() + 2)
    return discounts if cut is None else discounts * (ranks < cut)


def compute_ideal(grades: Tensor, cut: int | None = None) -> Tensor:
    """Return the highest possible gain of every query, float [batch]."""
    best = compute_gains(grades).sort(dim=1, descending=True).values
    places = torch.arange(grades.shape[1], device=grades.device).expand_as(grades)
    return (best * compute_discounts(places, cut)).sum(1)


def compute_ndcg(scores: Tensor, grades: Tensor, cut: int) -> Tensor:
    """Return the normalised gain of the first ``cut`` documents of every query, float [batch]; 0 without a relevant one."""
    gain = (compute_gains(grades) * compute_discounts(find_ranks(scores, grades), cut)).sum(1)
    return gain / compute_ideal(grades, cut).clamp_min(1e-12)


def compute_random_ndcg(grades: Tensor, cut: int) -> Tensor:
    """Return the mean of `compute_ndcg` over all orders, float [batch]."""
    count = (grades != IGNORED).sum(1)
    places = torch.arange(grades.shape[1], device=grades.device).expand_as(grades)
    discount = (compute_discounts(places, cut) * (places < count[:, None])).sum(1)
    mean_gain = compute_gains(grades).sum(1) / count.clamp_min(1)
    return mean_gain * discount / compute_ideal(grades, cut).clamp_min(1e-12)
