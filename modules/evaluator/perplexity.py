"""Perplexity: among how many equally likely words a language model is as unsure as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Tensors


class Perplexity:
    """Adds up the surprise of every word; gives ``perplexity``, the exponential of its mean."""

    def measure(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Add up the surprise of one batch.

        Args:
            outputs: logits, float [batch, ..., classes].
            targets: int64 [batch, ...], each in ``[0, classes)``.

        Returns:
            float64 [2]: the targets, and their surprise in nats.

        Raises:
            ValueError: the shapes are no logits and their classes.
        """
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise ValueError("Perplexity wants one tensor of logits and one of classes, but got a tuple; pick one")
        if outputs.dim() < 2 or targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"Perplexity wants logits as [batch, ..., classes] and targets as [batch, ...], but got "
                f"{list(outputs.shape)} and {list(targets.shape)}; end the model in one number a class"
            )
        nats = F.cross_entropy(outputs.flatten(0, -2).float(), targets.flatten(), reduction="none")
        return torch.stack([nats.new_tensor(targets.numel(), dtype=torch.float64), nats.double().sum()])

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """The exponential of the mean; infinite where that is beyond float64, as of a model that diverged.

        Args:
            sums: float64 [2], as `measure` gives them.

        Raises:
            ValueError: nothing was measured.
        """
        if sums[0] == 0:
            raise ValueError("Perplexity wants at least 1 target, but got 0; evaluate on a split that is not empty")
        return {"perplexity": float((sums[1] / sums[0]).exp())}
