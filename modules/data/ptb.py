"""The Penn Treebank text by words, as prepared by Mikolov and read by TensorFlow's tutorial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, DataError, UserInputError
from modules.data.files import DataFiles
from modules.data.tensors import check_at_least, check_split
from modules.data.text.token_windows import TokenWindows, WindowSizes, stack_prompts

_WORD_IN_NAME = {"train": "train", "val": "valid", "test": "test"}
_LINE_END, _UNKNOWN, _NUMBER = "<eos>", "<unk>", "N"


class PtbVocabulary:
    """Ids of words and line ends, in their order."""

    def __init__(self, kinds: Sequence[str]) -> None:
        """
        Args:
            kinds: the different words of a text, see `rank_words`.
        """
        self.kinds = kinds
        self._numbers = {word: number for number, word in enumerate(self.kinds)}

    @property
    def num_tokens(self) -> int:
        return len(self.kinds)

    def known(self, text: str) -> list[str]:
        """Return the words of a text in the form of the data set: lower case, ``N`` for numbers, ``<unk>`` for unknown words.

        Raises:
            ValueError: a word is unknown, and the vocabulary has no ``<unk>``.
        """
        words = []
        for word in split_words(text):
            forms = (word, word.lower(), _NUMBER if word[0].isdigit() else _UNKNOWN, _UNKNOWN)
            known = next((form for form in forms if form in self._numbers), None)
            if known is None:
                raise ValueError(
                    f"the word {word!r} is not one of the {len(self.kinds)} words of the training part; use another word"
                )
            words.append(known)
        return words

    def encode(self, text: str) -> Tensor:
        """int64 [words and line ends].

        Raises:
            ValueError: a word of the text has no id.
        """
        words = split_words(text)
        try:
            return torch.from_numpy(np.fromiter((self._numbers[word] for word in words), np.int64, len(words)))
        except KeyError as err:
            raise ValueError(
                f"encode wants the {len(self.kinds)} words of the training part, but got {err.args[0]!r}; "
                "write <unk> in its place"
            ) from err

    def decode(self, tokens: Tensor) -> str:
        """Return the text, with one space between words.

        Args:
            tokens: int64 [words and line ends].
        """
        words = (self.kinds[token] for token in tokens.tolist())
        text = " ".join("\n" if word == _LINE_END else word for word in words)
        return text.replace(" \n", "\n").replace("\n ", "\n")


def rank_words(words: Iterable[str]) -> list[str]:
    """Return the different words of a text by falling frequency; equal counts in alphabetical order."""
    counts = Counter(words)
    return sorted(counts, key=lambda word: (-counts[word], word))


class Ptb:
    """Wall Street Journal text with a vocabulary of 10,000 words; rare words are ``<unk>``, numbers ``N``.

    Source: Mikolov et al. 2010; Zaremba et al. 2014, arXiv:1409.2329; tensorflow/models r1.0, tutorials/rnn/ptb. These keep
    the state of the LSTM from one window to the next; here every window starts with a zero state, which costs some perplexity.
    """

    is_component = True

    takes: Final = "text"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
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
            files: name to sha256 of gzip files with ``train``, ``valid`` and ``test`` in their names.
            vocab_size: at least the number of different words in the training file, line ends included.
            context_tokens: words of an example.
            num_train_tokens: the first words of the training file, to train on; None: all.
            num_train: windows of ``context_tokens`` in these words; None: count only steps.
            shift: shift the windows of training at random; False: always the same windows.
        """
        by_split = {split: [name for name in files if word in name] for split, word in _WORD_IN_NAME.items()}
        if {*chain(*by_split.values())} != set(files) or any(len(names) != 1 for names in by_split.values()):
            raise ValueError(
                f"Ptb wants three data.files, with 'train', 'valid' and 'test' in their names, but got {sorted(files)}"
            )
        check_at_least("data", 1, vocab_size=vocab_size)
        self.files = DataFiles(root, folder, files)
        self.names = {split: name for split, (name,) in by_split.items()}
        self.vocab_size = vocab_size
        self.sizes = WindowSizes(context_tokens, num_train_tokens, num_train, shift)

    def load(self, split: str) -> TokenWindows:
        check_split("Ptb", split)
        text = self._train_text if split == "train" else self._read(split)
        with self.files.decoding(self.names[split]):
            tokens = self.tokenizer.encode(text)
        return self.sizes.cut(self.files.folder, split, tokens)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Return the word ids of texts of equal length; words are normalised by `PtbVocabulary.known`."""
        tokens = []
        for text in inputs:
            try:
                tokens.append(self.tokenizer.encode(" ".join(self.tokenizer.known(text))))
            except ValueError as err:
                raise UserInputError(f"{text!r}: {err}") from err
        return stack_prompts(inputs, tokens)

    def example(self, batch_size: int) -> Batch:
        inputs, targets = torch.zeros(2, batch_size, self.sizes.context_tokens, dtype=torch.int64)
        return inputs, targets

    @cached_property
    def tokenizer(self) -> PtbVocabulary:
        """Converts between text and tokens; reads the training file at the first use.

        Raises:
            DataError: as `load`.
        """
        vocabulary = PtbVocabulary(rank_words(split_words(self._train_text)))
        if len(vocabulary.kinds) > self.vocab_size:
            raise DataError(
                f"data.vocab_size={self.vocab_size} is too small for the {len(vocabulary.kinds)} different words in "
                f"{self.names['train']}; every word needs an id; set data.vocab_size={len(vocabulary.kinds)}"
            )
        return vocabulary

    def save_reader(self) -> Any:
        return list(self.tokenizer.kinds)

    def restore_reader(self, saved: Any) -> None:
        self.tokenizer = PtbVocabulary(saved)

    @cached_property
    def _train_text(self) -> str:
        return self._read("train")

    def _read(self, split: str) -> str:
        return self.files.read_text(self.names[split])


def split_words(text: str) -> list[str]:
    """Split a text at white space, with ``<eos>`` for every line end."""
    return text.replace("\n", f" {_LINE_END} ").split()
