"""MNIST-1D: digits as signals of 40 values; training takes seconds, and models still differ in accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from modules.data.base import Batch
from modules.data.files import DataFiles
from modules.data.tensors import TensorSplit, check_at_least, check_labels, check_numbers, check_split, hold_back


class Mnist1d:
    """Signals, float [40], and their digits. The last signals of the training part are the validation split.

    Source: Greydanus and Kobak 2020, arXiv:2011.14439.
    """

    is_component = True

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_train: int,
        num_val: int,
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of the archive.
            num_train: the first signals of the training part, to train on.
            num_val: the last signals of the training part, to validate on.
            num_features: 40.
            num_classes: 10.
        """
        if len(files) != 1:
            raise ValueError(f"Mnist1d wants one archive in data.files, but got {sorted(files)}")
        check_at_least("Mnist1d", 1, num_train=num_train, num_val=num_val, num_features=num_features)
        check_at_least("Mnist1d", 1, num_classes=num_classes)
        self.files = DataFiles(root, folder, files)
        (self.name,) = files
        self.num_train, self.num_val = num_train, num_val
        self.num_features = num_features
        self.num_classes = num_classes

    def load(self, split: str) -> TensorSplit:
        check_split("Mnist1d", split)
        members = self.files.read_npz(self.name)
        with self.files.decoding(self.name):
            signals, digits = (members[name] for name in (("x_test", "y_test") if split == "test" else ("x", "y")))
            check_numbers("signals", signals)
            check_labels(digits)
            if signals.shape != (len(digits), self.num_features) or int(digits.max()) >= self.num_classes:
                raise ValueError(
                    f"it has signals {list(signals.shape)} in {int(digits.max()) + 1} classes, but data.num_features "
                    f"is {self.num_features} and data.num_classes {self.num_classes}"
                )
            inputs, targets = torch.from_numpy(signals.astype(np.float32)), torch.from_numpy(digits.astype(np.int64))
        if split != "test":
            inputs, targets = hold_back(split, inputs, targets, self.num_train, self.num_val)
        return TensorSplit(inputs, targets)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, self.num_features), torch.zeros(batch_size, dtype=torch.int64)
