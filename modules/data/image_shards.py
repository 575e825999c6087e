"""Photos in tar files: few large files, for file systems of clusters, which are slow with many small files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.image.image_crop import make_image_crop
from modules.data.image.tar_index import TarIndex, tar_index
from modules.data.own.folder_split import UnreadableError
from modules.data.tensors import check_at_least, check_split


class ImageShards:
    """Photos and their classes from shards in the WebDataset format, with random access.

    See `ImageCrop` for how photos are cropped. Source of the format: https://github.com/webdataset/webdataset.
    """

    is_component = True

    takes: Final = "image"

    def __init__(
        self,
        root: str,
        folder: str,
        shards: Mapping[str, str],
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
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: the folder of this data set below root.
            shards: for the splits train, val and test, a pattern of files in the folder, such as ``train-*.tar``.
            num_train: number of training photos, the length of an epoch; None: training counts steps only.
            resize_size: shorter side of a photo before the crop.
            image_size: side of the square crop.
            augment: crop and mirror training photos at random; otherwise, and in evaluation, crop the centre.
            image_shape: [3, image_size, image_size].
            num_features: 3 * image_size * image_size.
            num_classes: class ids are lower.
            min_scale: random crops have at least this fraction of the area of a photo; None: random crops are squares of
                the resized photo.
            mean: of red, green and blue in [0, 1], subtracted.
            std: of red, green and blue, the divisor.
        """
        check_at_least("ImageShards", 1, num_classes=num_classes)
        self.crop = make_image_crop(
            "ImageShards", resize_size, image_size, image_shape, num_features, min_scale, mean, std
        )
        if not folder:
            raise ValueError("ImageShards wants a folder below root, but got ''; set data.folder")
        if set(shards) != {"train", "val", "test"}:
            raise ValueError(
                f"ImageShards wants shards of train, val and test, but got {sorted(shards)}; two splits may name the same files"
            )
        self.folder = folder
        self.shards = dict(shards)
        self.num_train = num_train
        self.path = Path(root).expanduser().absolute() / folder
        self.augment = augment
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes

    def load(self, split: str) -> ShardSplit:
        check_split("ImageShards", split)
        paths = sorted(self.path.glob(self.shards[split]))
        if not paths:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / self.shards[split]} matches no file; the data set needs shards "
                f"there; set data.shards.{split}, or LATHE_DATA to the folder that holds {self.folder!r}"
            )
        index = tar_index(self.folder, paths)
        count, first, last = len(index.labels), int(index.labels.min(initial=0)), int(index.labels.max(initial=-1))
        fix = "number them so" if first < 0 else f"set data.num_classes={max(1, last + 1)}"
        if count == 0 or first < 0 or last >= self.num_classes:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / self.shards[split]} has {count} photos with classes from {first} to "
                f"{last}, but data.num_classes={self.num_classes}; classes are numbered from 0, so {fix}"
            )
        if split == "train" and self.num_train not in (None, count):
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / self.shards[split]} has {count} photos, but "
                f"data.num_train={self.num_train}; it is the length of an epoch; set data.num_train={count}"
            )
        return ShardSplit(self, paths, self.augment and split == "train", index)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read photos of a user, see `ImageCrop.read`."""
        return self.crop.read(inputs)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)


class ShardSplit:
    """Reads and decodes the photos of a batch from the shards, which is slow enough for worker processes."""

    in_memory = False

    def __init__(self, data: ImageShards, paths: Sequence[Path], is_augmented: bool, index: TarIndex) -> None:
        """
        Args:
            data: its arguments say how photos are cropped.
            paths: the shards.
            is_augmented: crop and mirror at random.
            index: of the shards.
        """
        self.data = data
        self.paths = list(paths)
        self.is_augmented = is_augmented
        self.index = index
        self.targets = torch.from_numpy(index.labels)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        numbers = indices.tolist()
        try:
            files = [self._read(number) for number in numbers]
            inputs = self.data.crop.batch(files, seeds if self.is_augmented else None)
        except UnreadableError as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: photo {numbers[err.number]} in {self._shard(numbers[err.number])} cannot be "
                f"read as an image ({err.reason}); create the shard again"
            ) from err
        except OSError as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: {err.filename} cannot be read ({err.strerror}); every shard must be "
                "readable while training runs; restore it"
            ) from err
        return inputs, self.targets.index_select(0, indices)

    def _read(self, number: int) -> bytes:
        # Opens the file every time: there may be more shards than a process may open, and decoding takes 100 times as long.
        file = os.open(self._shard(number), os.O_RDONLY)
        try:
            return os.pread(file, int(self.index.sizes[number]), int(self.index.offsets[number]))
        finally:
            os.close(file)

    def _shard(self, number: int) -> Path:
        return self.paths[int(self.index.shards[number])]
