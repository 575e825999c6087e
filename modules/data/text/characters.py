"""Text as tokens, one per character."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modules.data.base import DataError


class Characters:
    """Ids of characters in the order of their code points, as in nanoGPT."""

    def __init__(self, text: str, vocab_size: int) -> None:
        """
        Args:
            text: the text with all characters.
            vocab_size: at least the number of different characters; higher ids are never used.

        Raises:
            DataError: the text has more different characters.
        """
        self.kinds = find_characters(text)
        if len(self.kinds) > vocab_size:
            raise DataError(
                f"data.vocab_size={vocab_size} is too small for the {len(self.kinds)} different characters in this text; "
                f"every character needs an id; set data.vocab_size={len(self.kinds)}, or more to divide it over devices"
            )
        self._codes = _codes(self.kinds)

    @property
    def num_tokens(self) -> int:
        return len(self.kinds)

    def encode(self, text: str) -> Tensor:
        """int64 [characters].

        Raises:
            ValueError: the text has an unknown character.
        """
        codes = _codes(text)
        check_known(text, self.kinds)
        return torch.from_numpy(np.searchsorted(self._codes, codes))

    def decode(self, tokens: Tensor) -> str:
        """Return the text.

        Args:
            tokens: int64 [characters].
        """
        return "".join(self.kinds[token] for token in tokens.tolist())


def find_characters(text: str) -> str:
    """Return the different characters of a text in the order of their code points."""
    return "".join(sorted(set(text)))


def check_known(text: str, kinds: str) -> None:
    """
    Raises:
        ValueError: a character of the text is not in ``kinds``.
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
