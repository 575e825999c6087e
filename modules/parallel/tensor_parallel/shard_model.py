"""Splits a model's layers over a model-parallel group, as the model says, and puts their weights together again."""

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
    find_own_slice,
    gather_from_group,
    vocabulary_cross_entropy,
)


class Shards:
    """A model whose layers were replaced by this rank's slices; names stay what they were.

    Attributes:
        objective: takes what the split model gives in training.
        whole_objective: takes what `whole_outputs` gives.
    """

    def __init__(self, model: nn.Module, objective: Objective, group: Group) -> None:
        """
        Args:
            model: whole; changed in place. It fits the group's size (`fits.misfits`).
            objective: of whole logits.
            group: the ranks to split over.
        """
        assert isinstance(model, Shardable)
        self.group = group
        self.axis: dict[str, int] = {}
        self._parts: dict[int, nn.Parameter] = {}
        self.gives_classes = False
        self.objective = self.whole_objective = objective
        if type(objective) is CrossEntropy:
            self.gives_classes = any(shard.kind == "classes" for shard in model.shards().values())
        if self.gives_classes:
            self.objective = _SplitCrossEntropy(objective.label_smoothing_prob, group)  # type: ignore[attr-defined]
        for name, shard in model.shards().items():
            self._replace(model, name, shard)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's slice of a whole weight, or of a state that is like it."""
        if name not in self.axis:
            return whole
        axis = self.axis[name]
        own = find_own_slice(whole.shape[axis], self.group)
        return whole.narrow(axis, own.start, own.stop - own.start)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The slices of all ranks put together; every rank of the group calls it."""
        if name not in self.axis:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.group.size())]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=self.axis[name])

    def whole_outputs(self, model: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
        """The model with whole logits, for evaluators."""

        def forward(inputs: Tensors) -> Tensors:
            outputs = model(inputs)
            assert isinstance(outputs, Tensor)
            return gather_from_group(outputs, self.group)

        return forward if self.gives_classes else model

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
            layer = ColumnLinear(whole, self.group, gathers=shard.kind == "classes" and not self.gives_classes)
        # A weight that is tied stays tied.
        layer.weight = self._parts.setdefault(id(whole.weight), layer.weight)
        layer.weight.requires_grad_(whole.weight.requires_grad)
        self.axis[f"{name}.weight"] = 1 if shard.kind == "row" else 0
        if isinstance(layer, ColumnLinear) and layer.bias is not None:
            self.axis[f"{name}.bias"] = 0
        sliced = [layer.weight] + ([layer.bias] if isinstance(layer, ColumnLinear) and layer.bias is not None else [])
        for parameter in sliced:
            parameter.model_parallel = True  # type: ignore[attr-defined]  # DeepSpeed's word for: not the same on all ranks
        setattr(model.get_submodule(parent), own, layer)


class _SplitCrossEntropy:
    """`CrossEntropy` of logits whose classes are split."""

    def __init__(self, label_smoothing_prob: float, group: Group) -> None:
        self.label_smoothing_prob, self.group = label_smoothing_prob, group

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        loss = vocabulary_cross_entropy(outputs, targets, self.group, self.label_smoothing_prob)
        return loss, {"loss_nats": loss.detach()}
