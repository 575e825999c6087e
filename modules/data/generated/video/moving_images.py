"""Videos whose next frames are to be predicted."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from modules.data.base import Batch
from modules.data.files import DataFiles
from modules.data.generated.video.clips import Clips
from modules.data.idx import idx_names
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least


class MovingImages(Clips):
    """Clips as of `Clips`; the targets are the frames that follow.

    Source: Srivastava et al. 2015, arXiv:1502.04681, section 4.1.
    """

    is_component = True

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_images: int,
        image_size: int,
        frame_size: int,
        num_seen_frames: int,
        num_predicted_frames: int,
        min_speed: float,
        max_speed: float,
        num_val: int,
        num_test: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of the images.
            files: name to sha256 of the four files, with LeCun's names.
            num_images: in a clip.
            image_size: pixels of each side to which the images are scaled.
            frame_size: pixels of each side of a frame, more than ``image_size``.
            num_seen_frames: frames that the model gets.
            num_predicted_frames: frames after them.
            min_speed: pixels per frame of the slowest moving image.
            max_speed: of the fastest; at most the room between image and frame.
            num_val: clips of the validation split.
            num_test: clips of the test split.
        """
        check_at_least("MovingImages", 1, num_predicted_frames=num_predicted_frames)
        idx_names("MovingImages", files)
        super().__init__(
            DataFiles(root, folder, files), num_images, image_size, frame_size, (min_speed, max_speed), num_seen_frames,
            num_val, num_test,
        )  # fmt: skip
        self.num_predicted_frames = num_predicted_frames

    def make(self, random: ExampleRandom, count: int, split: str) -> Batch:
        """Make clips.

        Returns:
            The frames that the model sees, float [count, num_seen_frames, 1, frame_size, frame_size] from 0 to 1; and as
            targets the frames after them, and the last seen frame, float [count, 1, frame_size, frame_size].
        """
        images, _ = self.images(split)
        chosen = random.integers(len(images), self.num_images)
        movement = self.move(random, self.num_seen_frames + self.num_predicted_frames)
        frames = self.draw(images[chosen], movement.corners)
        seen, following = frames[:, : self.num_seen_frames], frames[:, self.num_seen_frames :]
        return seen.contiguous(), (following.contiguous(), seen[:, -1].contiguous())

    def example(self, batch_size: int) -> Batch:
        shape = (1, self.frame_size, self.frame_size)
        following = torch.zeros(batch_size, self.num_predicted_frames, *shape)
        return torch.zeros(batch_size, self.num_seen_frames, *shape), (following, torch.zeros(batch_size, *shape))
