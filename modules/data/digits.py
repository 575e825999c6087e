"""The handwritten digits that come with scikit-learn: no download, and training takes less than a minute on a laptop."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.tensors import TensorSplit, check_image_shape, check_split

_BOUNDS = {"train": (0, 1297), "val": (1297, 1497), "test": (1497, 1797)}


class Digits:
    """1,797 grey images of 8x8 in [0, 1] and their digits: 1,297 to train, 200 to validate, 300 to test.

    Source: Alpaydin and Kaynak 1998, doi:10.24432/C50P49 (the test part of the UCI set).
    """

    is_component = True

    takes: Final = "image"

    def __init__(self, num_train: int, image_shape: Sequence[int], num_features: int, num_classes: int) -> None:
        """
        Args:
            num_train: the first images to train on, at most 1,297.
            image_shape: [1, 8, 8].
            num_features: 64.
            num_classes: 10.
        """
        self.image_shape = check_image_shape("Digits", image_shape, num_features)
        if self.image_shape != (1, 8, 8) or num_classes != 10:
            raise ValueError(
                f"Digits has image_shape=[1, 8, 8] and num_classes=10, but got {list(image_shape)} and {num_classes}"
            )
        if not 1 <= num_train <= _BOUNDS["train"][1]:
            raise ValueError(f"Digits wants data.num_train from 1 to {_BOUNDS['train'][1]}, but got {num_train}")
        self.num_train = num_train

    def load(self, split: str) -> TensorSplit:
        check_split("Digits", split)
        table = _read_table()
        # Not the seed of the training: it would move images between splits. NumPy keeps RandomState's sequence stable.
        order = np.random.RandomState(0).permutation(len(table))
        first, last = (0, self.num_train) if split == "train" else _BOUNDS[split]
        chosen = torch.from_numpy(table[order[first:last]])
        return TensorSplit(chosen[:, :-1].float().div_(16).reshape(-1, *self.image_shape), chosen[:, -1].contiguous())

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read bright digits on a dark background; resize them to 8x8 and round to multiples of 1/16, as in the set."""
        from modules.data.image.user_images import read_fitted

        return read_fitted(inputs, self.image_shape).float().mul_(16 / 255).round_().div_(16)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)


@cache
def _read_table() -> np.ndarray:
    """int64 [1797, 65], 64 pixels in 0..16 and the digit, in the order of ``sklearn.datasets.load_digits``.

    Reads the file of scikit-learn, because the import of scikit-learn takes 1.4 s, as long as torch (2026-11-23).
    """
    spec = find_spec("sklearn")
    folders = (spec and spec.submodule_search_locations) or ["(scikit-learn is not installed)"]
    path = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(gzip.decompress(path.read_bytes()).decode().splitlines(), delimiter=",", dtype=np.int64)
    except OSError as err:
        raise DataError(
            f"data=digits: {path} cannot be read ({err}); the set comes with scikit-learn; "
            f"install it with `pip install scikit-learn`"
        ) from err
    assert table.shape == (1797, 65)
    return table
