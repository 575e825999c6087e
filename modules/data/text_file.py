"""A text file for language models, such as tiny Shakespeare, by characters or byte pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import torch
from torch import Tensor

from modules.data.base import Batch, DataError, UserInputError
from modules.data.files import DataFiles
from modules.data.tensors import check_at_least, check_split
from modules.data.text.byte_pairs import BytePairs
from modules.data.text.characters import Characters, find_characters
from modules.data.text.token_windows import TokenWindows, WindowSizes, stack_prompts

_PERCENT = {"train": (0, 90), "val": (90, 95), "test": (95, 100)}
_LEAST = 20  # characters, so that every split has one


class TextFile:
    """A text in three parts: the first 90 % of its characters to train, the next 5 % to validate, the last 5 % to test."""

    is_component = True

    takes: Final = "text"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        tokens: Literal["characters", "byte_pairs"],
        vocab_size: int,
        context_tokens: int,
        num_train_tokens: int | None,
        num_train: int | None,
        shift: bool,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of the file, in UTF-8; a name in ``.gz`` is decompressed.
            tokens: "characters", in the order of code points; or "byte_pairs", learnt from the training part.
            vocab_size: number of byte pairs; or at least the number of different characters, rounded up if it must be
                divisible by devices.
            context_tokens: tokens of an example.
            num_train_tokens: the first tokens of the training part, to train on; None: all. With byte pairs it must be the
                number of all tokens, which follows from ``vocab_size``.
            num_train: windows of ``context_tokens`` in these tokens; None: count only steps.
            shift: shift the windows of training at random; False: always the same windows.
        """
        if len(files) != 1:
            raise ValueError(f"TextFile wants one file in data.files, but got {sorted(files)}; leave one")
        check_at_least("data", 1, vocab_size=vocab_size)
        self.files = DataFiles(root, folder, files)
        (self.name,) = files
        self.tokens = tokens
        self.vocab_size = vocab_size
        self.sizes = WindowSizes(context_tokens, num_train_tokens, num_train, shift)

    def load(self, split: str) -> TokenWindows:
        check_split("TextFile", split)
        part = self._part(split)
        tokens = self.tokenizer.encode(part)
        if self.tokens == "byte_pairs" and self.tokenizer.decode(tokens) != part:
            raise DataError(
                f"data.tokens=byte_pairs: {self.name} has characters that SentencePiece reserves, such as "
                "U+2581, so decoding does not return the same text; replace them, or set data.tokens=characters"
            )
        return self.sizes.cut(self.files.folder, split, tokens, is_exact=self.tokens == "byte_pairs")

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Return the tokens of texts of equal length; characters that are not in the file are refused."""
        kinds = self.tokenizer.kinds
        for text in inputs:
            if unknown := "".join(dict.fromkeys(kind for kind in text if kind not in kinds)):
                raise UserInputError(
                    f"{text!r} has the characters {unknown!r}, which are not in {self.name}; use its {len(kinds)} characters"
                )
        return stack_prompts(inputs, [self.tokenizer.encode(text) for text in inputs])

    def example(self, batch_size: int) -> Batch:
        inputs, targets = torch.zeros(2, batch_size, self.sizes.context_tokens, dtype=torch.int64)
        return inputs, targets

    @cached_property
    def tokenizer(self) -> Characters | BytePairs:
        """Converts between text and tokens; reads the file at the first use.

        Raises:
            DataError: as `load`.
        """
        if self.tokens == "byte_pairs":
            return BytePairs(self._part("train"), find_characters(self._text), self.vocab_size)
        return Characters(self._text, self.vocab_size)

    def save_reader(self) -> Any:
        tokenizer = self.tokenizer
        return tokenizer.save() if isinstance(tokenizer, BytePairs) else tokenizer.kinds

    def restore_reader(self, saved: Any) -> None:
        is_pairs = self.tokens == "byte_pairs"
        self.tokenizer = BytePairs.restore(saved) if is_pairs else Characters(saved, self.vocab_size)

    @cached_property
    def _text(self) -> str:
        text = self.files.read_text(self.name)
        with self.files.decoding(self.name):
            if len(text) < _LEAST:
                raise ValueError(f"it has {len(text)} characters, but three splits need at least {_LEAST}")
        return text

    def _part(self, split: str) -> str:
        first, last = (len(self._text) * percent // 100 for percent in _PERCENT[split])
        return self._text[first:last]
