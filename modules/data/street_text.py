"""Synthetic scene text: words rendered onto photos, with a mask of the letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.files import DataFiles
from modules.data.image.encoded_images import check_members, decode_all
from modules.data.image.masked_images import mean_and_deviation, read_whole
from modules.data.image.scene_text import Lettering
from modules.data.tensors import check_at_least, check_image_shape, check_split

_SPLITS = ("train", "val", "test")


class StreetText:
    """Photos with rendered words; class 1 is a letter. An example depends only on the seed, the split and its index.

    The splits use different photos.
    """

    is_component = True

    takes: Final = "image"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        photos: Sequence[str],
        words: Sequence[str],
        max_words: int,
        letter_sizes: Sequence[int],
        seed: int,
        num_train: int,
        num_val: int,
        num_test: int,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of the photos.
            files: name to sha256 of the archives of photos.
            photos: [bytes, offsets]: the members with the concatenated encoded photos and with their start offsets.
            words: the words to render.
            max_words: maximum number of words on a photo; the minimum is 0.
            letter_sizes: the smallest and the largest font size, in pixels.
            seed: of all examples.
            num_train: examples of one epoch.
            num_val: examples to validate on, from a tenth of the photos.
            num_test: examples to test on, from another tenth.
            image_shape: [3, height, width].
            num_features: the product of image_shape.
            num_classes: 2.
        """
        self.image_shape = check_image_shape("StreetText", image_shape, num_features)
        check_at_least("StreetText", 1, num_train=num_train, num_val=num_val, num_test=num_test, max_words=max_words)
        check_at_least("StreetText", 0, seed=seed)
        check_members("StreetText", photos=photos)
        if self.image_shape[0] != 3 or num_classes != 2:
            raise ValueError(
                f"StreetText wants image_shape with 3 channels and num_classes=2, but got {list(image_shape)} and {num_classes}"
            )
        if not words or any(not word.strip() for word in words):
            raise ValueError(f"StreetText wants words to render, none of them empty, but got {list(words)}")
        if len(letter_sizes) != 2 or not 4 <= letter_sizes[0] <= letter_sizes[1]:
            raise ValueError(
                f"StreetText wants letter_sizes as [smallest, largest] of at least 4 pixels, but got {list(letter_sizes)}"
            )
        self.files, self.photos = DataFiles(root, folder, files), photos
        self.lettering = Lettering(tuple(words), max_words, (letter_sizes[0], letter_sizes[1]))
        self.seed = seed
        self.sizes = dict(zip(_SPLITS, (num_train, num_val, num_test), strict=True))
        self._decoded: list[np.ndarray] = []  # all splits are decoded together, once

    def load(self, split: str) -> StreetTextSplit:
        check_split("StreetText", split)
        photos = self._all()
        # NumPy keeps RandomState's sequence stable.
        order = np.random.RandomState(self.seed).permutation(len(photos))
        tenth = max(1, len(photos) // 10)
        parts = {"train": order[: -2 * tenth], "val": order[-2 * tenth : -tenth], "test": order[-tenth:]}
        return StreetTextSplit(self, split, [photos[number] for number in parts[split]])

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read whole photos. The model finds letters of the sizes in training, so shrink large photos before."""
        return read_whole(inputs, 3, self.image_shape[1:])

    def example(self, batch_size: int) -> Batch:
        return (
            torch.zeros(batch_size, *self.image_shape),
            torch.zeros(batch_size, *self.image_shape[1:], dtype=torch.int64),
        )

    def _all(self) -> list[np.ndarray]:
        if not self._decoded:
            photos: list[np.ndarray] = []
            for name in sorted(self.files.files):
                members = self.files.read_npz(name)
                with self.files.decoding(name):
                    photos += decode_all(members, self.photos, "RGB")
            if len(photos) < 3:
                raise DataError(
                    f"data.folder={self.files.folder!r} has {len(photos)} photos, but every split needs one of its own; "
                    "name archives with more photos in data.files"
                )
            self._decoded = photos
        return self._decoded


class StreetTextSplit:
    """Generates the examples of a batch; use data workers."""

    in_memory = False

    def __init__(self, data: StreetText, split: str, photos: Sequence[np.ndarray]) -> None:
        self.data, self.photos = data, photos
        self.number, self.size = _SPLITS.index(split), data.sizes[split]

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        examples = [self.draw(index) for index in indices.tolist()]
        return torch.stack([inputs for inputs, _ in examples]), torch.stack([targets for _, targets in examples])

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Generate one example: float [3, height, width] of mean 0 and variance 1, and int64 [height, width]."""
        rng = np.random.RandomState([self.data.seed, self.number, index])
        _, height, width = self.data.image_shape
        photo = Image.fromarray(self.photos[rng.randint(len(self.photos))])
        pixels, mask = self.data.lettering.paste(_random_crop(photo, (width, height), rng), rng)
        mean, deviation = mean_and_deviation(pixels)
        inputs = (torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / deviation
        return inputs, torch.from_numpy(mask.astype(np.int64))


def _random_crop(photo: Image.Image, size: tuple[int, int], rng: np.random.RandomState) -> Image.Image:
    """Crop a random part with the aspect ratio of ``size``, and resize it to ``size``."""
    largest = min(photo.width / size[0], photo.height / size[1])
    scale = largest * rng.uniform(0.5, 1.0)
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    return photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
