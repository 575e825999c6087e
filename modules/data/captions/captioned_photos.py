"""Photos and several captions of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from modules.data.base import END, IGNORED, PADDING, START, Batch, Pair, Tensors
from modules.data.captions.photo_crop import PhotoCrop
from modules.data.captions.photo_files import SPLITS, PhotoFiles
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_split
from modules.data.text.pair_split import pad_texts, shift_right
from modules.data.text.sentence_words import SPECIAL, SentenceWords


class CaptionedPhotos:
    """Photos with captions. A training step draws one caption of each photo; evaluation takes the first.

    The words are those of the training captions.
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
        vocab_size: int,
        min_count: int,
        max_tokens: int,
    ) -> None:
        """
        Args:
            root, folder, files, num_train, num_val, num_test, shuffle_seed: see `PhotoFiles`.
            photo_size, image_shape, num_features, flip, turn: see `PhotoCrop`.
            vocab_size: words at most, including four special tokens.
            min_count: words that occur less often in the training captions become ``<unk>``.
            max_tokens: words of a caption to learn; the rest of a longer one is cut off.
        """
        check_at_least("data", len(SPECIAL) + 1, vocab_size=vocab_size)
        check_at_least("data", 1, min_count=min_count, max_tokens=max_tokens)
        self.files = PhotoFiles(root, folder, files, num_train, num_val, num_test, shuffle_seed)
        self.crop = PhotoCrop(photo_size, image_shape, num_features, flip, turn)
        self.image_shape = tuple(image_shape)
        self.vocab_size, self.min_count, self.max_tokens = vocab_size, min_count, max_tokens

    def load(self, split: str) -> CaptionSplit:
        check_split("CaptionedPhotos", split)
        captions = [
            [self.words.encode(text)[: self.max_tokens] for text in photo.captions] for photo in self.files.split(split)
        ]
        pixels = torch.from_numpy(self.files.pixels(split, self.crop.photo_size)).permute(0, 3, 1, 2).contiguous()
        numbers = torch.arange(len(captions)) * len(SPLITS) + SPLITS.index(split)
        return CaptionSplit(pixels, captions, numbers, self.crop, is_random=split == "train")

    def example(self, batch_size: int) -> Batch:
        """Return a batch of captions of the maximum length, in which every token is `END`."""
        target = torch.full((batch_size, self.max_tokens + 1), END)
        photos = torch.zeros(batch_size, *self.image_shape)
        return (photos, shift_right(target)), (target, torch.zeros(batch_size, dtype=torch.int64))

    def pair(self, number: int) -> Pair:
        index, split = divmod(number, len(SPLITS))
        photo = self.files.split(SPLITS[split])[index]
        return Pair(SPLITS[split], index, photo.name, photo.captions)

    def references(self, split: str) -> list[tuple[str, ...]]:
        """The captions of every photo of a split."""
        return [photo.captions for photo in self.files.split(split)]

    def target_text(self, words: Tensor) -> str:
        numbers = words.tolist()
        return self.words.decode(numbers[: numbers.index(END)] if END in numbers else numbers)

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Resize images and crop their centres; returns them and `START`, int64 [photos, 1]."""
        return self.crop.read(inputs), torch.full((len(inputs), 1), START)

    @cached_property
    def words(self) -> SentenceWords:
        """Converts between captions and token ids; reads the training split at the first use.

        Raises:
            DataError: as `load`.
        """
        texts = (text for photo in self.files.split("train") for text in photo.captions)
        return SentenceWords(texts, self.vocab_size, self.min_count)

    def save_reader(self) -> Any:
        return self.words.save()

    def restore_reader(self, saved: Any) -> None:
        self.words = SentenceWords.restore(saved)


class CaptionSplit:
    """Photos in memory, and their captions as token ids."""

    in_memory = True

    def __init__(
        self,
        photos: Tensor,
        captions: Sequence[Sequence[list[int]]],
        numbers: Tensor,
        crop: PhotoCrop,
        *,
        is_random: bool,
    ) -> None:
        """
        Args:
            photos: uint8 [photos, 3, photo_size, photo_size].
            captions: token ids of the captions of each photo, without `END`.
            numbers: pair ids, int64 [photos].
            crop: of a batch.
            is_random: crop at random and draw a caption, as in training.
        """
        self.photos, self.numbers, self.crop, self.is_random = photos, numbers, crop, is_random
        self.counts = torch.tensor([len(each) for each in captions])
        self.first_rows = self.counts.cumsum(0) - self.counts
        self.captions = pad_texts([caption for each in captions for caption in each])

    def __len__(self) -> int:
        return len(self.photos)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        """Inputs: photos, and the caption shifted by one; targets: the caption, and the pair ids."""
        photos, rows = self.photos[indices], self.first_rows[indices]
        if self.is_random:
            random, counts = ExampleRandom(seeds), self.counts[indices]
            photos = self.crop.random(photos, random)
            rows = rows + (random.uniform() * counts).long()
        else:
            photos = self.crop.centre(photos)
        captions = self.captions[rows].long()
        captions = captions[:, : int((captions != PADDING).sum(1).max())]
        return (photos, shift_right(captions)), (
            captions.masked_fill(captions == PADDING, IGNORED),
            self.numbers[indices],
        )
