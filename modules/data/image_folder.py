"""Photos in one folder per class, read on demand: for data sets larger than the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from modules.data.base import Batch
from modules.data.image.image_crop import make_image_crop
from modules.data.image.photo_folder import PHOTOS
from modules.data.own.folder_split import ClassFolderData
from modules.data.own.skipping import OnBadExample


class ImageFolder(ClassFolderData):
    """Photos of ``root/folder/{train,val,test}/CLASS/``; class ids follow the order of the names.

    See `ClassFolders` for the files that count as photos, and `ImageCrop` for how photos are cropped.
    """

    is_component = True
    auto_values = "modules.data.image.photo_folder.find_auto_values"

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
        group_pattern: str | None = None,
        on_bad_example: OnBadExample = "error",
        skipped: Sequence[str] = (),
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
            group_pattern: regular expression; photos with the same match in their paths below the folder of the split, such
                as the name of a person, are in the same part. Null: each photo counts alone.
            on_bad_example: "skip": photos that cannot be read are found when the experiment is composed, and left out.
                "error": the first of them ends the run.
            skipped: their paths below the folder of the data set.
        """
        self.crop = make_image_crop(
            "ImageFolder", resize_size, image_size, image_shape, num_features, min_scale, mean, std
        )
        super().__init__(
            "ImageFolder", PHOTOS, self.crop.batch, root, folder, num_train, num_classes, augment, split_folders,
            held_out_share, fold, num_folds, group_pattern, on_bad_example, skipped,
        )  # fmt: skip
        self.image_shape = tuple(image_shape)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read photos of a user, see `ImageCrop.read`."""
        return self.crop.read(inputs)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)
