"""Your own texts with labels, in the tokens of a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd
import torch
from torch import Tensor

from modules.data.base import Batch
from modules.data.own.data_table import DataTable
from modules.data.own.skipping import OnBadExample
from modules.data.tensors import TensorSplit, check_at_least
from modules.data.text.library_tokenizer import UsesLibraryTokenizer


class LabelledTexts(UsesLibraryTokenizer, DataTable):
    """A table, as `DataTable` reads it, with a column of texts and a column of classes.

    Inputs are the token ids and the attention mask, int64 [batch, max_tokens] each, as a model of transformers takes them. A
    text begins and ends with the special tokens of the tokenizer; it is cut after ``max_tokens``, and a shorter one is padded.
    """

    is_component = True
    auto_values = "modules.data.own.tokens.tokenizer_file.find_values_of_labelled_texts"
    encoding = ("text", "classes", "tokenizer_sha256", "max_tokens")
    takes: Final = "text"  # type: ignore[misc]  # and not rows

    def __init__(
        self,
        root: str,
        path: str,
        text: str,
        target: str,
        files: Mapping[str, str | None],
        tokenizer: str,
        tokenizer_sha256: str,
        vocab_size: int,
        max_tokens: int,
        classes: Sequence[str],
        num_classes: int,
        num_train: int,
        val_path: str | None = None,
        test_path: str | None = None,
        held_out_share: float = 0.1,
        fold: int | None = None,
        num_folds: int = 5,
        on_bad_example: OnBadExample = "error",
    ) -> None:
        """
        Args:
            root: the folder of all data sets; with `auto` values also the current folder, if only that has the file.
            path: of the table with the training texts, below root.
            text: name of the column of texts; an empty cell is an empty text.
            target: name of the column of classes. Rows without it are left out.
            files: sha256 of each file, by its path; None: not checked.
            tokenizer: a folder with `tokenizer.json`, as `save_pretrained` of transformers writes it.
            tokenizer_sha256: of that file.
            vocab_size: number of its tokens.
            max_tokens: length of every example.
            classes: names of the classes, in the order of their numbers.
            num_classes: their number.
            num_train: training texts.
            val_path, test_path, held_out_share, fold, num_folds, on_bad_example: as for `DataTable`.
        """
        check_at_least("LabelledTexts", 3, max_tokens=max_tokens)  # with a special token at both ends
        super().__init__(
            root, path, target, files, {text: {}}, "classification", classes, 1, num_classes, num_train,
            val_path=val_path, test_path=test_path, held_out_share=held_out_share, fold=fold, num_folds=num_folds,
            on_bad_example=on_bad_example,
        )  # fmt: skip
        self.text, self.max_tokens = text, max_tokens
        self.tokenizer_folder, self.tokenizer_sha256 = tokenizer, tokenizer_sha256

    def make_split(self, table: pd.DataFrame) -> TensorSplit:
        if self.text not in table.columns:
            raise ValueError(f"it has no column data.text={self.text!r}, but {', '.join(map(repr, table.columns))}")
        texts = ["" if pd.isna(value) else str(value) for value in table[self.text]]
        both = torch.stack(self.read(texts), dim=1)
        return TensorSplit(both, self.encode_targets(table[self.target]), lambda tensor, seeds: tensor.unbind(1))

    def read(self, inputs: Sequence[str]) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # texts, not rows
        """Return the token ids and the attention mask of texts, int64 [texts, max_tokens] each."""
        return self.tokenizer.encode_padded(list(inputs), self.max_tokens)

    def example(self, batch_size: int) -> Batch:
        ids = torch.zeros(batch_size, self.max_tokens, dtype=torch.int64)
        return (ids, torch.ones_like(ids)), torch.zeros(batch_size, dtype=torch.int64)
