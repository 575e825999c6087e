"""A problem whose answer is a sequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor

from modules.data.base import Tensors
from modules.data.generated.problem import GeneratedProblem


class TokenProblem(GeneratedProblem):
    """Examples whose answer a model gives token by token.

    Inputs: the tokens so far, int64 [batch, time], alone or after other tensors. Targets, or the first of several: the next
    tokens, int64 [batch, time], or `IGNORED`.
    """

    takes: Final = "text"
    end_token: int
    """Ends an answer."""

    def read(self, inputs: Sequence[str]) -> Tensors:
        """As `InputReader`: inputs whose next token is the first of the answer."""
        raise NotImplementedError(f"{type(self).__name__} has no read(inputs)")

    def max_answer_tokens(self, source: str) -> int:
        """Return the most tokens that an answer may have, with its end.

        Args:
            source: the input of the user.
        """
        raise NotImplementedError(f"{type(self).__name__} has no max_answer_tokens(source)")

    def answer_text(self, source: str, tokens: Tensor) -> str:
        """Return an answer as a person writes it.

        Args:
            source: the input of the user.
            tokens: of the answer, without its end, int64 [time].
        """
        raise NotImplementedError(f"{type(self).__name__} has no answer_text(source, tokens)")
