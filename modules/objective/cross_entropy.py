"""Cross entropy between logits and classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Tensors


class CrossEntropy:
    """Trains a classifier, of examples or of the words in them, by the surprise of the right class, in nats.

    Source of label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """

    def __init__(self, label_smoothing_prob: float = 0.0) -> None:
        """
        Args:
            label_smoothing_prob: share of the target that is spread evenly over all classes.
        """
        if not 0 <= label_smoothing_prob <= 1:
            raise ValueError(f"CrossEntropy wants label_smoothing_prob in [0, 1], but got {label_smoothing_prob}")
        self.label_smoothing_prob = label_smoothing_prob

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over all targets of the batch.

        Args:
            outputs: logits, float [batch, ..., classes]; a language model has [batch, time, classes].
            targets: int64 [batch, ...], each in ``[0, classes)``.

        Returns:
            The loss, float [], and ``loss_nats``: the same, without a graph.

        Raises:
            ValueError: the shapes are no logits and their classes.
        """
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise ValueError("CrossEntropy wants one tensor of logits and one of classes, but got a tuple; pick one")
        if outputs.dim() < 2 or targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"CrossEntropy wants logits as [batch, ..., classes] and targets as [batch, ...], but got "
                f"{list(outputs.shape)} and {list(targets.shape)}; end the model in one number a class"
            )
        loss = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), label_smoothing=self.label_smoothing_prob)
        return loss, {"loss_nats": loss.detach()}
