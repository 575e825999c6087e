"""The tokenizer of a pretrained model, as the library tokenizers of Hugging Face saves it."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
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

    def encode_padded(self, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Token ids of texts, with special tokens at the ends, and the attention mask: 1 for tokens, 0 for padding.

        Args:
            texts: of any length; longer ones are cut.
            max_tokens: length of every row.

        Returns:
            int64 [texts, max_tokens] each.
        """
        padding = (self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|endoftext|>"))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(
            length=max_tokens, pad_id=next((each for each in padding if each is not None), 0)
        )
        try:
            found = self._tokenizer.encode_batch(texts)
        finally:
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        ids, mask = [each.ids for each in found], [each.attention_mask for each in found]
        return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Return the text of tokens, int64 [tokens]."""
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        return text


def read_tokenizer(folder: str, sha256: str) -> LibraryTokenizer:
    """Read the `tokenizer.json` of a folder.

    Raises:
        DataError: the file is missing, or is not the one that the experiment was composed with.
    """
    path = Path(folder).expanduser() / "tokenizer.json"
    try:
        content = path.read_bytes()
    except OSError as err:
        raise DataError(f"data.tokenizer: {path} cannot be read ({err.strerror}); restore the folder") from err
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"data.tokenizer: {path} has changed since the run was frozen; restore it, or start a new run")
    return LibraryTokenizer(content.decode("utf-8"))


class UsesLibraryTokenizer:
    """Gives a data set the tokenizer of a folder, which an exported model keeps (`modules.data.base.SavesReader`)."""

    tokenizer_folder: str
    tokenizer_sha256: str

    @cached_property
    def tokenizer(self) -> LibraryTokenizer:
        """Converts between text and tokens; reads the file at the first use.

        Raises:
            DataError: the file is missing, or is not the one that the experiment was composed with.
        """
        return read_tokenizer(self.tokenizer_folder, self.tokenizer_sha256)

    def save_reader(self) -> Any:
        return self.tokenizer.save()

    def restore_reader(self, saved: Any) -> None:
        self.tokenizer = LibraryTokenizer(saved)
