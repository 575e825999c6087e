"""Splits the layers that a model declares over a model-parallel group, and gathers their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modules.data.base import Tensors
from modules.model.base import Shard, Shardable
from modules.objective.base import Objective
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.tensor_parallel.layers import (
    ColumnLinear,
    Group,
    RowLinear,
    VocabularyEmbedding,
    compute_vocabulary_cross_entropy,
    find_own_slice,
    gather_from_group,
)


class Shards:
    """A model whose layers are replaced by this rank's slices; parameter names do not change.

    Attributes:
        objective: for the outputs of the split model.
        whole_objective: for the outputs of `whole_outputs`.
    """

    def __init__(self, model: nn.Module, objective: Objective, group: Group) -> None:
        """
        Args:
            model: the whole model, changed in place; `find_incompatibilities` returns nothing for it.
            objective: for whole logits.
            group: the ranks to split over.
        """
        assert isinstance(model, Shardable)
        self.group = group
        self.axis: dict[str, int] = {}
        self._slices: dict[int, nn.Parameter] = {}
        self.splits_classes = False
        self.objective = self.whole_objective = objective
        if type(objective) is CrossEntropy:
            self.splits_classes = any(shard.kind == "classes" for shard in model.shards().values())
        if self.splits_classes:
            assert isinstance(objective, CrossEntropy)
            self.objective = _SplitCrossEntropy(objective, group)
        for name, shard in model.shards().items():
            self._replace(model, name, shard)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Take this rank's slice of a whole weight, or of optimizer state of the same shape."""
        if name not in self.axis:
            return whole
        axis = self.axis[name]
        own = find_own_slice(whole.shape[axis], self.group)
        return whole.narrow(axis, own.start, own.stop - own.start)

    def gather_whole(self, name: str, part: Tensor) -> Tensor:
        """Gather the slices of all ranks. Call it on every rank of the group."""
        if name not in self.axis:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.group.size())]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=self.axis[name])

    def whole_outputs(self, model: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
        """Wrap the model so that it returns whole logits, for evaluators."""

        def forward(inputs: Tensors) -> Tensors:
            outputs = model(inputs)
            assert isinstance(outputs, Tensor)
            return gather_from_group(outputs, self.group)

        return forward if self.splits_classes else model

    def _replace(self, model: nn.Module, name: str, shard: Shard) -> None:
        parent, _, own = name.rpartition(".")
        whole = model.get_submodule(name)
        layer: ColumnLinear | RowLinear | VocabularyEmbedding
        if shard.kind == "vocabulary":
            assert isinstance(whole, nn.Embedding), name
            layer = VocabularyEmbedding(whole, self.group)
        elif shard.kind == "row":
            assert isinstance(whole, nn.Linear), name
            layer = RowLinear(whole, self.group)
        else:
            assert isinstance(whole, nn.Linear), name
            layer = ColumnLinear(whole, self.group, gathers=shard.kind == "classes" and not self.splits_classes)
        # Tied weights stay tied.
        layer.weight = self._slices.setdefault(id(whole.weight), layer.weight)
        layer.weight.requires_grad_(whole.weight.requires_grad)
        self.axis[f"{name}.weight"] = 1 if shard.kind == "row" else 0
        if isinstance(layer, ColumnLinear) and layer.bias is not None:
            self.axis[f"{name}.bias"] = 0
        sliced = [layer.weight] + ([layer.bias] if isinstance(layer, ColumnLinear) and layer.bias is not None else [])
        for parameter in sliced:
            parameter.model_parallel = True  # type: ignore[attr-defined]  # tells DeepSpeed that it differs between ranks
        setattr(model.get_submodule(parent), own, layer)


class _SplitCrossEntropy:
    """`CrossEntropy` for logits whose classes are split over ranks."""

    def __init__(self, whole: CrossEntropy, group: Group) -> None:
        self.whole, self.group = whole, group

    def count_targets(self, targets: Tensors) -> Tensor | None:
        return self.whole.count_targets(targets)

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        nats = compute_vocabulary_cross_entropy(outputs, targets, self.group, self.whole.label_smoothing_prob)
        loss = self.whole.average(nats, targets)
        return loss, {"loss_nats": loss.detach()}
