"""Photos in one folder per class, read on demand: for data sets larger than the memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, ComponentWarning, DataError
from modules.data.image.class_folders import ClassFolders, count
from modules.data.image.decoding import ENDINGS
from modules.data.image.image_crop import UnreadableError, make_image_crop
from modules.data.own.folds import check_fold
from modules.data.tensors import check_at_least, check_split


class ImageFolder:
    """Photos of ``root/folder/{train,val,test}/CLASS/``; class ids follow the order of the names.

    See `ClassFolders` for the files that count as photos, and `ImageCrop` for how photos are cropped.
    """

    is_component = True
    auto_values = "modules.data.image.class_folders.find_auto_values"

    takes: Final = "image"

    def __init__(
        self,
        root: str,
        folder: str,
        num_train: int | None,
        resize_size: int,
        image_size: int,
        augment: bool,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
        min_scale: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        split_folders: Mapping[str, str] | None = None,
        held_out_share: float = 0.0,
        fold: int | None = None,
        num_folds: int = 5,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: the folder of this data set below root.
            num_train: number of training photos, the length of an epoch; None: training counts steps only.
            resize_size: shorter side of a photo before the crop.
            image_size: side of the square crop.
            augment: crop and mirror training photos at random; otherwise, and in evaluation, crop the centre.
            image_shape: [3, image_size, image_size].
            num_features: 3 * image_size * image_size.
            num_classes: number of folders of the training split.
            min_scale: random crops have at least this fraction of the area of a photo; None: random crops are squares of
                the resized photo.
            mean: of red, green and blue in [0, 1], subtracted.
            std: of red, green and blue, the divisor.
            split_folders: folder by split; the default is the name of the split. With `auto`, usual names such as
                "validation" are found; a split without a folder gets that of "train", and this is "." if the folders of the
                classes are in the folder of the data set.
            held_out_share: of the photos of a class, for each split that has the folder of "train"; 0: the same photos.
            fold: for cross-validation, which part of the photos of a class besides the test's validates, from 0; None: none.
            num_folds: number of these parts.
        """
        check_fold("ImageFolder", fold, num_folds)
        check_at_least("ImageFolder", 1, num_classes=num_classes)
        self.crop = make_image_crop(
            "ImageFolder", resize_size, image_size, image_shape, num_features, min_scale, mean, std
        )
        if not folder:
            raise ValueError("ImageFolder wants a folder below root, but got ''; set data.folder")
        folders = {"train": "train", "val": "val", "test": "test", **(split_folders or {})}
        if unknown := sorted(folders.keys() - {"train", "val", "test"}):
            raise ValueError(
                f"ImageFolder wants split_folders of train, val and test, but got {unknown}; leave them out"
            )
        if not 0 <= held_out_share < 0.5:
            raise ValueError(f"ImageFolder wants held_out_share of at least 0 and below 0.5, but got {held_out_share}")
        self.folder = folder
        self.num_train = num_train
        self.path = Path(root).expanduser().absolute() / folder
        self.folders = ClassFolders(self.path, folder, folders, held_out_share, fold, num_folds)
        self.augment = augment
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes

    def load(self, split: str) -> ImageSplit:
        check_split("ImageFolder", split)
        own = self.folders.split_folders[split]
        try:
            classes = self.folders.classes()
            if len(classes) != self.num_classes:
                raise ValueError(
                    f"data.folder={self.folder!r}: {self.path / self.folders.split_folders['train']} has {len(classes)} folders, "
                    f"but data.num_classes={self.num_classes}; every class needs one folder; set data.num_classes={len(classes)}"
                )
            self.class_names = classes
            names, targets, dropped = self.folders.photos(split)
            if split == "train" and self.num_train not in (None, len(names)):
                raise ValueError(
                    f"data.folder={self.folder!r}: {self.path / own} has {len(names)} images, but "
                    f"data.num_train={self.num_train}; it is the length of an epoch; set data.num_train={len(names)}"
                )
        except ValueError as err:
            raise DataError(str(err)) from err
        if dropped:
            warnings.warn(
                f"data.folder={self.folder!r}: {self.path / own} has {len(names)} photos and {dropped.total()} other files, "
                f"which are left out ({count(dropped)}); photos end in {', '.join(ENDINGS)}",
                ComponentWarning,
                stacklevel=2,
            )
        paths = np.array([os.fsencode(name) for name in names])
        return ImageSplit(self, self.path / own, self.augment and split == "train", paths, torch.tensor(targets))

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read photos of a user, see `ImageCrop.read`."""
        return self.crop.read(inputs)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)


class ImageSplit:
    """Reads and decodes the photos of a batch, which is slow enough for worker processes."""

    in_memory = False

    def __init__(self, data: ImageFolder, path: Path, is_augmented: bool, names: np.ndarray, targets: Tensor) -> None:
        """
        Args:
            data: its arguments say how photos are cropped.
            path: the folder of the split.
            is_augmented: crop and mirror at random.
            names: bytes [images], paths below the folder of the split. An array: reference counts of a list would make
                every worker copy the list, page by page.
            targets: int64 [images].
        """
        self.data = data
        self.path = path
        self.is_augmented = is_augmented
        self.names = names
        self.targets = targets

    def __len__(self) -> int:
        return len(self.names)

    def file_sizes(self) -> np.ndarray:
        """Bytes of every file, int64 [images]; 0 for a file that is gone."""
        sizes = np.zeros(len(self.names), np.int64)
        for number, name in enumerate(self.names):
            with suppress(OSError):
                sizes[number] = os.stat(os.path.join(os.fsencode(self.path), name)).st_size
        return sizes

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        paths = [self.path / os.fsdecode(self.names[index]) for index in indices.tolist()]
        try:
            inputs = self.data.crop.batch(paths, seeds if self.is_augmented else None)
        except UnreadableError as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: {paths[err.number]} cannot be read as an image ({err.reason}); every file "
                f"of a split must be an image; replace or remove it"
            ) from err
        return inputs, self.targets.index_select(0, indices)
