"""Cross entropy of the class of every pixel, optionally with the Dice loss for rare classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import IGNORED, Tensors


class PixelCrossEntropy(nn.Module):
    """A loss for segmentation: the mean over the pixels of an image that are not ignored, then over the images.

    So the loss of a batch does not depend on micro-batches and replicas.
    Source of the Dice loss: Milletari et al. 2016, arXiv:1606.04797, section 3.
    """

    is_component = True

    def __init__(self, class_weights: Sequence[float] | None = None, dice_weight: float = 0.0) -> None:
        """
        Args:
            class_weights: weight of the pixels of each class; None: 1.
            dice_weight: weight of the Dice loss, one minus the Dice overlap, averaged over all classes but the first. It gives
                rare classes the same weight as frequent classes.
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
        """Compute the mean over the images of a batch.

        Args:
            outputs: logits, float [batch, height, width, classes].
            targets: int64 [batch, height, width], each in ``[0, classes)`` or `IGNORED`; of a tuple, the first.

        Returns:
            The loss, float [], and its detached parts: ``loss_nats``, the cross entropy, and with a weight ``loss_dice``,
            not weighted.

        Raises:
            ValueError: the shapes of logits and classes do not fit.
        """
        logits, classes = select_logits_and_mask(outputs, targets, "PixelCrossEntropy")
        if self.class_weights is not None and len(self.class_weights) != logits.shape[-1]:
            raise ValueError(
                f"objective.class_weights has {len(self.class_weights)} values, but the model has {logits.shape[-1]} classes; "
                "write one value per class"
            )
        log_probs = F.log_softmax(logits.float(), dim=-1)
        nats = self._cross_entropy(log_probs, classes)
        if not self.dice_weight:
            return nats, {"loss_nats": nats.detach()}
        dice = _dice_loss(log_probs.exp(), classes)
        return nats + self.dice_weight * dice, {"loss_nats": nats.detach(), "loss_dice": dice.detach()}

    def _cross_entropy(self, log_probs: Tensor, classes: Tensor) -> Tensor:
        # Flattened, because the loss of 2-D images is not deterministic on a GPU (torch 2.13).
        nats = F.nll_loss(
            log_probs.flatten(0, -2), classes.flatten(), self.class_weights, ignore_index=IGNORED, reduction="none"
        ).view_as(classes)
        counts = (classes != IGNORED).sum(dim=(1, 2))
        return (nats.sum(dim=(1, 2)) / counts.clamp_min(1)).mean()


def select_logits_and_mask(outputs: Tensors, targets: Tensors, owner: str) -> tuple[Tensor, Tensor]:
    """Return the logits and the first mask.

    Raises:
        ValueError: the shapes do not fit.
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
            f"but got {shape} and {list(classes.shape)}; use a model with logits for every pixel, such as model=unet"
        )
    return outputs, classes


def _dice_loss(probs: Tensor, classes: Tensor) -> Tensor:
    """Compute one minus the overlap of true classes and predicted probabilities, as a mean over images and classes."""
    counts = (classes != IGNORED).unsqueeze(-1)
    truth = F.one_hot(classes.clamp_min(0), probs.shape[-1])[..., 1:] * counts
    probs = probs[..., 1:] * counts
    both, either = (probs * truth).sum(dim=(1, 2)), (probs + truth).sum(dim=(1, 2))
    return 1 - ((2 * both + 1) / (either + 1)).mean()  # the 1 is for images without the class
