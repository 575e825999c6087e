"""A loss of `torch.nn` as an objective."""

from __future__ import annotations

from torch import Tensor, nn

from modules.data.base import Tensors

OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
"""Losses of one class per example, whose outputs have one dimension more than the targets."""
IN_NATS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss)


class TorchLoss:
    """Calls a loss of `torch.nn` with outputs and targets as Lathe's models and data give them.

    Example::

        objective: {_target_: torch.nn.CrossEntropyLoss, label_smoothing: 0.1}

    Losses of classes accept the classes in the last dimension, as Lathe's models return them. Losses of numbers want outputs and
    targets of the same shape; a last dimension of size 1 is left out, and whole numbers count as floats. A model that returns a
    tuple gives the loss several arguments: two inputs of `MarginRankingLoss` and `CosineEmbeddingLoss`, mean and variance of
    `GaussianNLLLoss`, or anchor, positive and negative of `TripletMarginLoss`, which uses no targets.
    """

    is_component = True

    def __init__(self, loss: nn.Module) -> None:
        """
        Args:
            loss: returns the mean over a batch.
        """
        self.loss = loss
        self.name = "loss_nats" if isinstance(loss, IN_NATS) else "loss"

    def count_targets(self, targets: Tensors) -> Tensor | None:
        """Count what the mean is over, if examples differ in it: classes that are not ignored, each with its weight."""
        classes = targets if isinstance(targets, Tensor) else targets[0]
        if not isinstance(self.loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or classes.is_floating_point():
            return None
        if self.loss.weight is None:
            return (classes != self.loss.ignore_index).sum().float()
        counted = classes[classes != self.loss.ignore_index]
        return self.loss.weight.to(classes.device)[counted].sum()

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over a batch.

        Args:
            outputs: of the model.
            targets: of the data; of a tuple, the first.

        Returns:
            The loss, float [], and the same detached as ``loss_nats`` for cross entropies, else as ``loss``.

        Raises:
            ValueError: the shapes do not fit.
        """
        target = targets if isinstance(targets, Tensor) else targets[0]
        device = target.device if isinstance(outputs, Tensor) else outputs[0].device
        if any(buffer.device != device for buffer in self.loss.buffers()):
            self.loss.to(device)
        value: Tensor = self.loss(*self._arrange(outputs, target))
        return value, {self.name: value.detach()}

    def _arrange(self, outputs: Tensors, target: Tensor) -> tuple[Tensor, ...]:
        if not isinstance(outputs, Tensor):
            if isinstance(self.loss, (nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss)):
                return tuple(outputs)
            if isinstance(self.loss, nn.GaussianNLLLoss):
                return outputs[0], target, outputs[1]
            return (*outputs, target)
        is_class = isinstance(self.loss, OF_CLASSES) and not target.is_floating_point()
        if is_class and target.shape == outputs.shape[:-1]:
            return outputs.movedim(-1, 1), target
        if is_class and target.shape == outputs.shape[:1] + outputs.shape[2:]:
            return outputs, target
        if not is_class and outputs.shape == (*target.shape, 1):
            outputs = outputs.squeeze(-1)
        if is_class or outputs.shape != target.shape:
            wanted = "[batch, ..., classes] and [batch, ...]" if is_class else "the same shape"
            raise ValueError(
                f"{type(self.loss).__name__} wants outputs and targets as {wanted}, but got {list(outputs.shape)} and "
                f"{list(target.shape)}; choose a model or an objective that fits the targets"
            )
        if isinstance(self.loss, nn.MultiLabelMarginLoss):
            return outputs, target
        if isinstance(self.loss, nn.CrossEntropyLoss) and outputs.dim() > 2:  # probabilities of classes
            return outputs.movedim(-1, 1), target.movedim(-1, 1)
        return outputs, target.to(outputs.dtype)
