"""Cross entropy within the classes of a task."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Tensors


class GroupedCrossEntropy:
    """Cross entropy in nats for classes in groups, each of which has a softmax of its own, as if each task had an output layer.

    Source: Caruana 1997, doi:10.1023/A:1007379606734 (several outputs on shared layers).
    """

    is_component = True

    def __init__(self, class_counts: Mapping[str, int]) -> None:
        """
        Args:
            class_counts: classes of each group; the first group has the first classes.
        """
        self.class_counts = check_counts("GroupedCrossEntropy", class_counts)

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over the examples of a batch.

        Args:
            outputs: logits, float [batch, classes].
            targets: int64 [batch].

        Returns:
            The loss, float [], and the same detached as ``loss_nats``.

        Raises:
            ValueError: the shapes do not fit.
        """
        logits, classes = check_logits("GroupedCrossEntropy", self.class_counts, outputs, targets)
        loss = F.cross_entropy(mask_other_groups(logits, classes, self.class_counts), classes)
        return loss, {"loss_nats": loss.detach()}


def mask_other_groups(logits: Tensor, classes: Tensor, class_counts: Mapping[str, int]) -> Tensor:
    """Set the logits of all groups but that of the class of an example to -inf."""
    groups = find_groups(torch.arange(logits.shape[1], device=logits.device), class_counts)
    return logits.masked_fill(groups != find_groups(classes, class_counts)[:, None], -torch.inf)


def find_groups(classes: Tensor, class_counts: Mapping[str, int]) -> Tensor:
    """Return the number of the group of each class, int64, of the same shape."""
    ends = torch.tensor(list(accumulate(class_counts.values())), device=classes.device)
    return torch.searchsorted(ends, classes, right=True)


def check_counts(owner: str, class_counts: Mapping[str, int]) -> dict[str, int]:
    """
    Raises:
        ValueError: there is no group, or one without classes.
    """
    if not class_counts or min(class_counts.values()) < 1:
        raise ValueError(f"{owner} wants class_counts of at least 1 class for each group, but got {dict(class_counts)}")
    return dict(class_counts)


def check_logits(
    owner: str, class_counts: Mapping[str, int], outputs: Tensors, targets: Tensors
) -> tuple[Tensor, Tensor]:
    """Return logits and classes.

    Raises:
        ValueError: they do not fit.
    """
    count = sum(class_counts.values())
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.shape != (len(targets), count):
        shape = list(outputs.shape) if isinstance(outputs, Tensor) else "a tuple"
        raise ValueError(
            f"{owner} wants logits as [batch, {count}], for class_counts={dict(class_counts)}, but got {shape}; end the "
            "model in one logit per class of all groups"
        )
    return outputs, targets
