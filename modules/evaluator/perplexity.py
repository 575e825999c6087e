"""Perplexity of a language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from modules.data.base import IGNORED, InputReader, Tensors, Tokenized
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs


class Perplexity:
    """Sums the cross entropy of every token. Metric: ``perplexity``, the exponential of its mean.

    `predict` continues a text by sampling.
    """

    is_component = True
    headline = ("perplexity", "min")

    def __init__(self, sample_tokens: int = 100, sample_temperature: float = 1.0, sample_seed: int = 0) -> None:
        """
        Args:
            sample_tokens: number of tokens that `predict` adds.
            sample_temperature: divides the logits; 0 takes the most probable token.
            sample_seed: seed of the sampling, the same for each text.
        """
        if sample_tokens < 1 or not 0 <= sample_temperature < float("inf") or sample_seed < 0:
            raise ValueError(
                f"Perplexity wants sample_tokens of at least 1, and sample_temperature and sample_seed of at least 0, but got "
                f"{sample_tokens}, {sample_temperature} and {sample_seed}"
            )
        self.sample_tokens, self.sample_temperature, self.sample_seed = sample_tokens, sample_temperature, sample_seed

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sum the cross entropy of one batch.

        Args:
            outputs: logits, float [batch, ..., classes].
            targets: int64 [batch, ...], each in ``[0, classes)``, or `IGNORED`; of several, the first.

        Returns:
            float64 [2]: the number of targets, and their cross entropy in nats.

        Raises:
            ValueError: the shapes of logits and classes do not fit.
        """
        if not isinstance(outputs, Tensor):
            raise ValueError("Perplexity wants one tensor of logits, but got a tuple; pick one")
        targets = targets if isinstance(targets, Tensor) else targets[0]
        if outputs.dim() < 2 or targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"Perplexity wants logits as [batch, ..., classes] and targets as [batch, ...], but got "
                f"{list(outputs.shape)} and {list(targets.shape)}; end the model in one logit per class"
            )
        flat, classes = outputs.flatten(0, -2).float(), targets.flatten()
        nats = F.cross_entropy(flat, classes, ignore_index=IGNORED, reduction="none")
        return torch.stack([(classes != IGNORED).sum().double(), nats.double().sum()])

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the exponential of the mean; infinite beyond float64, as for a model that diverged.

        Args:
            sums: float64 [2], as `update` gives them.

        Raises:
            ValueError: the sums contain no target.
        """
        if sums[0] == 0:
            raise ValueError("Perplexity wants at least 1 target, but got 0; evaluate on a split that is not empty")
        return {"perplexity": float((sums[1] / sums[0]).exp())}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Continue each text; the context of the model is as long as in training."""
        if not isinstance(data, Tokenized):
            raise ValueError(
                f"evaluator Perplexity continues texts, but {type(data).__name__} has no tokenizer; use another evaluator"
            )
        return [self._continue(model, data, text) for text in inputs]

    def _continue(self, model: nn.Module, data: InputReader, text: str) -> Prediction:
        assert isinstance(data, Tokenized)
        tokens, (example, _) = data.read([text]), data.example(1)
        if not isinstance(tokens, Tensor) or not isinstance(example, Tensor):
            raise ValueError(
                "evaluator Perplexity continues one text, but this data has several inputs; use another evaluator"
            )
        start, context_tokens, tokenizer = tokens.shape[1], example.shape[1], data.tokenizer
        generator = Generator().manual_seed(self.sample_seed)
        for _ in range(self.sample_tokens):
            outputs = compute_outputs(model, tokens[:, -context_tokens:])
            if not isinstance(outputs, Tensor) or outputs.dim() != 3:
                raise ValueError("evaluator Perplexity wants logits as [batch, time, tokens]; use another evaluator")
            logits = outputs[:, -1, : tokenizer.num_tokens].float()
            tokens = torch.cat([tokens, self._sample(logits, generator)], dim=1)
        before, whole = tokenizer.decode(tokens[0, :start]), tokenizer.decode(tokens[0])
        return Prediction(whole, {"text": before, "continuation": whole[len(before) :]})

    def _sample(self, logits: Tensor, generator: Generator) -> Tensor:
        """Sample int64 [batch, 1] from float [batch, tokens]."""
        if self.sample_temperature == 0:
            return logits.argmax(-1, keepdim=True)
        return (logits / self.sample_temperature).softmax(-1).multinomial(1, generator=generator)
