"""Photos and their tags: the class and the frequent words of the captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.captions.photo_crop import PhotoCrop
from modules.data.captions.photo_files import CaptionedPhoto, PhotoFiles
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_split, make_places


class TaggedPhotos:
    """Photos with captions; the tags of a photo are its class and the words of its captions.

    Words count that occur in enough training photos and are not stop words. Targets: which tags a photo has, float
    [batch, num_classes], and its place in the split, see `make_places`.
    """

    is_component = True

    takes: Final = "image"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_train: int | None,
        num_val: int,
        num_test: int,
        shuffle_seed: int,
        photo_size: int,
        image_shape: Sequence[int],
        num_features: int,
        flip: bool,
        turn: bool,
        num_classes: int,
        min_photos: int,
        stop_words: Sequence[str],
    ) -> None:
        """
        Args:
            root, folder, files, num_train, num_val, num_test, shuffle_seed: see `PhotoFiles`.
            photo_size, image_shape, num_features, flip, turn: see `PhotoCrop`.
            num_classes: tags at most, the most frequent; with fewer, no photo has the last ones.
            min_photos: training photos that have a tag, at least.
            stop_words: words that are no tags.
        """
        check_at_least("data", 1, num_classes=num_classes, min_photos=min_photos)
        self.files = PhotoFiles(root, folder, files, num_train, num_val, num_test, shuffle_seed)
        self.crop = PhotoCrop(photo_size, image_shape, num_features, flip, turn)
        self.image_shape, self.num_classes, self.min_photos = tuple(image_shape), num_classes, min_photos
        self.stop_words = {word.lower() for word in stop_words}
        self.class_names: list[str] | None = None

    def load(self, split: str) -> TagSplit:
        check_split("TaggedPhotos", split)
        if self.class_names is None:
            self.class_names = self._find_tags()
        numbers = {tag: number for number, tag in enumerate(self.class_names) if tag}
        photos = self.files.split(split)
        tags = torch.zeros(len(photos), self.num_classes)
        for row, photo in enumerate(photos):
            tags[row, [numbers[tag] for tag in _words(photo) if tag in numbers]] = 1
        pixels = torch.from_numpy(self.files.pixels(split, self.crop.photo_size)).permute(0, 3, 1, 2).contiguous()
        return TagSplit(pixels, tags, self.crop, is_random=split == "train")

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Resize images and crop their centres."""
        return self.crop.read(inputs)

    def example(self, batch_size: int) -> Batch:
        rows = torch.arange(batch_size)
        targets = torch.zeros(batch_size, self.num_classes), make_places(rows, batch_size)
        return torch.zeros(batch_size, *self.image_shape), targets

    def _find_tags(self) -> list[str]:
        """The tags by falling frequency, and "" for each of `num_classes` that is not used."""
        counts = Counter(word for photo in self.files.split("train") for word in _words(photo))
        tags = [word for word in counts if counts[word] >= self.min_photos and word not in self.stop_words]
        if not tags:
            raise DataError(
                f"data.folder={self.files.files.folder!r}: no word of {self.files.lines} is in data.min_photos="
                f"{self.min_photos} training photos; lower data.min_photos"
            )
        best = sorted(tags, key=lambda word: (-counts[word], word))[: self.num_classes]
        return best + [""] * (self.num_classes - len(best))


class TagSplit:
    """Photos in memory."""

    in_memory = True

    def __init__(self, photos: Tensor, tags: Tensor, crop: PhotoCrop, *, is_random: bool) -> None:
        """
        Args:
            photos: uint8 [photos, 3, photo_size, photo_size].
            tags: float [photos, num_classes].
            crop: of a batch.
            is_random: crop at random, as in training.
        """
        self.photos, self.tags, self.crop, self.is_random = photos, tags, crop, is_random

    def __len__(self) -> int:
        return len(self.photos)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        photos = self.photos[indices]
        crops = self.crop.random(photos, ExampleRandom(seeds)) if self.is_random else self.crop.centre(photos)
        return crops, (self.tags[indices], make_places(indices, len(self)))


def _words(photo: CaptionedPhoto) -> set[str]:
    """The class and the words of all captions, in lower case; numbers and single letters are no words."""
    words = {word for text in photo.captions for word in re.findall(r"[^\W\d_]{2,}", text)}
    return words | ({photo.label.strip().lower()} if photo.label else set())
