"""Pairs of a text to read and a text to write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, Literal

import torch
from torch import Tensor

from modules.data.base import END, START, Batch, DataError, Pair, Tensors, UserInputError
from modules.data.files import DataFiles
from modules.data.tensors import check_at_least, check_split
from modules.data.text.pair_files import Examples
from modules.data.text.pair_split import PairSplit, pad_texts, shift_right
from modules.data.text.sentence_words import SPECIAL, SentencePieces, Sentences, SentenceWords, normalise

SPLITS: Final = ("train", "val", "test")


class PairedTexts(ABC):
    """Texts with the texts to write for them: translations, answers. The vocabularies are those of the training split."""

    takes: Final = "text"

    def __init__(
        self,
        files: DataFiles,
        normalise: bool,
        tokens: Literal["words", "byte_pairs"],
        source_vocab_size: int,
        target_vocab_size: int,
        min_count: int,
        max_source_tokens: int,
        max_target_tokens: int,
        num_train: int | None,
    ) -> None:
        """
        Args:
            files: of the data set.
            normalise: convert to lower case, with spaces around punctuation; false if the files are already like this.
            tokens: "words" between spaces; or "byte_pairs", learnt from the training split.
            source_vocab_size: maximum number of words, or the number of byte pairs; includes four special tokens.
            target_vocab_size: the same for the target.
            min_count: words that occur less often become ``<unk>``.
            max_source_tokens: the longest source to train on, without its end token.
            max_target_tokens: the longest target to train on.
            num_train: the first pairs, to train on; null: all.
        """
        check_at_least(
            "data", len(SPECIAL) + 1, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        check_at_least(
            "data", 1, min_count=min_count, max_source_tokens=max_source_tokens, max_target_tokens=max_target_tokens,
            num_train=1 if num_train is None else num_train,
        )  # fmt: skip
        self.files = files
        self.normalise, self.tokens, self.min_count = normalise, tokens, min_count
        self.source_vocab_size, self.target_vocab_size = source_vocab_size, target_vocab_size
        self.max_source_tokens, self.max_target_tokens = max_source_tokens, max_target_tokens
        self.num_train = num_train

    @abstractmethod
    def _examples(self, split: str) -> Examples:
        """Return all pairs of a split, in a fixed order."""

    def load(self, split: str) -> PairSplit:
        check_split(type(self).__name__, split)
        sources, targets, numbers = list[list[int]](), list[list[int]](), list[int]()
        reader, writer = self.readers
        for index, (source, references) in enumerate(self._examples(split)):
            read, written = reader.encode(source), writer.encode(references[0])
            if split == "train":
                if len(read) > self.max_source_tokens or len(written) > self.max_target_tokens:
                    continue
                if len(sources) == self.num_train:
                    break
            sources.append(read)
            targets.append(written)
            numbers.append(index * len(SPLITS) + SPLITS.index(split))
        wanted = self.num_train or 1 if split == "train" else 1
        if len(sources) < wanted:
            raise DataError(
                f"data.folder={self.files.folder!r}: the split '{split}' has {len(sources)} pairs that are short enough, but "
                f"needs {wanted}; raise data.max_source_tokens and data.max_target_tokens, or lower data.num_train"
            )
        return PairSplit(sources, targets, numbers)

    def example(self, batch_size: int) -> Batch:
        """Return a batch of the maximum length, in which every token is `END`."""
        source = torch.full((batch_size, self.max_source_tokens + 1), END)
        target = torch.full((batch_size, self.max_target_tokens + 1), END)
        return (source, shift_right(target)), (target, torch.zeros(batch_size, dtype=torch.int64))

    def pair(self, number: int) -> Pair:
        index, split = divmod(number, len(SPLITS))
        source, references = self._examples(SPLITS[split])[index]
        return Pair(SPLITS[split], index, source, references)

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Return the sources, int64 [texts, time], and `START`, int64 [texts, 1]."""
        if not all(text.strip() for text in inputs):
            raise UserInputError("an empty line has no words; write a text with at least one word")
        reader, _ = self.readers
        texts = [reader.encode(reader.adapt(normalise(text) if self.normalise else text)) for text in inputs]
        return pad_texts(texts).long(), torch.full((len(texts), 1), START)

    def target_text(self, words: Tensor) -> str:
        numbers = words.tolist()
        return self.readers[1].decode(numbers[: numbers.index(END)] if END in numbers else numbers)

    @cached_property
    def readers(self) -> tuple[Sentences, Sentences]:
        """Convert between sentences and token ids, of source and target; reads the training split at the first use.

        Raises:
            DataError: as `load`.
        """
        train = self._examples("train")
        sources, targets = (source for source, _ in train), (references[0] for _, references in train)
        if self.tokens == "byte_pairs":
            return SentencePieces(sources, self.source_vocab_size), SentencePieces(targets, self.target_vocab_size)
        return (
            SentenceWords(sources, self.source_vocab_size, self.min_count),
            SentenceWords(targets, self.target_vocab_size, self.min_count),
        )

    def save_reader(self) -> Any:
        return [reader.save() for reader in self.readers]

    def restore_reader(self, saved: Any) -> None:
        kind = SentencePieces if self.tokens == "byte_pairs" else SentenceWords
        source, target = (kind.restore(each) for each in saved)
        self.readers = source, target
