"""Cross entropy between logits and classes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import IGNORED, Tensors


class CrossEntropy:
    """Cross entropy in nats, for classes of examples or of their tokens.

    By default the loss of a text is the mean over its targets that are not ignored, and the loss of a batch the mean over its
    texts. With ``mean_over="tokens"`` it is the mean over all such targets of the batch, so a long text counts more. Neither
    depends on micro-batches, replicas and padding. Auxiliary classifiers learn the same targets.
    Source of label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """

    is_component = True

    def __init__(
        self,
        label_smoothing_prob: float = 0.0,
        aux_weight: float = 0.3,
        mean_over: Literal["examples", "tokens"] = "examples",
    ) -> None:
        """
        Args:
            label_smoothing_prob: probability that is distributed evenly over all classes.
            aux_weight: weight of the loss of every auxiliary classifier; 0.3 in Szegedy et al. 2014, arXiv:1409.4842.
            mean_over: what the loss of texts is a mean over.
        """
        if not 0 <= label_smoothing_prob <= 1:
            raise ValueError(f"CrossEntropy wants label_smoothing_prob in [0, 1], but got {label_smoothing_prob}")
        if not aux_weight >= 0:
            raise ValueError(f"CrossEntropy wants aux_weight of at least 0, but got {aux_weight}")
        self.label_smoothing_prob = label_smoothing_prob
        self.aux_weight = aux_weight
        self.mean_over = mean_over

    def count_targets(self, targets: Tensors) -> Tensor | None:
        classes = targets if isinstance(targets, Tensor) else targets[0]
        return (classes != IGNORED).sum().float() if self.mean_over == "tokens" and classes.dim() > 1 else None

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over the examples of a batch.

        Args:
            outputs: logits, float [batch, ..., classes]; of a language model [batch, time, classes]. Or a tuple: the logits of
                the model, then those of its auxiliary classifiers.
            targets: int64 [batch, ...], each in ``[0, classes)``, or `IGNORED` in tokens of a text; of a tuple, the first.

        Returns:
            The loss, float []; and detached ``loss_nats``, of the model's logits, and with auxiliary classifiers
            ``aux_loss_nats``, the mean of their losses.

        Raises:
            ValueError: the shapes of logits and classes do not fit, or auxiliary classifiers have no weight.
        """
        if isinstance(outputs, Tensor):
            loss = self._cross_entropy(outputs, targets)
            return loss, {"loss_nats": loss.detach()}
        main, *others = outputs
        if others and self.aux_weight == 0:
            raise ValueError(
                f"objective.aux_weight=0 leaves {len(others)} auxiliary classifiers of the model untrained; set a weight "
                "such as 0.3, or build the model without them"
            )
        loss = self._cross_entropy(main, targets)
        aux_losses = [self._cross_entropy(other, targets) for other in others]
        metrics = {"loss_nats": loss.detach()}
        if aux_losses:
            metrics["aux_loss_nats"] = torch.stack(aux_losses).mean().detach()
        return loss + self.aux_weight * sum(aux_losses), metrics

    def _cross_entropy(self, logits: Tensor, targets: Tensors) -> Tensor:
        targets = targets if isinstance(targets, Tensor) else targets[0]
        if targets.is_floating_point():
            raise ValueError(
                f"CrossEntropy wants classes as targets, but got numbers, {targets.dtype}; for a regression choose "
                "objective=regression evaluator=regression"
            )
        if logits.dim() < 2 or targets.shape != logits.shape[:-1]:
            raise ValueError(
                f"CrossEntropy wants logits as [batch, ..., classes] and targets as [batch, ...], but got "
                f"{list(logits.shape)} and {list(targets.shape)}; end the model in one logit per class"
            )
        flat, classes, smoothing = logits.flatten(0, -2), targets.flatten(), self.label_smoothing_prob
        if targets.dim() == 1:
            return F.cross_entropy(flat, classes, label_smoothing=smoothing)
        nats = F.cross_entropy(flat, classes, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
        return self.average(nats.view_as(targets), targets)

    def average(self, nats: Tensor, classes: Tensor) -> Tensor:
        """Average the losses of targets.

        Args:
            nats: float [batch, ...], 0 where the target is ignored.
            classes: int64 [batch, ...].

        Returns:
            float [].
        """
        if classes.dim() == 1:
            return nats.mean()
        counts = (classes != IGNORED).flatten(1).sum(1)
        if self.mean_over == "tokens":
            return nats.sum() / counts.sum().clamp_min(1)
        return (nats.flatten(1).sum(1) / counts.clamp_min(1)).mean()
