"""Cross entropy between logits and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import IGNORED, Tensors


class CrossEntropy:
    """Trains a classifier, of examples or of the words in them, by the surprise of the right class, in nats.

    Where examples are texts every one counts alike, by the mean over its targets that are not ignored: so a batch's loss is
    the mean of its examples', however it is split over micro-batches and replicas, and padding changes nothing.
    Auxiliary classifiers, whose logits a model gives beside its own in training, learn the same targets.
    Source of label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """

    def __init__(self, label_smoothing_prob: float = 0.0, aux_weight: float = 0.3) -> None:
        """
        Args:
            label_smoothing_prob: share of the target that is spread evenly over all classes.
            aux_weight: of the loss of every auxiliary classifier, where the model has some; 0.3 in Szegedy et al. 2014,
                arXiv:1409.4842.
        """
        if not 0 <= label_smoothing_prob <= 1:
            raise ValueError(f"CrossEntropy wants label_smoothing_prob in [0, 1], but got {label_smoothing_prob}")
        if not aux_weight >= 0:
            raise ValueError(f"CrossEntropy wants aux_weight of at least 0, but got {aux_weight}")
        self.label_smoothing_prob = label_smoothing_prob
        self.aux_weight = aux_weight

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the examples of a batch.

        Args:
            outputs: logits, float [batch, ..., classes]; a language model has [batch, time, classes]. Or a tuple of such: the
                model's own, then those of its auxiliary classifiers.
            targets: int64 [batch, ...], each in ``[0, classes)``, or `IGNORED` where there is more than the batch; of several,
                the first.

        Returns:
            The loss, float [], and without a graph ``loss_nats``, of the model's own logits, and in training with auxiliary
            classifiers ``aux_loss_nats``, their mean.

        Raises:
            ValueError: the shapes are no logits and their classes, or auxiliary classifiers would not be trained.
        """
        if isinstance(outputs, Tensor):
            loss = self._one(outputs, targets)
            return loss, {"loss_nats": loss.detach()}
        own, *others = outputs
        if others and self.aux_weight == 0:
            raise ValueError(
                f"objective.aux_weight=0 leaves {len(others)} auxiliary classifiers of the model untrained; give them a weight "
                "such as 0.3, or build the model without them"
            )
        loss, aux_losses = self._one(own, targets), [self._one(other, targets) for other in others]
        found = {"loss_nats": loss.detach()}
        if aux_losses:
            found["aux_loss_nats"] = torch.stack(aux_losses).mean().detach()
        return loss + self.aux_weight * sum(aux_losses), found

    def _one(self, logits: Tensor, targets: Tensors) -> Tensor:
        targets = targets if isinstance(targets, Tensor) else targets[0]
        if logits.dim() < 2 or targets.shape != logits.shape[:-1]:
            raise ValueError(
                f"CrossEntropy wants logits as [batch, ..., classes] and targets as [batch, ...], but got "
                f"{list(logits.shape)} and {list(targets.shape)}; end the model in one number a class"
            )
        flat, classes, smoothing = logits.flatten(0, -2), targets.flatten(), self.label_smoothing_prob
        if targets.dim() == 1:
            return F.cross_entropy(flat, classes, label_smoothing=smoothing)
        nats = F.cross_entropy(flat, classes, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
        counts = (targets != IGNORED).flatten(1).sum(1).clamp_min(1)
        return (nats.view(len(targets), -1).sum(1) / counts).mean()
