"""Photos and the classes of their pixels: crops to train on, whole ones to evaluate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from modules.data.base import IGNORED, Batch
from modules.data.image.user_images import open_photo, pixels_of


@dataclass(frozen=True)
class MaskedImage:
    """One photo as it was decoded."""

    pixels: np.ndarray
    """uint8 [height, width, channels]."""
    masks: tuple[np.ndarray, ...]
    """int16 [height, width] each, classes or `IGNORED`; several where several people have drawn them."""

    def padded(self, height: int, width: int) -> MaskedImage:
        """At least so large: beyond the edges lies the mirror image, whose classes are ignored."""
        margins = [(0, max(0, wanted - have)) for wanted, have in zip((height, width), self.pixels.shape, strict=False)]
        return MaskedImage(
            np.pad(self.pixels, [*margins, (0, 0)], mode="symmetric"),
            tuple(np.pad(mask, margins, constant_values=IGNORED) for mask in self.masks),
        )


@dataclass(frozen=True)
class Distortion:
    """What happens to a training crop by chance."""

    flip: bool
    """Mirrored from left to right, and upside down."""
    turn: bool
    """Turned by a quarter; only squares."""
    jitter: float
    """How far contrast and brightness vary, in deviations."""


class MaskedImages:
    """A split of photos, each of mean 0 and variance 1 as a whole.

    With a distortion an example is a crop from anywhere; without, it is the photo, padded.
    """

    in_memory = False  # it lies there, but cutting and scaling floats is worth a worker

    def __init__(
        self,
        photos: Sequence[MaskedImage],
        size: tuple[int, int],
        distortion: Distortion | None,
        crops_per_photo: int = 1,
    ) -> None:
        """
        Args:
            photos: of any sizes; none is larger than ``size`` where they are not cropped.
            size: [height, width] of an example.
            distortion: of crops; None: photos stay whole.
            crops_per_photo: examples of each photo.
        """
        self.size, self.distortion, self.crops_per_photo = size, distortion, crops_per_photo
        self.scales = [mean_and_deviation(photo.pixels) for photo in photos]
        self.photos = [photo.padded(*size) for photo in photos]

    def __len__(self) -> int:
        return len(self.photos) * self.crops_per_photo

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        chance = torch.rand(len(indices), 7, generator=generator).tolist() if self.distortion else []
        inputs: list[Tensor] = []
        targets: list[tuple[Tensor, ...]] = []
        for row, index in enumerate(indices.tolist()):
            photo, (mean, deviation) = (
                self.photos[index // self.crops_per_photo],
                self.scales[index // self.crops_per_photo],
            )
            layers = [photo.pixels, *photo.masks]
            if self.distortion:
                layers = [self._distorted(layer, chance[row]) for layer in layers]
            pixels = (torch.from_numpy(np.ascontiguousarray(layers[0])).permute(2, 0, 1).float() - mean) / deviation
            if self.distortion and self.distortion.jitter:
                contrast, brightness = (self.distortion.jitter * (2 * number - 1) for number in chance[row][5:])
                pixels = pixels * (1 + contrast) + brightness
            inputs.append(pixels)
            targets.append(tuple(torch.from_numpy(layer.astype(np.int64)) for layer in layers[1:]))
        masks = tuple(torch.stack(each) for each in zip(*targets, strict=True))
        return torch.stack(inputs), masks[0] if len(masks) == 1 else masks

    def _distorted(self, layer: np.ndarray, chance: Sequence[float]) -> np.ndarray:
        """A crop of a photo or of its mask; the same chance cuts the same."""
        assert self.distortion is not None
        height, width = self.size
        top = int(chance[0] * (layer.shape[0] - height + 1))
        left = int(chance[1] * (layer.shape[1] - width + 1))
        crop = layer[top : top + height, left : left + width]
        if self.distortion.flip:
            crop = crop[:: -1 if chance[2] < 0.5 else 1, :: -1 if chance[3] < 0.5 else 1]
        return np.swapaxes(crop, 0, 1) if self.distortion.turn and chance[4] < 0.5 else crop


def read_whole(given: Sequence[str], num_channels: int, size: tuple[int, int]) -> Tensor:
    """Photos of a user, as whole ones are evaluated: of their own size, in the upper left corner, padded where that is less.

    Args:
        given: paths.
        num_channels: 1 or 3.
        size: [height, width] that they are padded to at least; all are padded to the largest.

    Returns:
        float [photos, num_channels, height, width].

    Raises:
        GivenError: one of them cannot be read.
    """
    mode: Literal["L", "RGB"] = "L" if num_channels == 1 else "RGB"
    photos = [MaskedImage(pixels_of(open_photo(path, mode)), ()) for path in given]
    height, width = (max(size[side], *(photo.pixels.shape[side] for photo in photos)) for side in (0, 1))
    split = MaskedImages(photos, (height, width), None)
    inputs, _ = split.batch(torch.arange(len(photos)), Generator())
    assert isinstance(inputs, Tensor)
    return inputs


def mean_and_deviation(pixels: np.ndarray) -> tuple[float, float]:
    """Over all pixels and channels, so that colours stay what they are; a photo of one colour has the deviation 1."""
    return float(pixels.mean()), max(float(pixels.std()), 1.0)
