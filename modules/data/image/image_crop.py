"""Decodes photos of any size and crops them to squares of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.data.image.decoding import ImageError, decode, open_image, upright_size
from modules.data.image.user_images import unreadable
from modules.data.own.folder_split import UnreadableError
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_image_shape

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Range of width / height of a random-area crop, before it is resized to a square."""


@dataclass(frozen=True)
class ImageCrop:
    """Resizes the shorter side of a photo to ``resize_size`` pixels and crops a square: at random or in the centre.

    With ``min_scale``, a random crop has at least that fraction of the area of the photo and an aspect ratio from 3:4 to
    4:3, and is resized to the square. Source: Szegedy et al. 2014, arXiv:1409.4842, section 6.
    """

    resize_size: int
    image_size: int
    min_scale: float | None = None
    mean: tuple[float, ...] | None = None
    """Mean of every channel over all photos in [0, 1], subtracted; None: pixels stay in [0, 1]."""
    std: tuple[float, ...] | None = None

    def batch(self, files: Sequence[Path | bytes], seeds: Tensor | None) -> Tensor:
        """Decode and crop photos.

        Args:
            files: their paths or contents.
            seeds: of random crops and mirroring, int64 [photos]; None crops the centre.

        Returns:
            float [photos, 3, image_size, image_size].

        Raises:
            UnreadableError: a file is not an image.
        """
        # Top, left, mirror, area, aspect ratio.
        draws = torch.full((len(files), 5), 0.5) if seeds is None else ExampleRandom(seeds).uniform(5)
        by_area = seeds is not None and self.min_scale is not None
        outputs = torch.empty(len(files), 3, self.image_size, self.image_size)
        for row, (file, draw) in enumerate(zip(files, draws.tolist(), strict=True)):
            try:
                pixels = self._crop_by_area(file, draw) if by_area else self._crop_square(file, draw)
            except ImageError as err:
                raise UnreadableError(row, str(err)) from err
            pixels = pixels[:, ::-1] if draw[2] < 0.5 else pixels
            outputs[row] = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)
        return self._normalise(outputs)

    def read(self, paths: Sequence[str]) -> Tensor:
        """Read photos of a user as `batch` reads those of the data set, with a centre crop.

        Raises:
            UserInputError: a file is not an image.
        """
        pixels = np.stack([self._crop_users(path) for path in paths]).astype(np.float32)
        return self._normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())

    def _normalise(self, pixels: Tensor) -> Tensor:
        """Scale pixels in [0, 255], in place."""
        pixels.div_(255)
        if self.mean is not None and self.std is not None:
            pixels.sub_(torch.tensor(self.mean).view(3, 1, 1)).div_(torch.tensor(self.std).view(3, 1, 1))
        return pixels

    def _crop_square(self, file: Path | bytes, draw: Sequence[float]) -> np.ndarray:
        """Return uint8 [image_size, image_size, 3]; the first two draws are the position of the crop."""
        with open_image(file) as image:
            # A JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the cost.
            image.draft("RGB", (self.resize_size, self.resize_size))
            return self._crop_square_of(decode(image, "RGB"), draw)

    def _crop_users(self, path: str) -> np.ndarray:
        try:
            return self._crop_square(Path(path), (0.5, 0.5))
        except ImageError as err:
            raise unreadable(path, err) from err

    def _crop_square_of(self, photo: Image.Image, draw: Sequence[float]) -> np.ndarray:
        top, left, *_ = draw
        width, height = photo.size
        side = min(width, height) * self.image_size / self.resize_size
        return self._resize_box(photo, (left * (width - side), top * (height - side)), (side, side))

    def _crop_by_area(self, file: Path | bytes, draw: Sequence[float]) -> np.ndarray:
        assert self.min_scale is not None
        top, left, _, size, aspect = draw
        ratio = ASPECT_RATIOS[0] * (ASPECT_RATIOS[1] / ASPECT_RATIOS[0]) ** aspect
        with open_image(file) as image:
            width, height = upright_size(image)
            area = width * height * (self.min_scale + size * (1 - self.min_scale))
            wide, high = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
            draft = int(width * self.image_size / wide), int(height * self.image_size / high)
            image.draft("RGB", draft if image.size == (width, height) else draft[::-1])
            photo = decode(image, "RGB")
        scale = photo.width / width
        return self._resize_box(
            photo, (left * (width - wide) * scale, top * (height - high) * scale), (wide * scale, high * scale)
        )

    def _resize_box(self, photo: Image.Image, corner: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
        left, top = corner
        box = (left, top, min(photo.width, left + size[0]), min(photo.height, top + size[1]))
        return np.asarray(photo.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR, box=box))


def make_image_crop(
    owner: str,
    resize_size: int,
    image_size: int,
    image_shape: Sequence[int],
    num_features: int,
    min_scale: float | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImageCrop:
    """Check the arguments of a data set and return its crop.

    Raises:
        ValueError: an argument is wrong.
    """
    check_at_least(owner, 1, image_size=image_size)
    check_at_least(owner, image_size, resize_size=resize_size)
    if check_image_shape(owner, image_shape, num_features) != (3, image_size, image_size):
        raise ValueError(
            f"{owner} wants image_shape=[3, image_size, image_size], but got {list(image_shape)} and "
            f"image_size={image_size}; set data.image_shape=[3,{image_size},{image_size}]"
        )
    if min_scale is not None and not 0 < min_scale <= 1:
        raise ValueError(f"{owner} wants min_scale in (0, 1], but got {min_scale}; Inception uses 0.08")
    if (mean is None) != (std is None) or any(len(each) != 3 for each in (mean, std) if each is not None):
        raise ValueError(
            f"{owner} wants mean and std as three numbers each, or neither, but got {mean and list(mean)} and "
            f"{std and list(std)}; give both"
        )
    if std is not None and min(std) <= 0:
        raise ValueError(f"{owner} wants every std above 0, but got {list(std)}; set data.std to standard deviations")
    return ImageCrop(
        resize_size,
        image_size,
        min_scale,
        None if mean is None else tuple(mean),
        None if std is None else tuple(std),
    )
