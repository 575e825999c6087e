"""Photos with masks: crops to train on, whole photos to evaluate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from modules.data.base import IGNORED, Batch
from modules.data.image.user_images import open_photo, to_pixels
from modules.data.sampling.example_random import ExampleRandom


@dataclass(frozen=True)
class MaskedImage:
    """A decoded photo and its masks."""

    pixels: np.ndarray
    """uint8 [height, width, channels]."""
    masks: tuple[np.ndarray, ...]
    """int16 [height, width] each, classes or `IGNORED`; one per annotator."""

    def padded(self, height: int, width: int) -> MaskedImage:
        """Pad to at least this size by reflection; padding is ignored."""
        margins = [(0, max(0, least - size)) for least, size in zip((height, width), self.pixels.shape, strict=False)]
        return MaskedImage(
            np.pad(self.pixels, [*margins, (0, 0)], mode="symmetric"),
            tuple(np.pad(mask, margins, constant_values=IGNORED) for mask in self.masks),
        )


@dataclass(frozen=True)
class Distortion:
    """Random changes of a training crop."""

    flip: bool
    """Mirror horizontally and vertically."""
    turn: bool
    """Rotate by 90 degrees; only for square crops."""
    jitter: float
    """Range of contrast and brightness, in standard deviations."""


class MaskedImages:
    """A split of photos, each standardised to mean 0 and variance 1.

    With a distortion, an example is a random crop; without, it is the padded photo.
    """

    in_memory = False  # photos are in memory, but cropping and scaling are worth a worker

    def __init__(
        self,
        photos: Sequence[MaskedImage],
        size: tuple[int, int],
        distortion: Distortion | None,
        crops_per_photo: int = 1,
    ) -> None:
        """
        Args:
            photos: of any size; without crops, at most ``size``.
            size: [height, width] of an example.
            distortion: of crops; None: whole photos.
            crops_per_photo: examples of each photo.
        """
        self.size, self.distortion, self.crops_per_photo = size, distortion, crops_per_photo
        self.scales = [mean_and_deviation(photo.pixels) for photo in photos]
        self.photos = [photo.padded(*size) for photo in photos]

    def __len__(self) -> int:
        return len(self.photos) * self.crops_per_photo

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        draws = ExampleRandom(seeds).uniform(7).tolist() if self.distortion else []
        inputs: list[Tensor] = []
        targets: list[tuple[Tensor, ...]] = []
        for row, index in enumerate(indices.tolist()):
            photo, (mean, deviation) = (
                self.photos[index // self.crops_per_photo],
                self.scales[index // self.crops_per_photo],
            )
            layers = [photo.pixels, *photo.masks]
            if self.distortion:
                layers = [self._distort(layer, draws[row]) for layer in layers]
            pixels = (torch.from_numpy(np.ascontiguousarray(layers[0])).permute(2, 0, 1).float() - mean) / deviation
            if self.distortion and self.distortion.jitter:
                contrast, brightness = (self.distortion.jitter * (2 * number - 1) for number in draws[row][5:])
                pixels = pixels * (1 + contrast) + brightness
            inputs.append(pixels)
            targets.append(tuple(torch.from_numpy(layer.astype(np.int64)) for layer in layers[1:]))
        masks = tuple(torch.stack(each) for each in zip(*targets, strict=True))
        return torch.stack(inputs), masks[0] if len(masks) == 1 else masks

    def _distort(self, layer: np.ndarray, draws: Sequence[float]) -> np.ndarray:
        """Crop a photo or its mask; the same draws give the same crop."""
        assert self.distortion is not None
        height, width = self.size
        top = int(draws[0] * (layer.shape[0] - height + 1))
        left = int(draws[1] * (layer.shape[1] - width + 1))
        crop = layer[top : top + height, left : left + width]
        if self.distortion.flip:
            crop = crop[:: -1 if draws[2] < 0.5 else 1, :: -1 if draws[3] < 0.5 else 1]
        return np.swapaxes(crop, 0, 1) if self.distortion.turn and draws[4] < 0.5 else crop


def read_whole(paths: Sequence[str], num_channels: int, size: tuple[int, int]) -> Tensor:
    """Read whole photos of a user in the form of evaluation; padding is at the bottom and on the right.

    Args:
        paths: of image files.
        num_channels: 1 or 3.
        size: minimum [height, width]; all photos are padded to the largest.

    Returns:
        float [photos, num_channels, height, width].

    Raises:
        UserInputError: an image cannot be read.
    """
    mode: Literal["L", "RGB"] = "L" if num_channels == 1 else "RGB"
    photos = [MaskedImage(to_pixels(open_photo(path, mode)), ()) for path in paths]
    height, width = (max(size[side], *(photo.pixels.shape[side] for photo in photos)) for side in (0, 1))
    split = MaskedImages(photos, (height, width), None)
    indices = torch.arange(len(photos))
    inputs, _ = split.batch(indices, indices)
    assert isinstance(inputs, Tensor)
    return inputs


def mean_and_deviation(pixels: np.ndarray) -> tuple[float, float]:
    """Return both over all pixels and channels, which keeps the colours; the deviation is at least 1."""
    return float(pixels.mean()), max(float(pixels.std()), 1.0)
