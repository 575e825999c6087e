"""Photos in tar files, as ImageNet is often kept: few large files where a cluster's file system dislikes many small ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Generator, Tensor

from modules.data.base import Batch, DataError
from modules.data.image.image_crop import UnreadableError, image_crop
from modules.data.image.tar_index import TarIndex, tar_index
from modules.data.tensors import check_at_least, check_split


class ImageShards:
    """Photos and their classes from the shards of the WebDataset format, in any order.

    What is done to a photo: `image_crop.PhotoCut`. Source of the format: https://github.com/webdataset/webdataset.
    """

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
            folder: that of this set.
            shards: by split, train, val and test, which files of the folder: ``train-*.tar``.
            num_train: photos of the training split, which an epoch is counted by; None where only steps are counted.
            resize_size: shorter side of a photo before the cut.
            image_size: side of the square that the model sees.
            augment: cut anywhere and mirror by chance in training; evaluation, and training without it, see the middle.
            image_shape: [3, image_size, image_size].
            num_features: 3 * image_size * image_size.
            num_classes: classes lie below it.
            min_scale: training that augments cuts a part of any area from this share of the photo on; None: a square of
                the shrunk photo.
            mean: of red, green and blue in [0, 1], taken off.
            std: of them, divided by.
        """
        check_at_least("ImageShards", 1, num_classes=num_classes)
        self.cut = image_crop("ImageShards", resize_size, image_size, image_shape, num_features, min_scale, mean, std)
        if not folder:
            raise ValueError("ImageShards wants a folder below root, but got ''; set data.folder")
        if set(shards) != {"train", "val", "test"}:
            raise ValueError(
                f"ImageShards wants shards of train, val and test, but got {sorted(shards)}; one may be another's files"
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
                f"data.folder={self.folder!r}: {self.path / self.shards[split]} names no file; the set needs shards there; "
                f"set data.shards.{split}, or LATHE_DATA to the folder that holds {self.folder!r}"
            )
        index = tar_index(self.folder, paths)
        count, last = len(index.labels), int(index.labels.max(initial=-1))
        if count == 0 or last >= self.num_classes or int(index.labels.min()) < 0:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / self.shards[split]} has {count} photos with classes up to {last}, "
                f"but data.num_classes={self.num_classes}; set data.num_classes={max(1, last + 1)}"
            )
        if split == "train" and self.num_train not in (None, count):
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / self.shards[split]} has {count} photos, but "
                f"data.num_train={self.num_train}; epochs are counted by it; set data.num_train={count}"
            )
        return ShardSplit(self, paths, self.augment and split == "train", index)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """As `PhotoCut.read`."""
        return self.cut.read(inputs)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)


class ShardSplit:
    """Reads and decodes the photos of a batch from where they lie; worth worker processes."""

    in_memory = False

    def __init__(self, data: ImageShards, paths: Sequence[Path], distorts: bool, index: TarIndex) -> None:
        """
        Args:
            data: what is done to a photo.
            paths: the shards.
            distorts: cut and mirror by chance.
            index: of them.
        """
        self.data = data
        self.paths = list(paths)
        self.distorts = distorts
        self.index = index
        self.targets = torch.from_numpy(index.labels)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        numbers = indices.tolist()
        try:
            files = [self._read(number) for number in numbers]
            inputs = self.data.cut.batch(files, generator if self.distorts else None)
        except UnreadableError as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: photo {numbers[err.number]} in {self._shard(numbers[err.number])} cannot be "
                f"read as an image ({err.reason}); make the shard again"
            ) from err
        except OSError as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: {err.filename} cannot be read ({err.strerror}); every shard must be "
                "readable while training runs; bring it back"
            ) from err
        return inputs, self.targets.index_select(0, indices)

    def _read(self, number: int) -> bytes:
        # Opened every time: a set may have more shards than a process may have files, and decoding takes 100 times as long.
        file = os.open(self._shard(number), os.O_RDONLY)
        try:
            return os.pread(file, int(self.index.sizes[number]), int(self.index.offsets[number]))
        finally:
            os.close(file)

    def _shard(self, number: int) -> Path:
        return self.paths[int(self.index.shards[number])]
