"""How well the next frames of a video are predicted."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from modules.data.base import InputReader, Split, Tensors
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs

_CERTAIN, _SCALE, _GAP = 1e-3, 2, 2


class Frames:
    """Metrics, as means over frames of sums over their pixels: ``frame_nats``, the cross entropy of pixels from 0 to 1, and
    ``frame_squared_error``.

    Both also of two other predictions: ``_last_frame``, the last seen frame again (for the cross entropy its pixels are kept
    from 0.001 to 0.999), and ``_mean_frame``, the mean of all frames to predict.
    Source: Srivastava et al. 2015, arXiv:1502.04681, section 4.
    """

    is_component = True
    headline = ("frame_nats", "min")

    def __init__(self, num_clips: int = 4) -> None:
        """
        Args:
            num_clips: clips of the test split that are shown.
        """
        if num_clips < 0:
            raise ValueError(f"Frames wants num_clips of at least 0, but got {num_clips}; 0 shows none")
        self.num_clips = num_clips

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sum the errors of one batch.

        Args:
            outputs: logits, float [batch, frames, channels, height, width].
            targets: the frames, of the same shape and from 0 to 1; and the last seen frame, float [batch, channels, height,
                width].

        Returns:
            float64 [6 + channels * height * width]: the frames; nats and squared errors of the model, and of the last frame;
            squares of the targets; and the sum of each pixel.

        Raises:
            ValueError: the shapes do not fit.
        """
        frames, last = (targets, None) if isinstance(targets, Tensor) else targets
        if last is None or not isinstance(outputs, Tensor) or outputs.shape != frames.shape:
            shape = list(outputs.shape) if isinstance(outputs, Tensor) else "a tuple"
            raise ValueError(
                f"Frames wants logits of the shape of the frames, {list(frames.shape)}, and the last seen frame as a second "
                f"target, but got {shape}; use model=frame_predictor and data=moving_digits"
            )
        logits, true = outputs.double(), frames.double()
        again = last.double()[:, None].expand_as(true)
        sums = [
            true.new_tensor(frames.shape[0] * frames.shape[1]),
            F.binary_cross_entropy_with_logits(logits, true, reduction="sum"),
            (logits.sigmoid() - true).square().sum(),
            F.binary_cross_entropy(again.clamp(_CERTAIN, 1 - _CERTAIN), true, reduction="sum"),
            (again - true).square().sum(),
            true.square().sum(),
        ]
        return torch.cat([torch.stack(sums), true.flatten(0, 1).sum(0).flatten()])

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the means over frames.

        Raises:
            ValueError: the sums contain no frame.
        """
        count = float(sums[0])
        if count == 0:
            raise ValueError("Frames wants at least 1 frame, but got 0; evaluate on a split that is not empty")
        nats, squared, last_nats, last_squared, squares = (sums[1:6] / count).tolist()
        mean = sums[6:] / count
        return {
            "frame_nats": nats,
            "frame_squared_error": squared,
            "frame_nats_last_frame": last_nats,
            "frame_squared_error_last_frame": last_squared,
            "frame_nats_mean_frame": float(F.binary_cross_entropy(mean, mean, reduction="sum")),
            "frame_squared_error_mean_frame": squares - float(mean.square().sum()),
        }

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return ``clips.png``: for each clip a row of its frames, and below it the seen ones and those of the model."""
        if (count := min(self.num_clips, len(split))) == 0:
            return {}
        seen, targets = split.batch(torch.arange(count), torch.zeros(count, dtype=torch.int64))
        assert isinstance(seen, Tensor)
        assert not isinstance(targets, Tensor)
        rows = [torch.cat([seen, following], dim=1) for following in (targets[0], model(seen).sigmoid())]
        return {"clips.png": draw_clips(torch.stack(rows, dim=1))}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return a picture of the seen and the predicted frames side by side."""
        predictions = []
        for path in inputs:
            seen = data.read([path])
            assert isinstance(seen, Tensor)
            outputs = compute_outputs(model, seen)
            assert isinstance(outputs, Tensor)
            picture = draw_clips(torch.cat([seen, outputs.sigmoid()], dim=1)[:, None])
            number = outputs.shape[1]
            predictions.append(Prediction(f"{number} frames", {"num_frames": number}, {"frames.png": picture}))
        return predictions


def draw_clips(clips: Tensor) -> bytes:
    """Draw clips as strips of frames in a PNG.

    Args:
        clips: float [clips, rows, frames, 1 or 3, height, width], from 0 to 1.
    """
    pixels = (F.pad(clips.clamp(0, 1), (0, _GAP, 0, _GAP), value=0.4) * 255).round().to(torch.uint8).cpu()
    count, rows, frames, channels, height, width = pixels.shape
    grid = pixels.permute(0, 1, 4, 2, 5, 3).reshape(count * rows * height, frames * width, channels).expand(-1, -1, 3)
    picture = Image.fromarray(np.ascontiguousarray(grid.numpy()))
    encoded = io.BytesIO()
    picture.resize((picture.width * _SCALE, picture.height * _SCALE), Image.Resampling.NEAREST).save(encoded, "PNG")
    return encoded.getvalue()
