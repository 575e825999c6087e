"""Your own recordings in one folder per class, such as spoken words or sounds of animals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from modules.data.audio.log_mel import LogMel
from modules.data.audio.recording_folder import RECORDINGS
from modules.data.audio.recordings import Recordings
from modules.data.base import Batch
from modules.data.own.folder_split import ClassFolderData
from modules.data.own.skipping import OnBadExample


class AudioFolder(ClassFolderData):
    """WAV files of ``root/folder/{train,val,test}/CLASS/``; class ids follow the order of the names.

    A model gets the log-mel features of a recording as an image with one channel: bands by frames. A recording that is longer
    or shorter than ``clip_s`` is cut, or padded with silence; see `Recordings`.
    """

    is_component = True
    auto_values = "modules.data.audio.recording_folder.find_auto_values"

    takes: Final = "audio"

    def __init__(
        self,
        root: str,
        folder: str,
        num_train: int | None,
        sample_rate: int,
        clip_s: float,
        augment: bool,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        num_bands: int = 40,
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
            root, folder, num_train, num_classes, split_folders, held_out_share, fold, num_folds: as for
                `modules.data.image_folder.ImageFolder`.
            sample_rate: samples per second; recordings of other rates are resampled.
            clip_s: seconds of a recording that the model gets.
            augment: move training recordings in time at random; otherwise, and in evaluation, they are in the middle.
            image_shape: [1, num_bands, frames], a frame for each 10 ms and one more.
            num_features: product of ``image_shape``.
            mean: of each band, subtracted.
            std: of each band, the divisor.
            num_bands: bands of the mel scale.
            group_pattern: regular expression; recordings with the same match in their paths below the folder of the split, such
                as the name of a speaker, are in the same part. Null: each recording counts alone.
            on_bad_example, skipped: as for `modules.data.image_folder.ImageFolder`.
        """
        if sample_rate < 1000 or not 0.025 <= clip_s <= 600:
            raise ValueError(
                f"AudioFolder wants sample_rate of at least 1000 and clip_s from 0.025 to 600, but got {sample_rate} and {clip_s}"
            )
        if len(mean) != num_bands or len(std) != num_bands or not min(std, default=0) > 0:
            raise ValueError(
                f"AudioFolder wants a mean and a std above 0 for each of the {num_bands} bands, but got {len(mean)} and "
                f"{len(std)}; set data.mean=auto and data.std=auto"
            )
        self.recordings = Recordings(LogMel(sample_rate, num_bands), clip_s, tuple(mean), tuple(std))
        wanted = [1, num_bands, self.recordings.num_frames]
        if list(image_shape) != wanted or num_features != wanted[1] * wanted[2]:
            raise ValueError(
                f"AudioFolder has image_shape={list(image_shape)} and num_features={num_features}, but clip_s={clip_s} makes "
                f"{wanted} and {wanted[1] * wanted[2]}; set data.image_shape=auto and data.num_features=auto"
            )
        super().__init__(
            "AudioFolder", RECORDINGS, self.recordings.batch, root, folder, num_train, num_classes, augment, split_folders,
            held_out_share, fold, num_folds, group_pattern, on_bad_example, skipped,
        )  # fmt: skip
        self.image_shape, self.sample_rate = tuple(image_shape), sample_rate

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read WAV files of a user, see `Recordings.read`."""
        return self.recordings.read(inputs)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)
