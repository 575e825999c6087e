"""Models that give more than logits, such as those of the transformers library."""

from __future__ import annotations

from torch import Tensor, nn


class LogitsOf(nn.Module):
    """Calls a model with the batch's inputs as its first argument, and takes the logits out of what it returns.

    For `transformers`' models, whose outputs are records: https://huggingface.co/docs/transformers/main_classes/output.
    """

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: any whose output has ``logits``.
        """
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs as the model takes them, such as tokens, int64 [batch, time], to its logits, float [batch, time, words].

        Raises:
            ValueError: its output has none.
        """
        outputs = self.model(inputs)
        logits = getattr(outputs, "logits", None)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"LogitsOf wants a model whose output has logits, but {type(self.model).__name__} gives "
                f"{type(outputs).__name__}; name the model itself as model where it gives a tensor"
            )
        return logits
