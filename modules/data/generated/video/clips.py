"""Short videos of images that move in a straight line and bounce off the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import UserInputError
from modules.data.files import DataFiles
from modules.data.generated.problem import GeneratedProblem
from modules.data.idx import decode_idx, idx_names
from modules.data.image.user_images import fit, open_photo, to_pixels
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_split, scale_pixels

DIRECTIONS: Final = {"still": (0, 0), "right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}
"""Rows down and columns to the right, in a frame."""
_VAL_SHARE = 10
_LEAD = 4
"""Pixels that an image moves at least before it bounces, if the frame is so large."""


@dataclass(frozen=True)
class Movement:
    """How the images of clips move."""

    corners: Tensor
    """Of the upper left pixel, int64 [clips, images, frames, 2]."""
    directions: Tensor
    """Numbers of `DIRECTIONS`, int64 [clips, images]."""
    returned: Tensor
    """Pixels that an image has moved back from an edge in the last frame, float [clips, images], below 0 before the edge."""


class Clips(GeneratedProblem):
    """Clips of images of a set in LeCun's idx format, such as MNIST; each stands still, or moves along one axis.

    Where images overlap, the brighter pixel is shown. Training clips show the training images but the last tenth, which
    validation clips show; test clips show the test images. A subclass writes `make` and `example`.
    Source: Srivastava et al. 2015, arXiv:1502.04681, section 4.1.
    """

    takes: Final = "image"

    def __init__(
        self,
        files: DataFiles,
        num_images: int,
        image_size: int,
        frame_size: int,
        speeds: tuple[float, float],
        num_seen_frames: int,
        num_val: int,
        num_test: int,
    ) -> None:
        """
        Args:
            files: the four files, with LeCun's names.
            num_images: in a clip.
            image_size: pixels of each side to which the images are scaled.
            frame_size: pixels of each side of a frame, more than ``image_size``.
            speeds: pixels per frame of the slowest and the fastest moving image; at most the room between image and frame.
            num_seen_frames: frames that the model gets.
            num_val: clips of the validation split.
            num_test: clips of the test split.
        """
        owner, room = type(self).__name__, frame_size - image_size
        check_at_least(owner, 1, num_images=num_images, image_size=image_size, num_seen_frames=num_seen_frames)
        if room < 1 or not 0 < speeds[0] <= speeds[1] <= room:
            raise ValueError(
                f"{owner}: images of {image_size} pixels move in frames of {frame_size} with data.min_speed={speeds[0]:g} to "
                f"data.max_speed={speeds[1]:g} pixels; the speeds must be above 0, in this order, and at most the room of {room}"
            )
        super().__init__(num_val, num_test)
        self.files, self.num_images, self.image_size, self.frame_size = files, num_images, image_size, frame_size
        self.room, self.speeds, self.num_seen_frames = room, speeds, num_seen_frames
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}

    def load(self, split: str) -> Any:
        check_split(type(self).__name__, split)
        self.images(split)  # a missing file is reported here, and not in the first step
        return super().load(split)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read pictures of frames side by side, as float [clips, num_seen_frames, 1, frame_size, frame_size]."""
        return torch.stack([self._read_strip(path) for path in inputs])

    def images(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the images of a split, float [images, image_size, image_size] from 0 to 1, and their classes, int64.

        Raises:
            DataError: a file is missing or damaged.
        """
        if split not in self._parts:
            images, classes = self._read_part("test" if split == "test" else "train")
            num_val = 0 if split == "test" else -(-len(images) // _VAL_SHARE)
            rows = slice(-num_val, None) if split == "val" else slice(0, len(images) - num_val)
            self._parts[split] = images[rows], classes[rows]
        return self._parts[split]

    def move(self, random: ExampleRandom, num_frames: int) -> Movement:
        """Draw movements."""
        directions = random.integers(len(DIRECTIONS), self.num_images)
        slow, fast = self.speeds
        speeds = slow + (fast - slow) * random.uniform(self.num_images)
        start, signs = random.uniform(self.num_images, 2), torch.tensor(list(DIRECTIONS.values())).float()[directions]
        room, lead = self.room, min(_LEAD, self.room)
        start = torch.where(
            signs > 0, start * (room - lead), torch.where(signs < 0, lead + start * (room - lead), start * room)
        )
        times = torch.arange(num_frames, dtype=torch.float32)
        path = start[:, :, None] + (signs * speeds[..., None])[:, :, None] * times[:, None]
        folded = path.remainder(2 * room)
        corners = torch.minimum(folded, 2 * room - folded).round().long()
        last = path[:, :, -1]
        beyond = torch.where(signs > 0, last - room, -last).masked_fill(signs == 0, -float(room)).amax(2)
        return Movement(corners, directions, beyond)

    def draw(self, images: Tensor, corners: Tensor) -> Tensor:
        """Return the frames, float [clips, frames, 1, frame_size, frame_size].

        Args:
            images: float [clips, num_images, image_size, image_size].
            corners: as of `Movement`.
        """
        count, num_images, num_frames, _ = corners.shape
        pixels = torch.arange(self.image_size)
        rows, columns = corners[..., 0, None, None] + pixels[:, None], corners[..., 1, None, None] + pixels
        places = (rows * self.frame_size + columns).flatten(3)
        canvas = torch.zeros(count, num_images, num_frames, self.frame_size**2)
        canvas.scatter_(3, places, images.flatten(2)[:, :, None].expand_as(places))
        return canvas.amax(1).view(count, num_frames, 1, self.frame_size, self.frame_size)

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        images_name, labels_name = idx_names(type(self).__name__, self.files.files)[part]
        content = self.files.read(images_name)
        with self.files.decoding(images_name):
            images = decode_idx(content, num_dims=3)
            if len(images) < 2 or 0 in images.shape:
                raise ValueError(
                    f"it has {len(images)} images of {list(images.shape[1:])} pixels, but at least 2 are needed"
                )
        content = self.files.read(labels_name)
        with self.files.decoding(labels_name):
            labels = decode_idx(content, num_dims=1)
            if len(labels) != len(images):
                raise ValueError(f"it has {len(labels)} labels for {len(images)} images")
            self.check_labels(labels)
        pixels = scale_pixels(torch.from_numpy(images))
        return F.interpolate(pixels[:, None], [self.image_size] * 2, mode="area")[:, 0], torch.from_numpy(labels).long()

    def check_labels(self, labels: np.ndarray) -> None:
        """Check the classes of the images, uint8 [images].

        Raises:
            ValueError: they do not fit the data set.
        """

    def _read_strip(self, path: str) -> Tensor:
        picture, count, size = open_photo(path, "L"), self.num_seen_frames, self.frame_size
        if picture.width != count * picture.height:
            raise UserInputError(
                f"{path} has {picture.width} x {picture.height} pixels, but the model reads {count} square frames side by side; "
                f"make a picture of {count * size} x {size} pixels"
            )
        strip = scale_pixels(torch.from_numpy(to_pixels(fit(picture, size, count * size))))
        return strip.view(size, count, 1, size).permute(1, 2, 0, 3).contiguous()
