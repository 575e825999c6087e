"""The contract of a data set: splits that return batches by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map_only

Tensors = Tensor | tuple[Tensor, ...]
Batch = tuple[Tensors, Tensors]  # (inputs, targets); the first dimension of every tensor is the batch
Tree = Any
"""Tensors in tuples, lists and dicts; the first dimension of every tensor is the batch. Supervised learning uses `Batch`."""


def slice_rows(batch: Tree, rows: slice) -> Tree:
    """Take some examples of a batch."""
    return tree_map_only(Tensor, lambda tensor: tensor[rows], batch)


IGNORED: Final = -100
"""Class of a target that losses and metrics leave out; torch's default ``ignore_index``."""


PADDING, START, END, UNKNOWN = 0, 1, 2, 3
"""The first token ids of every vocabulary for text generation; `UNKNOWN` replaces a word that has no id."""


class Split(Protocol):
    """Examples that can be fetched in any order; the sampler decides the order."""

    in_memory: bool
    """True if `batch` only slices tensors; False if it reads or decodes files, so that data workers pay off."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        """Fetch examples.

        Args:
            indices: int64 [batch], each in ``[0, len(self))``.
            seeds: int64 [batch], at least 0: the only source of randomness (augmentation) that the split may use. An example
                gets the same seed on any number of replicas and workers, and another one in every epoch. See
                `modules.data.sampling.example_random.ExampleRandom`.

        Returns:
            The examples, in the order of ``indices``. Each depends on its own index and seed only; padding may depend on
            the batch, as every replica fetches only its own examples.
        """
        ...


@dataclass(frozen=True)
class StreamShard:
    """The rows of a global batch that one replica gets."""

    number: int
    """Of the replica, from 0."""
    count: int
    """Number of replicas."""
    size: int
    """Examples that the replica gets in a step; the global batch has ``count * size``."""

    def first_example(self, step: int) -> int:
        """Position of the replica's first example of a step in the whole stream, from 0."""
        return (step * self.count + self.number) * self.size


class Stream(Protocol):
    """Training data without an end and without a length. `Data.load` may return it for "train".

    A batch is a function of the step, so a checkpoint needs no state of the stream, and a resumed run gets the same batches.

    Example::

        class Sums:
            in_memory = True

            def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
                numbers = ExampleRandom(example_seeds(seed, shard.first_example(step), shard.size)).uniform(2)
                return numbers, numbers.sum(1)
    """

    in_memory: bool
    """False if data workers pay off. With ``is_sequential = True``, all batches are read by one worker in their order."""

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        """Return a replica's examples of a step.

        Args:
            step: counted from 0.
            shard: the rows of the global batch that the replica gets. Let an example depend on its position in the stream
                only; then it is the same on any number of replicas.
            seed: the only source of randomness, the same for all steps and replicas; see
                `modules.data.sampling.example_random.example_seeds`.
        """
        ...


Collate = Callable[[list[Any]], Batch]
"""Makes a batch of the rows of a data set."""


def has_method(instance: object, name: str) -> bool:
    """Whether the class of an object has a method. An attribute of this name, such as ``self.layers = [...]``, does not count."""
    return callable(getattr(type(instance), name, None))


@runtime_checkable
class ReadsFiles(Protocol):
    """A split that reads one file per example. Its digest covers their sizes."""

    def file_sizes(self) -> np.ndarray:
        """Bytes of the file of every example, int64 [examples]."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """A split that puts examples of similar length into one batch, to reduce padding."""

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """Return the order of one epoch of training, int64 [len(self)]: every example once.

        Args:
            batch_size: examples of a step, over all devices.
            generator: the only source of randomness.
        """
        ...


@runtime_checkable
class Collector(Protocol):
    """Training data that come from the model itself: steps in an environment, self-play, examples chosen by their loss.

    Each replica collects the same global batch and trains on its own part, so the result does not depend on the layout.
    The class of the data set has the attribute ``needs = ("collector",)``.
    """

    def collect(self, model: nn.Module, step: int, batch_size: int, generator: Generator) -> Tree:
        """Make the batch of one step.

        Args:
            model: with the weights after ``step`` steps, in training mode; gradients are off.
            step: counted from 0.
            batch_size: examples of the global batch.
            generator: depends on the seed and the step, and is the only source of randomness besides the model's dropout.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that later batches depend on, such as a replay buffer: tensors, numbers and texts, in lists and maps."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class Data(Protocol):
    """A data set. The constructor is cheap and reads no files; `load` reads them.

    With a constructor argument ``num_train``, the number of training examples, a plan can count the steps of an epoch without
    reading files. If the object has ``class_names`` after `load`, an exported model uses these names, and `lathe predict` sets
    them on a data set that is not loaded.

    Example::

        class Line:
            def load(self, split: str) -> TensorSplit:
                x = torch.linspace(0, 1, 100)[:, None]
                return TensorSplit(x, (x[:, 0] > 0.5).long())

            def example(self, batch_size: int) -> Batch:
                return torch.zeros(batch_size, 1), torch.zeros(batch_size, dtype=torch.int64)
    """

    def load(self, split: str) -> Split:
        """Read one split.

        Args:
            split: "train", "val" or "test". "train" may also return a `Stream`, or a `Collector` that makes
                the training data from the model.

        Raises:
            DataError: a file is missing or damaged, or its sha256 is wrong.
        """
        ...

    def example(self, batch_size: int) -> Batch:
        """Return a batch of zeros with the shapes and dtypes of training, without reading files."""
        ...


@runtime_checkable
class HasVocabulary(Protocol):
    """A data set whose inputs are word ids."""

    @property
    def words(self) -> Sequence[str]:
        """The word of every id; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...


@runtime_checkable
class Tokenized(Protocol):
    """A data set whose inputs are tokens of a text, for models that continue it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Converts between text and tokens; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...


class Tokenizer(Protocol):
    @property
    def num_tokens(self) -> int:
        """Number of token ids in use; the model's vocabulary may be larger."""
        ...

    def decode(self, tokens: Tensor) -> str:
        """Return the text of tokens, int64 [tokens]."""
        ...


@runtime_checkable
class InputReader(Data, Protocol):
    """A data set that can also read inputs of a user, for `lathe predict`."""

    @property
    def takes(self) -> Literal["text", "image", "audio", "row"]:
        """The kind of an input: a line of text, the path of an image or WAV file, or a row of a table as a JSON object."""
        ...

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Read inputs of a user in the form that the model gets in evaluation.

        Images of any size and mode are resized, cropped and scaled. Texts get the ids of the training vocabulary.

        Args:
            inputs: texts or paths, at least one. Shorter texts are padded as in evaluation; a data set without padding
                refuses texts of different lengths.

        Returns:
            The inputs of a batch, in order.

        Raises:
            UserInputError: one of the inputs cannot be read.
            DataError: a file of the data set is needed, such as that of the vocabulary, but missing or damaged.
        """
        ...


@runtime_checkable
class SavesReader(InputReader, Protocol):
    """An `InputReader` whose `read` needs the files of the data set, such as for a vocabulary.

    An exported model has what it saves, and not the files.
    """

    def save_reader(self) -> Any:
        """Return all that `read`, and the evaluator for its predictions, need of the files, as plain JSON values.

        Raises:
            DataError: as `Data.load`.
        """
        ...

    def restore_reader(self, saved: Any) -> None:
        """Use what `save_reader` returned. After it, `read` needs no file."""
        ...


@runtime_checkable
class SkipsBadExamples(Protocol):
    """A data set with the argument ``on_bad_example``, which is "error" or "skip"."""

    def find_faults(self) -> list[str]:
        """Name each example that is skipped, and the reason."""
        ...

    def find_odd_files(self) -> list[str]:
        """Name each file that is ignored, or is odd in another way, and the reason."""
        ...


@dataclass(frozen=True)
class Pair:
    """An input and the texts that are right for it, such as a sentence and its translations."""

    split: str
    index: int
    """Position in the split."""
    source: str
    """A text, or the file name of a photo or a recording."""
    references: tuple[str, ...]


@runtime_checkable
class HasReferences(Protocol):
    """A data set whose targets are texts: translations, captions, transcripts.

    Inputs: one or more tensors of the source, and the target tokens shifted by one, int64 [batch, time]. Targets: the next
    target tokens, or `IGNORED`, int64 [batch, time], and the pair ids, int64 [batch].
    """

    def pair(self, number: int) -> Pair:
        """Return the texts of a pair id; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...

    def target_text(self, words: Tensor) -> str:
        """Return the text of generated tokens.

        Args:
            words: int64 [time]; tokens after the first `END` are left out.
        """
        ...


class UserInputError(ValueError):
    """An input of a user cannot be used; the message names the input, the rule and the fix."""


class ComponentWarning(UserWarning):
    """Something that the user of a run should know, raised with `warnings.warn`; the run lists it among its warnings."""


class DataError(Exception):
    """Files of a data set are missing or wrong; the message says how to fix that."""
