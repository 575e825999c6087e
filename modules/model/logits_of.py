"""A wrapper for models that return a record with logits, such as those of the transformers library."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from modules.model.pretrained.weight_names import name_saved_weights


class LogitsOf(nn.Module):
    """Calls a model with the inputs as its first argument, and returns the logits of its output.

    For models of `transformers`: https://huggingface.co/docs/transformers/main_classes/output.
    """

    is_component = True

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: its output has an attribute ``logits``.
        """
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs of the model, such as tokens, int64 [batch, time], to logits, float [batch, time, vocab_size].

        Raises:
            ValueError: the output has no logits.
        """
        outputs = self.model(inputs)
        logits = getattr(outputs, "logits", None)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"LogitsOf wants a model whose output has logits, but {type(self.model).__name__} returns "
                f"{type(outputs).__name__}; if it returns a tensor, use it without LogitsOf"
            )
        return logits

    def name_saved_weights(self, names: Iterable[str]) -> dict[str, str]:
        return name_saved_weights(self.model, names)
