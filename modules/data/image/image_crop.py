"""Photos of any size, decoded and cut to squares of one when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from modules.data.image.user_images import open_photo
from modules.data.tensors import check_at_least, check_image_shape

SQUARE = (3 / 4, 4 / 3)
"""Width by height of a part that is cut by its area; it is then brought to a square."""


@dataclass(frozen=True)
class ImageCrop:
    """How a photo of any size becomes a square of one.

    It is shrunk until its shorter side has ``resize_size`` pixels, then a square is cut out of it: anywhere in training that
    augments, in the middle else. With ``min_scale``, training that augments cuts a part of any area from that share on
    instead, from 3:4 to 4:3. Source: Szegedy et al. 2014, arXiv:1409.4842, section 6.
    """

    resize_size: int
    image_size: int
    min_scale: float | None = None
    mean: tuple[float, ...] | None = None
    """Of every channel over all photos, taken off after pixels were brought to [0, 1]; None: they stay there."""
    std: tuple[float, ...] | None = None

    def batch(self, files: Sequence[Path | bytes], generator: Generator | None) -> Tensor:
        """Decode and cut photos.

        Args:
            files: where they are, or what is in them.
            generator: the chance of the cut and of mirroring; None sees the middle.

        Returns:
            float [photos, 3, image_size, image_size].

        Raises:
            UnreadableError: one of them is no photo.
        """
        dice = torch.full((5, len(files)), 0.5)  # from above, from the left, mirrored, area, form
        if generator is not None:
            rows = 3 if self.min_scale is None else 5
            dice[:rows] = torch.rand(rows, len(files), generator=generator)
        by_area = generator is not None and self.min_scale is not None
        outputs = torch.empty(len(files), 3, self.image_size, self.image_size)
        for row, (file, chances) in enumerate(zip(files, dice.T.tolist(), strict=True)):
            try:
                pixels = self._part(file, chances) if by_area else self._square(file, chances)
            except (OSError, ValueError, SyntaxError) as err:
                raise UnreadableError(row, str(err)) from err
            pixels = pixels[:, ::-1] if chances[2] < 0.5 else pixels
            outputs[row] = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)
        return self._scaled(outputs)

    def read(self, paths: Sequence[str]) -> Tensor:
        """Photos of a user, as `batch` sees the middle of those of the set, but upright.

        Raises:
            GivenError: one of them is no photo.
        """
        photos = (open_photo(path, "RGB", draft_size=self.resize_size) for path in paths)
        pixels = np.stack([self._square_of(photo, (0.5, 0.5)) for photo in photos]).astype(np.float32)
        return self._scaled(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())

    def _scaled(self, pixels: Tensor) -> Tensor:
        """From [0, 255], in place."""
        pixels.div_(255)
        if self.mean is not None and self.std is not None:
            pixels.sub_(torch.tensor(self.mean).view(3, 1, 1)).div_(torch.tensor(self.std).view(3, 1, 1))
        return pixels

    def _square(self, file: Path | bytes, chances: Sequence[float]) -> np.ndarray:
        """uint8 [image_size, image_size, 3]; the cut lies where the first two of the dice say, of what room there is."""
        with _opened(file) as image:
            # A JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the cost.
            image.draft("RGB", (self.resize_size, self.resize_size))
            return self._square_of(image.convert("RGB"), chances)

    def _square_of(self, photo: Image.Image, chances: Sequence[float]) -> np.ndarray:
        top, left, *_ = chances
        width, height = photo.size
        side = min(width, height) * self.image_size / self.resize_size
        return self._cut(photo, (left * (width - side), top * (height - side)), (side, side))

    def _part(self, file: Path | bytes, chances: Sequence[float]) -> np.ndarray:
        assert self.min_scale is not None
        top, left, _, size, form = chances
        ratio = SQUARE[0] * (SQUARE[1] / SQUARE[0]) ** form
        with _opened(file) as image:
            width, height = image.size
            area = width * height * (self.min_scale + size * (1 - self.min_scale))
            wide, high = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
            image.draft("RGB", (int(width * self.image_size / wide), int(height * self.image_size / high)))
            photo = image.convert("RGB")
        scale = photo.width / width
        return self._cut(
            photo, (left * (width - wide) * scale, top * (height - high) * scale), (wide * scale, high * scale)
        )

    def _cut(self, photo: Image.Image, corner: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
        left, top = corner
        box = (left, top, min(photo.width, left + size[0]), min(photo.height, top + size[1]))
        return np.asarray(photo.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR, box=box))


class UnreadableError(Exception):
    """One of several files is no photo.

    Attributes:
        number: which.
        reason: what the decoder said.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def image_crop(
    owner: str,
    resize_size: int,
    image_size: int,
    image_shape: Sequence[int],
    num_features: int,
    min_scale: float | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImageCrop:
    """The cut that a data set's arguments ask for.

    Raises:
        ValueError: they contradict each other.
    """
    check_at_least(owner, 1, image_size=image_size)
    check_at_least(owner, image_size, resize_size=resize_size)
    if check_image_shape(owner, image_shape, num_features) != (3, image_size, image_size):
        raise ValueError(
            f"{owner} wants image_shape=[3, image_size, image_size], but got {list(image_shape)} and "
            f"image_size={image_size}; set data.image_shape=[3,{image_size},{image_size}]"
        )
    if min_scale is not None and not 0 < min_scale <= 1:
        raise ValueError(f"{owner} wants min_scale in (0, 1], but got {min_scale}; Inception takes 0.08")
    if (mean is None) != (std is None) or any(len(each) != 3 for each in (mean, std) if each is not None):
        raise ValueError(
            f"{owner} wants mean and std as three numbers each, or neither, but got {mean and list(mean)} and "
            f"{std and list(std)}; give both"
        )
    if std is not None and min(std) <= 0:
        raise ValueError(f"{owner} wants every std above 0, but got {list(std)}")
    return ImageCrop(
        resize_size,
        image_size,
        min_scale,
        None if mean is None else tuple(mean),
        None if std is None else tuple(std),
    )


def _opened(file: Path | bytes) -> Image.Image:
    return Image.open(file if isinstance(file, Path) else BytesIO(file))
