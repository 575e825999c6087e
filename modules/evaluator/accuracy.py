"""Top-k accuracy: how often the right class is among the k best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.data.base import Tensors


class Accuracy:
    """Counts the targets, of examples or of the words in them, among the k highest logits; gives ``accuracy_top1`` etc."""

    def __init__(self, top_k: Sequence[int]) -> None:
        """
        Args:
            top_k: every k that is asked for, each at least 1.
        """
        if not top_k or min(top_k) < 1 or len(set(top_k)) < len(top_k):
            raise ValueError(f"Accuracy wants top_k as different numbers of at least 1, but got {list(top_k)}")
        self.top_k = tuple(top_k)

    def measure(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Count the hits of one batch.

        Args:
            outputs: logits, float [batch, ..., classes]; a language model has [batch, time, classes].
            targets: int64 [batch, ...].

        Returns:
            float64 [1 + len(top_k)]: the targets, and the hits for every k.

        Raises:
            ValueError: the shapes do not fit, or a k is more than the classes.
        """
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise ValueError("Accuracy wants one tensor of logits and one of classes, but got a tuple; pick one")
        if outputs.dim() < 2 or targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"Accuracy wants logits as [batch, ..., classes] and targets as [batch, ...], but got "
                f"{list(outputs.shape)} and {list(targets.shape)}; end the model in one number a class"
            )
        if max(self.top_k) > outputs.shape[-1]:
            raise ValueError(
                f"evaluator.top_k={list(self.top_k)} asks for more than the model's {outputs.shape[-1]} classes; "
                f"keep every k at most {outputs.shape[-1]}"
            )
        best = outputs.topk(max(self.top_k), dim=-1).indices
        hits = (best == targets.unsqueeze(-1)).flatten(0, -2).sum(dim=0).cumsum(dim=0)
        counts = [targets.new_tensor(targets.numel()), *(hits[k - 1] for k in self.top_k)]
        return torch.stack(counts).to(torch.float64)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Shares of the targets.

        Args:
            sums: float64 [1 + len(top_k)], as `measure` gives them.

        Raises:
            ValueError: nothing was measured.
        """
        num_examples, *hits = sums.tolist()
        if num_examples == 0:
            raise ValueError("Accuracy wants at least 1 example, but got 0; evaluate on a split that is not empty")
        return {f"accuracy_top{k}": hit / num_examples for k, hit in zip(self.top_k, hits, strict=True)}
