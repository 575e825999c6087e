"""Cross entropy of every pixel's class, with the Dice overlap beside it where classes are rare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import IGNORED, Tensors


class PixelCrossEntropy(nn.Module):
    """Trains a dense classifier. Every image counts alike, by the mean over its pixels that are not ignored.

    So a batch's loss is the mean of its images', however it is split over micro-batches and replicas.
    Source of the Dice loss: Milletari et al. 2016, arXiv:1606.04797, section 3.
    """

    def __init__(self, class_weights: Sequence[float] | None = None, dice_weight: float = 0.0) -> None:
        """
        Args:
            class_weights: what a pixel of each class counts; None: all count 1.
            dice_weight: what one minus the Dice overlap counts beside the cross entropy: of an image's classes but the
                first, each as it is in the whole image. It makes a rare class worth as much as a frequent one.
        """
        super().__init__()
        if class_weights is not None and (not class_weights or min(class_weights) < 0 or max(class_weights) == 0):
            raise ValueError(
                f"PixelCrossEntropy wants class_weights of at least 0, not all 0, but got {list(class_weights)}"
            )
        if dice_weight < 0:
            raise ValueError(f"PixelCrossEntropy wants dice_weight of at least 0, but got {dice_weight}")
        self.dice_weight = dice_weight
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights).float())

    def forward(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the images of a batch.

        Args:
            outputs: logits, float [batch, height, width, classes].
            targets: int64 [batch, height, width], each in ``[0, classes)`` or `IGNORED`; of several, the first.

        Returns:
            The loss, float [], and without a graph what it is the sum of: ``loss_nats``, the cross entropy, and where it
            counts ``loss_dice``, before its weight.

        Raises:
            ValueError: the shapes are no logits and their classes.
        """
        logits, classes = pixels_of(outputs, targets, "PixelCrossEntropy")
        if self.class_weights is not None and len(self.class_weights) != logits.shape[-1]:
            raise ValueError(
                f"objective.class_weights has {len(self.class_weights)} numbers, but the model {logits.shape[-1]} classes; "
                "write one a class"
            )
        log_probs = F.log_softmax(logits.float(), dim=-1)
        nats = self._cross_entropy(log_probs, classes)
        if not self.dice_weight:
            return nats, {"loss_nats": nats.detach()}
        dice = _dice_loss(log_probs.exp(), classes)
        return nats + self.dice_weight * dice, {"loss_nats": nats.detach(), "loss_dice": dice.detach()}

    def _cross_entropy(self, log_probs: Tensor, classes: Tensor) -> Tensor:
        # Flat, as the loss of two-dimensional images has no deterministic form on a GPU (torch 2.13).
        nats = F.nll_loss(
            log_probs.flatten(0, -2), classes.flatten(), self.class_weights, ignore_index=IGNORED, reduction="none"
        ).view_as(classes)
        counts = (classes != IGNORED).sum(dim=(1, 2))
        return (nats.sum(dim=(1, 2)) / counts.clamp_min(1)).mean()


def pixels_of(outputs: Tensors, targets: Tensors, owner: str) -> tuple[Tensor, Tensor]:
    """Logits and the first of the masks.

    Raises:
        ValueError: they do not fit.
    """
    classes = targets if isinstance(targets, Tensor) else targets[0]
    if (
        not isinstance(outputs, Tensor)
        or outputs.dim() != 4
        or classes.shape != outputs.shape[:-1]
        or outputs.shape[-1] < 2
    ):
        shape = list(outputs.shape) if isinstance(outputs, Tensor) else "a tuple"
        raise ValueError(
            f"{owner} wants logits as [batch, height, width, classes] of 2 classes or more, and masks as [batch, height, width], "
            f"but got {shape} and {list(classes.shape)}; take a model that scores every pixel, such as model=unet"
        )
    return outputs, classes


def _dice_loss(probs: Tensor, classes: Tensor) -> Tensor:
    """One minus the overlap of what is sure to be a class with what is expected to be, as a mean of images and classes."""
    counts = (classes != IGNORED).unsqueeze(-1)
    truth = F.one_hot(classes.clamp_min(0), probs.shape[-1])[..., 1:] * counts
    probs = probs[..., 1:] * counts
    both, either = (probs * truth).sum(dim=(1, 2)), (probs + truth).sum(dim=(1, 2))
    return 1 - ((2 * both + 1) / (either + 1)).mean()  # the 1 says what an image without the class is worth
