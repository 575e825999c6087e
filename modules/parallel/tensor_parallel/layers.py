"""Layers that are split over a model-parallel group, and the collectives between them.

Every split layer computes the same result as the whole layer.
Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from modules.data.base import IGNORED

Group = dist.ProcessGroup


def find_own_slice(units: int, group: Group) -> slice:
    """Find this rank's part of ``units``; the group's size must divide them."""
    size = units // group.size()
    return slice(group.rank() * size, (group.rank() + 1) * size)


class _CopyToGroup(Function):
    """Identity in the forward pass; sum of all ranks' gradients in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _ReduceFromGroup(Function):
    """Sum over all ranks in the forward pass; identity in the backward pass."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: Group) -> Tensor:
        total = partial.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _GatherFromGroup(Function):
    """Concatenate slices of the last dimension in the forward pass; take this rank's slice in the backward pass."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.size = group, part.shape[-1]
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].narrow(-1, ctx.group.rank() * ctx.size, ctx.size), None


def copy_to_group(inputs: Tensor, group: Group) -> Tensor:
    """Use activations that are the same on all ranks as inputs of a split layer."""
    return cast(Tensor, _CopyToGroup.apply(inputs, group))  # type: ignore[no-untyped-call]


def reduce_from_group(partial: Tensor, group: Group) -> Tensor:
    """Sum partial results over all ranks."""
    return cast(Tensor, _ReduceFromGroup.apply(partial, group))  # type: ignore[no-untyped-call]


def gather_from_group(part: Tensor, group: Group) -> Tensor:
    """Gather slices of the last dimension from all ranks."""
    return cast(Tensor, _GatherFromGroup.apply(part, group))  # type: ignore[no-untyped-call]


class ColumnLinear(nn.Module):
    """A linear layer; this rank computes a slice of its outputs."""

    def __init__(self, whole: nn.Linear, group: Group, *, gathers: bool = False) -> None:
        """
        Args:
            whole: the layer to split.
            group: the ranks to split over.
            gathers: return the whole outputs instead of the slice.
        """
        super().__init__()
        self.group, self.gathers = group, gathers
        own = find_own_slice(whole.out_features, group)
        self.weight = nn.Parameter(whole.weight.detach()[own].clone())
        self.bias = None if whole.bias is None else nn.Parameter(whole.bias.detach()[own].clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """
        Args:
            inputs: float [..., in_features], the same on all ranks.

        Returns:
            float [..., out_features / ranks], or [..., out_features] if ``gathers``.
        """
        part = F.linear(copy_to_group(inputs, self.group), self.weight, self.bias)
        return gather_from_group(part, self.group) if self.gathers else part


class RowLinear(nn.Module):
    """A linear layer; this rank has the weights for a slice of its inputs, and the whole bias."""

    def __init__(self, whole: nn.Linear, group: Group) -> None:
        super().__init__()
        self.group = group
        self.weight = nn.Parameter(whole.weight.detach()[:, find_own_slice(whole.in_features, group)].clone())
        self.bias = whole.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """
        Args:
            inputs: float [..., in_features / ranks], this rank's slice.

        Returns:
            float [..., out_features], the same on all ranks.
        """
        outputs = reduce_from_group(F.linear(inputs, self.weight), self.group)
        return outputs if self.bias is None else outputs + self.bias


class VocabularyEmbedding(nn.Module):
    """An embedding; this rank has a slice of the vocabulary."""

    def __init__(self, whole: nn.Embedding, group: Group) -> None:
        super().__init__()
        self.group, self.own = group, find_own_slice(whole.num_embeddings, group)
        self.weight = nn.Parameter(whole.weight.detach()[self.own].clone())

    def forward(self, token_ids: Tensor) -> Tensor:
        """
        Args:
            token_ids: int64 [...], of the whole vocabulary.

        Returns:
            float [..., features], the same on all ranks.
        """
        is_own = (token_ids >= self.own.start) & (token_ids < self.own.stop)
        embeddings = F.embedding((token_ids - self.own.start).where(is_own, 0), self.weight)
        return reduce_from_group(embeddings * is_own.unsqueeze(-1), self.group)


def compute_vocabulary_cross_entropy(
    part: Tensor, targets: Tensor, group: Group, label_smoothing_prob: float = 0.0
) -> Tensor:
    """Compute the cross entropy of logits of which each rank has a slice, without gathering them.

    Args:
        part: float [..., classes / ranks], from a `ColumnLinear`.
        targets: int64 [...], from 0 to classes - 1, or `IGNORED`.
        group: the ranks that the classes are split over.
        label_smoothing_prob: fraction of the target that is spread evenly over all classes.

    Returns:
        float [...], the same on all ranks; 0 where the target is ignored.
    """
    part = part.float()
    highest = part.detach().amax(-1)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
    shifted = part - highest.unsqueeze(-1)
    log_sum = reduce_from_group(shifted.exp().sum(-1), group).log()
    first = group.rank() * part.shape[-1]
    is_own = (targets >= first) & (targets < first + part.shape[-1])
    index = (targets - first).where(is_own, 0).unsqueeze(-1)
    chosen = reduce_from_group(shifted.gather(-1, index).squeeze(-1) * is_own, group)
    nats = log_sum - chosen
    if label_smoothing_prob:
        mean_logit = reduce_from_group(shifted.sum(-1), group) / (part.shape[-1] * group.size())
        nats = (1 - label_smoothing_prob) * nats + label_smoothing_prob * (log_sum - mean_logit)
    return nats.where(targets != IGNORED, 0.0)
