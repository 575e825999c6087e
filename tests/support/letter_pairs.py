"""A small data set of translations in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from modules.data.base import END, START, Batch, Pair, Tensors
from modules.data.text.pair_split import PairSplit, pad_texts

TEXTS = {
    "train": [
        ("a cat sat", "eine katze"),
        ("a cat sat", "die katze"),
        ("go", "geh"),
        ("much too long a text", "zu lang"),
    ],
    "val": [("a dog", "ein hund")],
    "test": [("the cat", "die katze"), ("Ω", "omega")],
}


class LetterPairs:
    """Made-up pairs of texts; a token is the place of a letter in the alphabet."""

    takes: Final = "text"

    def load(self, split: str) -> PairSplit:
        rows = TEXTS[split]
        encoded = [[encode(text) for text in column] for column in zip(*rows, strict=True)]
        return PairSplit(encoded[0], encoded[1], [3 * row + [*TEXTS].index(split) for row in range(len(rows))])

    def example(self, batch_size: int) -> Batch:
        raise NotImplementedError

    def pair(self, number: int) -> Pair:
        split = [*TEXTS][number % 3]
        source, target = TEXTS[split][number // 3]
        return Pair(split, number // 3, source, (target,))

    def target_text(self, words: Tensor) -> str:
        return "".join(chr(word - 4 + 96) for word in words.tolist() if word > END)

    def read(self, inputs: Sequence[str]) -> Tensors:
        return pad_texts([encode(text) for text in inputs]).long(), torch.full((len(inputs), 1), START)


def encode(text: str) -> list[int]:
    return [ord(letter) % 32 + 4 for letter in text]
