"""Files that trackers show: images, sounds, texts and histograms."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

HISTOGRAMS = "histograms.json"
"""Name of a file with histograms."""
_GAP = 2
_VISIBLE = 64
"""Pixels up to which the pixels of small images are repeated."""
_GREY, _INK, _BAR = (96, 96, 96), (28, 33, 39), (0, 114, 178)
_PANEL, _BARS_HEIGHT, _MAX_PANELS = (300, 76), 34, 60


@dataclass(frozen=True)
class Histogram:
    """How often the values of a tensor are in each of equal intervals."""

    low: float
    """Lowest value."""
    high: float
    """Highest value."""
    counts: list[int]
    """Of each interval."""
    mean: float
    std: float
    num_not_finite: int = 0
    """Values that are no number or infinite, which no interval counts."""


def make_image(images: Tensor, num_columns: int | None = None) -> bytes:
    """Return a PNG with a grid of images.

    Args:
        images: float [images, 1 or 3, height, width] from 0 to 1; what is outside is cut off. Small ones are enlarged.
        num_columns: of the grid; None: about a square.

    Raises:
        ValueError: the images have another shape.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(f"images must be [images, 1 or 3, height, width], but are {list(images.shape)}")
    pixels = images.detach().float().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    times = max(1, _VISIBLE // max(pixels.shape[2:]))
    pixels = pixels.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
    count, _, height, width = pixels.shape
    columns = num_columns or max(1, round(count**0.5))
    rows = -(-count // columns)
    grid = torch.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _GREY[0], dtype=torch.uint8)
    for number, image in enumerate(pixels):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        grid[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return _png(Image.fromarray(grid.numpy()))


def make_sound(samples: Tensor, sample_rate_hz: int) -> bytes:
    """Return a WAV file with 16 bits per sample.

    Args:
        samples: float [time] from -1 to 1; what is outside is cut off.
        sample_rate_hz: samples per second.
    """
    if samples.dim() != 1:
        raise ValueError(f"a sound must be [time], but is {list(samples.shape)}")
    numbers = samples.detach().float().cpu().nan_to_num(0.0).clamp(-1, 1).mul(32767).round().to(torch.int16)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(numbers.numpy().astype("<i2").tobytes())
    return content.getvalue()


def make_text(texts: Sequence[str]) -> bytes:
    """Return a text file with one text per line, or paragraph if a text has several lines."""
    separator = "\n\n" if any("\n" in text for text in texts) else "\n"
    return (separator.join(texts) + "\n").encode()


@torch.no_grad()
def count_values(tensor: Tensor, num_bins: int) -> Histogram:
    """Return the histogram of a tensor; of a sparse one, that of the values that it holds."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    values = values.detach().float().reshape(-1)
    is_finite = values.isfinite()
    finite = values if bool(is_finite.all()) else values[is_finite]
    if not finite.numel():
        return Histogram(0.0, 0.0, [0] * num_bins, 0.0, 0.0, values.numel())
    low, high = finite.min(), finite.max()
    width = (high - low) / num_bins
    places = ((finite - low) / width).nan_to_num(0.0).long().clamp_(0, num_bins - 1)
    counts = torch.bincount(places.cpu(), minlength=num_bins)  # on a GPU it is not deterministic
    low_value, high_value, mean, std = torch.stack([low, high, finite.mean(), finite.std(correction=0)]).tolist()
    return Histogram(low_value, high_value, counts.tolist(), mean, std, values.numel() - finite.numel())


def make_histograms(histograms: Mapping[str, Histogram]) -> bytes:
    """Return the file `HISTOGRAMS`."""
    return json.dumps({name: asdict(each) for name, each in histograms.items()}).encode()


def draw_histograms(columns: Sequence[Mapping[str, Histogram]]) -> bytes:
    """Return a PNG with a panel for each histogram, at most 60 in a column; the red line is 0."""
    shown = [[*column.items()][:_MAX_PANELS] for column in columns]
    width, height = _PANEL
    image = Image.new("RGB", (width * len(shown), height * max(1, *map(len, shown))), "white")
    draw = ImageDraw.Draw(image)
    for column, panels in enumerate(shown):
        for row, (name, histogram) in enumerate(panels):
            _draw_panel(draw, column * width + 8, row * height + 4, name, histogram)
    return _png(image)


def _draw_panel(draw: ImageDraw.ImageDraw, left: int, top: int, name: str, histogram: Histogram) -> None:
    width = _PANEL[0] - 16
    fits = width // 6  # letters of the small font
    draw.text((left, top), name if len(name) <= fits else f"...{name[3 - fits :]}", fill=_INK)
    base, counts, highest = top + 16 + _BARS_HEIGHT, histogram.counts, max(1, *histogram.counts)
    for number, count in enumerate(counts):
        x0, x1 = left + width * number // len(counts), left + width * (number + 1) // len(counts) - 1
        if count:
            draw.rectangle((x0, base - max(1, _BARS_HEIGHT * count // highest), max(x0, x1), base), fill=_BAR)
    draw.line((left, base, left + width, base), fill=_INK)
    if histogram.low < 0 < histogram.high:
        zero = left + round(width * -histogram.low / (histogram.high - histogram.low))
        draw.line((zero, base - _BARS_HEIGHT, zero, base + 2), fill=(213, 94, 0))
    ends = f"{histogram.low:.3g}", f"std {histogram.std:.3g}", f"{histogram.high:.3g}"
    for place, text in zip((0.0, 0.5, 1.0), ends, strict=True):
        draw.text((left + round(place * (width - draw.textlength(text))), base + 3), text, fill=_INK)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
