"""Predicts the next frames of a video."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from modules.model.video.conv_lstm import ConvLstm


class FramePredictor(nn.Module):
    """A convolutional LSTM reads frames, another goes on from its state and writes the next ones, all from the state alone.

    Strided convolutions reduce a frame to a quarter of its height and width, and transposed ones enlarge it again.
    Source: Shi et al. 2015, arXiv:1506.04214; Srivastava et al. 2015, arXiv:1502.04681 (a reader and a writer).
    """

    is_component = True

    def __init__(
        self, num_channels: int, frame_channels: int, state_channels: int, kernel_size: int, num_predicted_frames: int
    ) -> None:
        """
        Args:
            num_channels: of a frame.
            frame_channels: of the convolutions around the LSTMs.
            state_channels: of the LSTMs.
            kernel_size: of the LSTMs, odd.
            num_predicted_frames: frames to write.
        """
        super().__init__()
        if min(num_channels, frame_channels, state_channels, num_predicted_frames) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "FramePredictor wants channels and num_predicted_frames of at least 1 and an odd kernel_size, but got "
                f"num_channels={num_channels}, frame_channels={frame_channels}, state_channels={state_channels}, "
                f"num_predicted_frames={num_predicted_frames} and kernel_size={kernel_size}"
            )
        self.reader = FrameReader(num_channels, frame_channels, state_channels, kernel_size)
        self.writer = FrameWriter(num_channels, frame_channels, state_channels, kernel_size, num_predicted_frames)

    def layers(self) -> list[nn.Module]:
        return [self.reader, self.writer]

    def forward(self, frames: Tensor) -> Tensor:
        """Predict frames.

        Args:
            frames: float [batch, time, num_channels, height, width], from 0 to 1; height and width are multiples of 4.

        Returns:
            Logits of the brightness of each pixel, float [batch, num_predicted_frames, num_channels, height, width].

        Raises:
            ValueError: the size is not a multiple of 4.
        """
        return cast(Tensor, self.writer(self.reader(frames)))


class FrameReader(nn.Module):
    """Reads the frames in their order."""

    def __init__(self, num_channels: int, frame_channels: int, state_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(num_channels, frame_channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(frame_channels, 2 * frame_channels, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.lstm = ConvLstm(2 * frame_channels, state_channels, kernel_size)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map frames to the last state of the LSTM."""
        height, width = frames.shape[-2:]
        if height % 4 or width % 4:
            raise ValueError(
                f"FramePredictor wants frames whose sides are multiples of 4, but got {height} x {width}; set data.frame_size to "
                f"{height + -height % 4}"
            )
        maps = self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return cast(tuple[Tensor, Tensor], self.lstm(maps))


class FrameWriter(nn.Module):
    """Writes frames from a state."""

    def __init__(
        self, num_channels: int, frame_channels: int, state_channels: int, kernel_size: int, num_predicted_frames: int
    ) -> None:
        super().__init__()
        self.num_predicted_frames = num_predicted_frames
        self.lstm = ConvLstm(0, state_channels, kernel_size)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(state_channels, frame_channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(frame_channels, num_channels, 4, stride=2, padding=1),
        )

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """Map the state of the reader to logits, as `FramePredictor`."""
        outputs = self.lstm.run(state, self.num_predicted_frames)
        return cast(Tensor, self.decoder(outputs.flatten(0, 1)).unflatten(0, outputs.shape[:2]))
