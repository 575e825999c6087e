"""Top-k accuracy: how often the true class is among the k highest logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.data.base import InputReader, Tensors
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs


class Accuracy:
    """Counts targets, of examples or of their tokens, among the k highest logits. Metrics: ``accuracy_top1`` etc."""

    is_component = True
    headline = ("accuracy_top1", "max")

    def __init__(self, top_k: Sequence[int], top_k_shown: int = 5) -> None:
        """
        Args:
            top_k: the values of k, each at least 1.
            top_k_shown: classes that an answer names, the likeliest.
        """
        if not top_k or min(top_k) < 1 or len(set(top_k)) < len(top_k):
            raise ValueError(f"Accuracy wants top_k as different numbers of at least 1, but got {list(top_k)}")
        if top_k_shown < 1:
            raise ValueError(f"Accuracy wants top_k_shown of at least 1, but got {top_k_shown}")
        self.top_k, self.top_k_shown = tuple(top_k), top_k_shown

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
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
                f"{list(outputs.shape)} and {list(targets.shape)}; end the model in one logit per class"
            )
        if max(self.top_k) > outputs.shape[-1]:
            raise ValueError(
                f"evaluator.top_k={list(self.top_k)} is more than the model's {outputs.shape[-1]} classes; "
                f"keep every k at most {outputs.shape[-1]}"
            )
        best = outputs.topk(max(self.top_k), dim=-1).indices
        hits = (best == targets.unsqueeze(-1)).flatten(0, -2).sum(dim=0).cumsum(dim=0)
        counts = [targets.new_tensor(targets.numel()), *(hits[k - 1] for k in self.top_k)]
        return torch.stack(counts).to(torch.float64)

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the fractions of the targets.

        Args:
            sums: float64 [1 + len(top_k)], as `update` gives them.

        Raises:
            ValueError: the sums contain no example.
        """
        num_examples, *hits = sums.tolist()
        if num_examples == 0:
            raise ValueError("Accuracy wants at least 1 example, but got 0; evaluate on a split that is not empty")
        return {f"accuracy_top{k}": hit / num_examples for k, hit in zip(self.top_k, hits, strict=True)}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return the most probable classes and their probabilities, with the class names of the data or else numbers."""
        outputs = compute_outputs(model, data.read(inputs))
        if not isinstance(outputs, Tensor) or outputs.dim() != 2:
            raise ValueError(
                "evaluator Accuracy predicts with models that give one logit per class, but this model gives more; "
                "evaluator=perplexity continues the texts of a language model"
            )
        names = getattr(data, "class_names", None) or ()
        best = outputs.float().softmax(-1).topk(min(self.top_k_shown, outputs.shape[-1]))
        return [
            _answer([str(names[number]) if number < len(names) else str(number) for number in numbers], probs)
            for numbers, probs in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _answer(names: Sequence[str], probs: Sequence[float]) -> Prediction:
    both = list(zip(names, probs, strict=True))
    text = "  ".join(f"{name} {prob:.3f}" for name, prob in both)
    return Prediction(text, {"classes": [{"name": name, "probability": prob} for name, prob in both]})
