"""Any data set in the form of torch: with ``__getitem__`` and ``__len__``, or an iterable to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import IterableDataset

from modules.data.adapters.iterable_stream import IterableStream
from modules.data.adapters.random_state import restored_globals, seed_globals
from modules.data.adapters.rows import select_fields, stack_rows
from modules.data.base import Batch, Collate, DataError, Split, Stream
from modules.data.tensors import check_split

MakeDataset = Callable[[], Any]


class TorchDataset:
    """Trains on data sets of torchvision, of Hugging Face `datasets`, or of your own.

    The global generators of torch, NumPy and Python are seeded for each example, so random transforms are the same on any
    number of replicas and after a resume.
    """

    is_component = True

    created_later: Final = ("train", "val", "test")  # a constructor of a data set may read files or download them

    def __init__(
        self,
        train: MakeDataset,
        val: MakeDataset,
        test: MakeDataset,
        example: Any = None,
        fields: Mapping[str, str | Sequence[str]] | None = None,
        collate: Collate | None = None,
        num_train: int | None = None,
        image_shape: Sequence[int] | None = None,
        num_features: int | None = None,
        num_classes: int | None = None,
        vocab_size: int | None = None,
        context_tokens: int | None = None,
    ) -> None:
        """
        Args:
            train: the class of the training set with its arguments; created when training starts.
            val: of the validation set, with ``__getitem__`` and ``__len__``.
            test: of the test set.
            example: shape and dtype of each part of an example, in the structure of a row, such as
                ``[{shape: [3, 32, 32], dtype: float32}, {shape: [], dtype: int64}]``. With a collate,
                sequences may be shorter. Null: a float32 image (or features) and a class.
            fields: ``{inputs: image, targets: label}`` for rows that are maps; null: rows are (inputs, targets), or the task
                takes batches that are maps.
            collate: makes a batch of a list of rows; null: stacks them. For a function, add ``_partial_: true``.
            num_train: number of training examples, needed for ``max_epochs``.
            image_shape: [channels, height, width], for models.
            num_features: for models.
            num_classes: for models.
            vocab_size: for models.
            context_tokens: for models.
        """
        if fields is not None and set(fields) != {"inputs", "targets"}:
            raise ValueError(
                f"TorchDataset wants fields as a map of inputs and targets, but got {sorted(fields)}; "
                "write {inputs: image, targets: label}"
            )
        if example is None and image_shape is None and num_features is None:
            raise ValueError(
                "TorchDataset wants the shapes of an example, but example, image_shape and num_features are null; set "
                "data.example=[{shape: [3, 32, 32], dtype: float32}, {shape: [], dtype: int64}] or the like"
            )
        shape = list(image_shape) if image_shape is not None else [num_features]
        default = [{"shape": shape, "dtype": "float32"}, {"shape": [], "dtype": "int64"}]
        self.parts = _read_parts(default if example is None else example)
        self.factories = {"train": train, "val": val, "test": test}
        self.fields, self.collate, self.num_train = fields, collate or stack_rows, num_train
        self.image_shape, self.num_features, self.num_classes = image_shape, num_features, num_classes
        self.vocab_size, self.context_tokens = vocab_size, context_tokens
        self.class_names: list[str] | None = None

    def load(self, split: str) -> Split | Stream:
        check_split("TorchDataset", split)
        dataset = self.factories[split]()
        names = getattr(dataset, "classes", None)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            self.class_names = names
        if _is_map_style(dataset):
            return self._load_split(split, dataset)
        if split != "train" or not hasattr(dataset, "__iter__"):
            wanted = "__getitem__ and __len__" + (
                ", or __iter__" if split == "train" else ", as evaluation counts its examples"
            )
            raise DataError(f"data.{split} is a {type(dataset).__name__}, but it needs {wanted}; name another class")
        return IterableStream(dataset, self.collate_rows)

    def example(self, batch_size: int) -> Batch:
        return cast(Batch, _zeros(self.parts, batch_size))

    def collate_rows(self, rows: list[Any]) -> Batch:
        """Make a batch of the rows of a data set."""
        return self.collate(rows if self.fields is None else [select_fields(row, self.fields) for row in rows])

    def _load_split(self, split: str, dataset: Any) -> DatasetSplit:
        if split == "train" and self.num_train not in (None, len(dataset)):
            raise DataError(
                f"data.num_train={self.num_train} is not the number of training examples, {len(dataset)}; it is the length of an "
                f"epoch; set data.num_train={len(dataset)}"
            )
        loaded = DatasetSplit(dataset, self.collate_rows)
        if len(dataset):
            self._check_first(split, loaded.batch(torch.tensor([0]), torch.tensor([0])))
        return loaded

    def _check_first(self, split: str, batch: Batch) -> None:
        """Compare a batch of one row with the configured example."""
        (wanted, wanted_tree), (given, given_tree) = tree_flatten(self.example(1)), tree_flatten(batch)
        is_ragged = self.collate is not stack_rows
        if wanted_tree != given_tree or not all(map(partial(_fits, is_ragged), wanted, given)):
            raise DataError(
                f"data.{split}: the first row gives {_describe(batch)}, but data.example says {_describe(self.example(1))}; "
                "set data.example (or image_shape, or fields) to what the rows are"
            )


class DatasetSplit:
    """A data set with ``__getitem__`` and ``__len__``."""

    in_memory = False

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        rows = []
        with restored_globals():
            for index, seed in zip(indices.tolist(), seeds.tolist(), strict=True):
                seed_globals(seed)
                rows.append(self.dataset[index])
        return self.collate(rows)


def _is_map_style(dataset: Any) -> bool:
    is_iterable = isinstance(dataset, IterableDataset)  # which may have a length, and a __getitem__ that only raises
    return not is_iterable and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _read_parts(example: Any) -> Any:
    """The same structure, with a shape and a dtype for each tensor."""
    if isinstance(example, Mapping) and "shape" in example:
        dtype = getattr(torch, str(example.get("dtype", "float32")), None)
        if not isinstance(dtype, torch.dtype) or not set(example) <= {"shape", "dtype"}:
            raise ValueError(
                f"TorchDataset wants each part of example as a shape and a dtype of torch, but got {dict(example)}; "
                "write {shape: [3, 32, 32], dtype: float32}"
            )
        return tuple(example["shape"]), dtype
    if isinstance(example, Mapping) and example:
        return {name: _read_parts(part) for name, part in example.items()}
    if isinstance(example, list | tuple) and example:
        return [_read_parts(part) for part in example]
    raise ValueError(
        f"TorchDataset wants example as a list or map of parts with a shape, but got {example!r}; "
        "write [{shape: [3, 32, 32], dtype: float32}, {shape: [], dtype: int64}]"
    )


def _zeros(parts: Any, batch_size: int) -> Any:
    if isinstance(parts, dict):
        return {name: _zeros(part, batch_size) for name, part in parts.items()}
    if isinstance(parts, list):
        return tuple(_zeros(part, batch_size) for part in parts)
    shape, dtype = parts
    return torch.zeros(batch_size, *shape, dtype=dtype)


def _fits(is_ragged: bool, wanted: Tensor, given: object) -> bool:
    """Whether a tensor is as promised; a ragged one may be smaller."""
    if not isinstance(given, Tensor) or wanted.dtype != given.dtype or wanted.dim() != given.dim():
        return False
    sizes = zip(wanted.shape, given.shape, strict=True)
    return all(most >= size if is_ragged else most == size for most, size in sizes)


def _describe(batch: Any) -> str:
    """Types and shapes of one example, such as ``(float32 [3, 32, 32], int64 [])``."""
    if isinstance(batch, Mapping):
        return f"{{{', '.join(f'{name}: {_describe(part)}' for name, part in batch.items())}}}"
    if isinstance(batch, tuple | list):
        return f"({', '.join(map(_describe, batch))})"
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape[1:])}"
    return type(batch).__name__
