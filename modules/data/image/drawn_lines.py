"""Lines of text drawn on crops of photos, to learn to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.data.sampling.example_random import ExampleRandom

STEP = 4
"""Widths are multiples of it."""
_MARGIN = 3


@dataclass(frozen=True)
class DrawnLines:
    """Draws texts with the scalable font that comes with Pillow, dark on light or light on dark."""

    height: int
    """Pixels of a picture."""
    max_width: int
    """Pixels; a longer line is squeezed into it."""
    font_sizes: tuple[int, ...]
    """Heights of the letters in pixels, of which each picture has one."""

    def draw(self, texts: Sequence[str], photos: Tensor | None, random: ExampleRandom) -> tuple[Tensor, Tensor]:
        """Draw a picture of each text, as wide as it needs.

        Args:
            texts: one line each.
            photos: backgrounds in any scale, float [texts, channels, height, width]; None: of one shade.
            random: size, place, shades and the crop of the photo.

        Returns:
            Pictures from -1 to 1, float [texts, 1, height, width], with 0 behind their width; and the widths, int64 [texts].
        """
        sizes, numbers = random.integers(len(self.font_sizes)).tolist(), random.uniform(8).tolist()
        lines = [
            self._draw_one(text, self.font_sizes[size], None if photos is None else photos[row].numpy(), numbers[row])
            for row, (text, size) in enumerate(zip(texts, sizes, strict=True))
        ]
        widths = torch.tensor([line.shape[1] for line in lines])
        pictures = torch.zeros(len(lines), 1, self.height, int(widths.max()))
        for picture, line in zip(pictures, lines, strict=True):
            picture[0, :, : line.shape[1]] = torch.from_numpy(line)
        return pictures, widths

    def fit(self, photo: Image.Image) -> np.ndarray:
        """Scale a grey picture of a user to the height, float [height, width] from -1 to 1."""
        width = round(photo.width * self.height / photo.height)
        return self._to_float(photo.resize((self._round_up(width), self.height), Image.Resampling.BILINEAR))

    def _draw_one(self, text: str, size: int, photo: np.ndarray | None, numbers: Sequence[float]) -> np.ndarray:
        font = self._fonts[size]
        left, top, right, bottom = font.getbbox(text)
        wide, high = round(right - left), round(bottom - top)
        before, after = (_MARGIN + int(number * 2 * _MARGIN) for number in numbers[:2])
        width = self._round_up(before + wide + after)
        ink = Image.new("L", (width, self.height))
        place = (before - left, numbers[2] * max(0, self.height - high) - top)
        ImageDraw.Draw(ink).text(place, text, fill=255, font=font)
        if width > self.max_width:
            width = self.max_width
            ink = ink.resize((width, self.height), Image.Resampling.BILINEAR)
        is_dark = numbers[3] < 0.5
        paper = self._make_paper(photo, width, numbers[4:7])
        paper = 0.45 + 0.55 * paper if is_dark else 0.55 * paper
        shade = 0.25 * numbers[7]
        cover = np.asarray(ink, np.float32) / 255
        mixed = paper * (1 - cover) + (shade if is_dark else 1 - shade) * cover
        return np.asarray(mixed * 2 - 1, np.float32)

    def _make_paper(self, photo: np.ndarray | None, width: int, numbers: Sequence[float]) -> np.ndarray:
        """A crop of a photo from 0 to 1, stretched to the size of the picture."""
        if photo is None:
            return np.full((self.height, width), numbers[0], np.float32)
        grey = photo.mean(0)
        low, high = float(grey.min()), float(grey.max())
        rows = len(grey)
        band = max(1, rows // 2)
        top = int(numbers[0] * (rows - band + 1))
        part = ((grey[top : top + band] - low) / (high - low or 1) * 255).astype(np.uint8)
        return (
            np.asarray(Image.fromarray(part).resize((width, self.height), Image.Resampling.BILINEAR), np.float32) / 255
        )

    def _round_up(self, width: int) -> int:
        return max(STEP, -(-width // STEP) * STEP)

    def _to_float(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture, np.float32) / 127.5 - 1

    @cached_property
    def _fonts(self) -> dict[int, ImageFont.FreeTypeFont]:
        fonts = {size: ImageFont.load_default(size) for size in self.font_sizes}
        return {size: font for size, font in fonts.items() if isinstance(font, ImageFont.FreeTypeFont)}
