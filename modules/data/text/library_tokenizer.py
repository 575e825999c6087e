"""The tokenizer of a pretrained model, as the library tokenizers of Hugging Face saves it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.data.base import DataError


class LibraryTokenizer:
    """Converts between text and the token ids of a `tokenizer.json`; no code of a folder runs."""

    def __init__(self, content: str) -> None:
        """
        Args:
            content: of a `tokenizer.json`.

        Raises:
            DataError: tokenizers is not installed, or cannot read the content.
        """
        try:
            import tokenizers
        except ImportError as err:
            raise DataError("data.tokenizer needs the package tokenizers; `pip install 'lathe-dl[models]'`") from err
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content)
        except Exception as err:  # the library raises only this class
            raise DataError(f"data.tokenizer cannot be read by tokenizers ({err}); save the tokenizer again") from err
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.num_tokens: int = self._tokenizer.get_vocab_size()

    def save(self) -> str:
        """Return the content of its `tokenizer.json`."""
        content: str = self._tokenizer.to_str()
        return content

    def encode(self, text: str) -> Tensor:
        """int64 [tokens], without special tokens at the ends."""
        return torch.tensor(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Return the text of tokens, int64 [tokens]."""
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        return text
