"""The contract of a data set: splits that give batches by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from torch import Generator, Tensor

Tensors = Tensor | tuple[Tensor, ...]
Batch = tuple[Tensors, Tensors]  # (inputs, targets); the first dimension of every tensor is the batch

IGNORED: Final = -100
"""Class of a target that neither trains nor counts; torch's own ``ignore_index``."""


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


class Data(Protocol):
    """One data set. Building it is cheap and reads nothing: `load` does.

    A class that takes ``num_train``, the number of training examples, can be trained by epochs: the plan counts their steps
    without reading anything. One that has ``class_names`` after it was loaded says what an exported model calls its classes.
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
class Worded(Protocol):
    """A data set whose inputs are numbers of words."""

    @property
    def words(self) -> Sequence[str]:
        """The word of every number that is used; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...


class DataError(Exception):
    """The files of a data set are missing or not what they should be; the message says how to mend that."""
