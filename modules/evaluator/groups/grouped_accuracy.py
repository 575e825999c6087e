"""Accuracy of each task of a model of several."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modules.data.base import Tensors
from modules.objective.grouped_cross_entropy import check_counts, check_logits, find_groups, mask_other_groups


class GroupedAccuracy:
    """Metrics for each group of classes: ``accuracy_top1_NAME``, of the highest logit among the classes of the group, and
    ``accuracy_top1_NAME_constant``, of its most frequent class; and ``accuracy_top1``, the mean over the groups.
    """

    is_component = True
    headline = ("accuracy_top1", "max")

    def __init__(self, class_counts: Mapping[str, int]) -> None:
        """
        Args:
            class_counts: classes of each group; the first group has the first classes.
        """
        self.class_counts = check_counts("GroupedAccuracy", class_counts)

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Count the hits of one batch.

        Args:
            outputs: logits, float [batch, classes].
            targets: int64 [batch].

        Returns:
            float64 [groups + classes]: the hits of each group, and the examples of each class.

        Raises:
            ValueError: the shapes do not fit.
        """
        logits, classes = check_logits("GroupedAccuracy", self.class_counts, outputs, targets)
        hits = mask_other_groups(logits, classes, self.class_counts).argmax(1) == classes
        groups = torch.nn.functional.one_hot(find_groups(classes, self.class_counts), len(self.class_counts))
        counts = torch.nn.functional.one_hot(classes, logits.shape[1])
        return torch.cat([(groups * hits[:, None]).sum(0), counts.sum(0)]).to(torch.float64)

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the shares; nan for a group without examples.

        Raises:
            ValueError: the sums contain no example.
        """
        num_groups = len(self.class_counts)
        hits, counts = sums[:num_groups], torch.split(sums[num_groups:], list(self.class_counts.values()))
        if sums[num_groups:].sum() == 0:
            raise ValueError(
                "GroupedAccuracy wants at least 1 example, but got 0; evaluate on a split that is not empty"
            )
        metrics = dict[str, float]()
        for name, hit, count in zip(self.class_counts, hits, counts, strict=True):
            metrics[f"accuracy_top1_{name}"] = float(hit / count.sum())
            metrics[f"accuracy_top1_{name}_constant"] = float(count.max() / count.sum())
        own = [metrics[f"accuracy_top1_{name}"] for name in self.class_counts]
        return {"accuracy_top1": sum(own) / num_groups, **metrics}
