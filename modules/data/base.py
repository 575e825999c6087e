"""The contract of a data set: splits that give batches by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from torch import Generator, Tensor

Tensors = Tensor | tuple[Tensor, ...]
Batch = tuple[Tensors, Tensors]  # (inputs, targets); the first dimension of every tensor is the batch

IGNORED: Final = -100
"""Class of a target that neither trains nor counts; torch's own ``ignore_index``."""


PADDING, START, END, UNKNOWN = 0, 1, 2, 3
"""Numbers of words that every vocabulary of texts to write has first: what fills up a short text, begins one, ends one, and
stands for a word without a number."""


class Split(Protocol):
    """Examples that can be fetched in any order; which come when is not the split's affair."""

    in_memory: bool
    """True where `batch` only slices tensors; False where it reads or decodes, so that workers are worth their cost."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        """Fetch examples.

        Args:
            indices: int64 [batch], each in ``[0, len(self))``.
            generator: the only source of randomness (augmentation) that the split may use.
        """
        ...


@runtime_checkable
class Ordered(Protocol):
    """A split that brings examples of like size together, so that little of a batch is padding."""

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """The order of one epoch of training, int64 [len(self)]: every example once.

        Args:
            batch_size: examples of a step, over all devices.
            generator: all that it may depend on beside.
        """
        ...


class Data(Protocol):
    """One data set. Building it is cheap and reads nothing: `load` does.

    A class that takes ``num_train``, the number of training examples, can be trained by epochs: the plan counts their steps
    without reading anything. One that has ``class_names`` after it was loaded says what an exported model calls its classes;
    who predicts gives them back to it, so that nothing need be loaded for them.
    """

    def load(self, split: str) -> Split:
        """Read one split.

        Args:
            split: "train", "val" or "test".

        Raises:
            DataError: a file is missing, damaged or not what its sha256 says.
        """
        ...

    def example(self, batch_size: int) -> Batch:
        """A batch of zeros with the shapes and dtypes of training, made without reading a file."""
        ...


@runtime_checkable
class HasVocabulary(Protocol):
    """A data set whose inputs are numbers of words."""

    @property
    def words(self) -> Sequence[str]:
        """The word of every number that is used; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...


@runtime_checkable
class Tokenized(Protocol):
    """A data set whose inputs are tokens of a text, which goes on after them."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Between text and tokens; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...


class Tokenizer(Protocol):
    @property
    def num_tokens(self) -> int:
        """Numbers that are in use, from 0; a model may have more."""
        ...

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens, int64 [tokens]."""
        ...


@runtime_checkable
class InputReader(Data, Protocol):
    """Data whose inputs a user can give to a trained model."""

    @property
    def takes(self) -> Literal["text", "image"]:
        """What an input is given by: a line of text, or the path of an image file."""
        ...

    def read(self, given: Sequence[str]) -> Tensors:
        """Inputs as those of evaluation, from what is no part of the data set.

        An image is resized, cut and scaled as there, whatever its size and mode; a text gets the numbers of the training's
        vocabulary.

        Args:
            given: as many lines, or paths, as there are examples; at least one. Where lengths differ, shorter texts are padded
                as in a batch of evaluation; data whose batches know no padding refuses them together.

        Returns:
            The inputs of a batch, in this order.

        Raises:
            GivenError: one of them is no input.
            DataError: a file that this needs, with the vocabulary say, is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class Pair:
    """A text, and what it may be translated to."""

    split: str
    index: int
    """Its place in the split."""
    source: str
    references: tuple[str, ...]


@runtime_checkable
class ParallelCorpus(Protocol):
    """A data set of texts and their translations.

    Its inputs are the source's words and the target's so far, int64 [batch, time] each; its targets the word that follows
    each of these, or `IGNORED`, and the numbers of the pairs, int64 [batch].
    """

    def pair(self, number: int) -> Pair:
        """The text itself; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...

    def target_text(self, words: Tensor) -> str:
        """What a model has written.

        Args:
            words: int64 [time], up to the first `END`, if there is one.
        """
        ...


class UserInputError(ValueError):
    """What a user gave is no input; the message names it, the rule and the way out."""


class DataError(Exception):
    """The files of a data set are missing or not what they should be; the message says how to mend that."""
