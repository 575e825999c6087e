"""Text as tokens, one a character."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modules.data.base import DataError


class Characters:
    """Numbers the characters of a text by the order of their code points, as nanoGPT does."""

    def __init__(self, text: str, vocab_size: int) -> None:
        """
        Args:
            text: the text whose characters are known.
            vocab_size: at least the number of kinds; numbers beyond are never used.

        Raises:
            DataError: there are more kinds.
        """
        self.kinds = kinds_of(text)
        if len(self.kinds) > vocab_size:
            raise DataError(
                f"data.vocab_size={vocab_size} is too small for the {len(self.kinds)} kinds of characters in this text; "
                f"every kind needs a number; set data.vocab_size={len(self.kinds)}, or more to divide it over devices"
            )
        self._codes = _codes(self.kinds)

    @property
    def num_tokens(self) -> int:
        return len(self.kinds)

    def encode(self, text: str) -> Tensor:
        """int64 [characters].

        Raises:
            ValueError: the text has a character of no known kind.
        """
        codes = _codes(text)
        check_known(text, self.kinds)
        return torch.from_numpy(np.searchsorted(self._codes, codes))

    def decode(self, tokens: Tensor) -> str:
        """The text again.

        Args:
            tokens: int64 [characters].
        """
        return "".join(self.kinds[token] for token in tokens.tolist())


def kinds_of(text: str) -> str:
    """Every character of a text once, by the order of their code points."""
    return "".join(sorted(set(text)))


def check_known(text: str, kinds: str) -> None:
    """
    Raises:
        ValueError: a character of the text is none of the kinds.
    """
    unknown = sorted(set(text) - set(kinds))
    if unknown:
        raise ValueError(
            f"encode wants the {len(kinds)} characters that the data set knows, but got {''.join(unknown[:20])!r}; "
            "replace them"
        )


def _codes(text: str) -> np.ndarray:
    """uint32 [characters], code points."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
